#!/usr/bin/env bash
# Probe scores on int8 features beside float16 ones, on the recordings in $PROBE_SPEECH: int8.sh FOLDER (about ten minutes).
set -euo pipefail
: "${PROBE_SPEECH:?set it to the folder of recordings}"
folder=${1:?name a folder for features and records}
probe() { "${PYTHON:-python}" -m probe --quiet "$@" >/dev/null; }
for dtype in float16 int8; do
  for model in mfcc fbank random:facebook/wav2vec2-base; do
    for corpus in speakers_shared digits_shared connected_shared; do
      [[ $model == random:* && $corpus == connected_shared ]] && continue
      probe extract --model $model --corpus "$PROBE_SPEECH/$corpus.csv" --view frames --dtype $dtype --to "$folder/features-$dtype"
    done
    common=(--model $model --from "$folder/features-$dtype" --to "$folder/results-$dtype")
    probe run speaker-id --corpus "$PROBE_SPEECH/speakers_shared.csv" "${common[@]}"
    probe run word-id --corpus "$PROBE_SPEECH/digits_shared.csv" "${common[@]}"
    [[ $model == random:* ]] && continue
    for seed in 0 1 2; do  # training with CTC depends on its seed
      probe run asr-ctc --seed $seed --corpus "$PROBE_SPEECH/connected_shared.csv" \
        --model $model --from "$folder/features-$dtype" --to "$folder/results-$dtype-seed$seed"
    done
  done
  du -sh "$folder/features-$dtype"
  for results in "$folder/results-$dtype"*; do "${PYTHON:-python}" -m probe table --from "$results"; done
done
