#!/usr/bin/env bash
# Rebuilds every record in this folder from the recordings in $PROBE_SPEECH, then the tables. FEATURES may name another folder.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${PROBE_SPEECH:?set it to the folder of recordings}"
speech=$PROBE_SPEECH
features=${FEATURES:-features}
probe() { "${PYTHON:-python}" -m probe --quiet "$@"; }
equal() { "${PYTHON:-python}" benchmarks/equality.py --from "$features" --to results/benchmarks "$@"; }

noise="noise:files=$speech/noise/doing_the_dishes.flac"
loud=(--condition "$noise@20dB" --condition "$noise@10dB" --condition "$noise@0dB" --condition telephone)
some=(--condition "$noise@10dB" --condition telephone)

models=(mfcc fbank random:facebook/{wav2vec2-base,data2vec-audio-base,wav2vec2-large-robust,data2vec-audio-large})
for model in "${models[@]}"; do
  pooled() { probe extract --model "$model" --corpus "$speech/$1.csv" --to "$features" --view meanstd "${@:2}"; }
  pooled speakers_shared
  pooled digits_crossdomain
  # Heads are trained on clean audio: under conditions only test rows are heard, by the two large models of fewer conditions.
  voices=("${loud[@]}") words=("${some[@]}")
  [[ $model != *large* ]] || { voices=("${some[@]}") words=(); }
  pooled speakers_shared --split test "${voices[@]}"
  pooled speakers_disjoint --split test "${voices[@]}"
  ((!${#words[@]})) || pooled digits_crossdomain --split test "${words[@]}"
  asked() { probe run "$1" --corpus "$speech/$2.csv" --model "$model" --from "$features" --to results "${@:3}"; }
  asked speaker-id speakers_shared --condition clean "${voices[@]}"
  asked word-id digits_shared --condition clean "${words[@]}"
  asked domain-shift digits_crossdomain
  asked speaker-verify speakers_disjoint --trials "$speech/trials_test.csv" --dev-trials "$speech/trials_dev.csv" \
    --condition clean "${voices[@]}"
  probe similarity --model "$model" --corpus "$speech/speakers_disjoint.csv" --from "$features" --to results --view mean \
    "${voices[@]}" > /dev/null
done

for model in mfcc fbank; do
  probe extract --model "$model" --corpus "$speech/connected_shared.csv" --to "$features"
  probe extract --model "$model" --corpus "$speech/connected_shared.csv" --to "$features" --split test "${some[@]}"
  probe run asr-ctc --model "$model" --corpus "$speech/connected_shared.csv" --from "$features" --to results
  probe run asr-ctc-bilstm --model "$model" --corpus "$speech/connected_shared.csv" --from "$features" --to results \
    --condition clean "${some[@]}"
done

# How far frames move, layer by layer, and how like filter banks they are.
model=random:facebook/wav2vec2-base
for condition in clean "$noise@10dB" telephone; do
  for each in fbank "$model"; do
    probe extract --model "$each" --corpus "$speech/speakers_disjoint.csv" --to "$features" --split test --condition "$condition"
  done
done
for how in "--condition=$noise@10dB --condition=telephone" --against=fbank; do
  # shellcheck disable=SC2086
  probe similarity --model "$model" --corpus "$speech/speakers_disjoint.csv" --from "$features" --to results $how > /dev/null
done

# Our linear probes beside scikit-learn's.
equal --corpus "$speech/speakers_shared.csv" --label speaker --every 3 --model "${models[@]}"
equal --corpus "$speech/digits_shared.csv" --label text --every 3 --model "${models[@]}"

probe table --from results --to results > /dev/null
