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
    [[ $model == random:* ]] || probe run asr-ctc --corpus "$PROBE_SPEECH/connected_shared.csv" "${common[@]}"
  done
  du -sh "$folder/features-$dtype"
  "${PYTHON:-python}" -m probe table --from "$folder/results-$dtype"
done
