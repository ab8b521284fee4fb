#!/usr/bin/env bash
# Rebuilds every record in this folder from the recordings in $PROBE_SPEECH, then the tables. FEATURES may name another folder.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${PROBE_SPEECH:?set it to the folder of recordings}"
speech=$PROBE_SPEECH
features=${FEATURES:-features}
probe() { "${PYTHON:-python}" -m probe --quiet "$@"; }
equal() { "${PYTHON:-python}" benchmarks/equality.py --from "$features" --to results/benchmarks "$@"; }
extract() { probe extract --model "$model" --corpus "$speech/$1.csv" --to "$features" "${@:2}"; }
ask() { probe run "$1" --corpus "$speech/$2.csv" --model "$model" --from "$features" --to results "${@:3}"; }
verify() { ask "$1" speakers_disjoint --trials "$speech/trials_test.csv" --dev-trials "$speech/trials_dev.csv" "${@:2}"; }
moved() { probe similarity --model "$model" --corpus "$speech/speakers_disjoint.csv" --from "$features" --to results --in-sample "$@" >/dev/null; }

noise="noise:files=$speech/noise/doing_the_dishes.flac"
loud=(--condition "$noise@20dB" --condition "$noise@10dB" --condition "$noise@0dB" --condition telephone)
some=(--condition "$noise@10dB" --condition telephone)
trained=(--condition clean --condition noise:pink@10dB --condition telephone)
models=(mfcc fbank random:facebook/{wav2vec2-base,data2vec-audio-base,wav2vec2-large-robust,data2vec-audio-large})

# Pooled features. Heads are trained on clean audio, so under conditions only test rows are heard.
for model in "${models[@]}"; do
  extract speakers_shared --view meanstd
  extract digits_crossdomain --view meanstd
  extract speakers_shared --view meanstd --split test "${loud[@]}"
  extract speakers_disjoint --view meanstd --split test "${loud[@]}"
  extract digits_crossdomain --view meanstd --split test "${some[@]}"
  ask speaker-id speakers_shared --condition clean "${loud[@]}"
  ask word-id digits_shared --condition clean "${some[@]}"
  ask domain-shift digits_crossdomain
  verify speaker-verify --condition clean "${loud[@]}"
  moved --view mean "${loud[@]}"
done

# Strings of digits, on frames. The four architectures on few strings and three layers: two cores do not train more in reasonable time.
for model in "${models[@]}"; do
  case $model in
    *base) few=(--limit 150 --layers 0,6,final) ;;
    *large*) few=(--limit 150 --layers 0,12,final) ;;
    *) few=() ;;
  esac
  extract connected_shared "${few[@]}"
  extract connected_shared "${few[@]}" --split test "${some[@]}"
  ask results/tasks/strings-small.toml connected_shared --limit 150 --condition clean "${some[@]}"
done
for model in mfcc fbank; do
  ask asr-ctc connected_shared
  ask asr-ctc-bilstm connected_shared --condition clean "${some[@]}"
done

# Training under conditions, and what is left of them in a layer.
for model in mfcc fbank random:facebook/wav2vec2-base; do
  extract digits_shared --view meanstd "${trained[@]}"
  ask condition-id digits_shared
done
for model in mfcc fbank; do
  ask condition-shift digits_shared
done

# Trained speaker embeddings.
for model in mfcc fbank; do
  extract speakers_disjoint
  verify speaker-verify-amsoftmax
  verify results/tasks/xvector-small.toml
done

# How far frames move, layer by layer, and how like filter banks they are.
for model in fbank random:facebook/wav2vec2-base; do
  extract speakers_disjoint --split test --condition clean "${some[@]}"
done
moved "${some[@]}"
moved --against fbank

# Our linear probes beside scikit-learn's.
equal --corpus "$speech/speakers_shared.csv" --label speaker --every 3 --model "${models[@]}"
equal --corpus "$speech/digits_shared.csv" --label text --every 3 --model "${models[@]}"

PYTHONPATH=. "${PYTHON:-python}" results/make_tables.py
