#!/usr/bin/env bash
# Rebuilds every record in this folder from the recordings in $PROBE_SPEECH, then the tables. FEATURES may name another folder.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${PROBE_SPEECH:?set it to the folder of recordings}"
speech=$PROBE_SPEECH
features=${FEATURES:-features}
probe() { "${PYTHON:-python}" -m probe --quiet "$@"; }
equal() { "${PYTHON:-python}" benchmarks/equality.py --from "$features" --to results/benchmarks "$@"; }

models=(mfcc fbank random:facebook/{wav2vec2-base,wav2vec2-large-robust,data2vec-audio-base,data2vec-audio-large})
for model in "${models[@]}"; do
  for corpus in speakers_shared digits_crossdomain; do
    probe extract --model "$model" --corpus "$speech/$corpus.csv" --to "$features" --view meanstd
  done
  common=(--model "$model" --from "$features" --to results)
  probe run speaker-id --corpus "$speech/speakers_shared.csv" "${common[@]}"
  probe run word-id --corpus "$speech/digits_shared.csv" "${common[@]}"
  probe run domain-shift --corpus "$speech/digits_crossdomain.csv" "${common[@]}"
  probe run speaker-verify --corpus "$speech/speakers_disjoint.csv" "${common[@]}" \
    --trials "$speech/trials_test.csv" --dev-trials "$speech/trials_dev.csv"
done

for model in mfcc fbank; do
  probe extract --model "$model" --corpus "$speech/connected_shared.csv" --to "$features"
  for task in asr-ctc asr-ctc-bilstm; do
    probe run "$task" --model "$model" --corpus "$speech/connected_shared.csv" --from "$features" --to results
  done
done

# Our linear probes beside scikit-learn's.
equal --corpus "$speech/speakers_shared.csv" --label speaker --every 3 --model "${models[@]}"
equal --corpus "$speech/digits_shared.csv" --label text --every 3 --model "${models[@]}"

probe table --from results --to results > /dev/null
