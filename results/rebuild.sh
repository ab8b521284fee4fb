#!/usr/bin/env bash
# Extract the features of the encoders that are named (all by default) and write their records.
#
#     PROBE_SPEECH=/path/to/recordings results/rebuild.sh [NAME...]
#
# WORK receives the features (default: work), WHISPER is openai/whisper-base or the folder that
# recipes/encoders/whisper_base.py wrote. What is finished is kept; call it again to go on.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
: "${PROBE_SPEECH:?set it to the folder of recordings}"
speech=$(realpath "$PROBE_SPEECH")
work=${WORK:-$root/work}
mkdir -p "$work/records"
cd "$work"
ln -sfn "$speech" speech  # links, so that records name no folder of this machine
ln -sfn "$root/results/tasks" tasks
export PYTHONPATH=$root/recipes/encoders${PYTHONPATH:+:$PYTHONPATH}
declare -A specs=(
  [fbank]=fbank
  [mfcc]=mfcc
  [whisper-base]=${WHISPER:-openai/whisper-base}
  [data2vec-audio-nano]=${NANO:-layerprobe/data2vec-audio-nano}
  [GE2E]=plugin:encoders:GE2E
  [Distill-MOS]=plugin:encoders:DistillMOS
  [Silero-VAD]=plugin:encoders:SileroVAD
)
names=("${!specs[@]}")
names+=(data2vec-audio-nano-random)
specs[data2vec-audio-nano-random]=random:${specs[data2vec-audio-nano]}

probe() { "${PYTHON:-python}" -m probe --quiet "$@" >/dev/null; }
# --no-check: `probe check MODEL` is done once, not again for every store.
extract() { probe extract --no-check --model "$model" --corpus "speech/$1.csv" --to features "${@:2}"; }
ask() { probe run "$1" --model "$model" --corpus "speech/$2.csv" --from features --to records "${@:3}"; }

disturbed=(--condition "noise:files=speech/noise/doing_the_dishes.flac@10dB" --condition telephone)
[ $# -gt 0 ] && names=("$@")
for name in "${names[@]}"; do
  model=$name=${specs[$name]}
  [ "$name" = "${specs[$name]}" ] && model=$name
  date "+%T $name"
  extract sentences_aligned
  ask phone-frames sentences_aligned --labels speech/sentences_phones.csv
  extract speakers_shared --view meanstd
  case $name in *-random) ask tasks/speaker-id.toml speakers_shared; continue ;; esac
  ask gender-id speakers_disjoint
  ask speaker-verify speakers_disjoint --trials speech/trials_test.csv --dev-trials speech/trials_dev.csv
  extract speakers_shared --view meanstd --only test "${disturbed[@]}"
  ask tasks/speaker-id.toml speakers_shared --condition clean "${disturbed[@]}"
  # Whisper reads 30 s, and Distill-MOS 7.68 s, for every digit: half an hour on two cores.
  case $name in whisper-base | Distill-MOS) continue ;; esac
  extract digits_crossdomain --limit 80 --view meanstd
  ask tasks/word-id.toml digits_crossdomain --limit 80
done
