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
  [data2vec-audio-nano]=layerprobe/data2vec-audio-nano
  [GE2E]=plugin:encoders:GE2E
  [Silero-VAD]=plugin:encoders:SileroVAD
  [Distill-MOS]=plugin:encoders:DistillMOS
  [whisper-base]=${WHISPER:-openai/whisper-base}
)
names=(fbank mfcc data2vec-audio-nano GE2E Silero-VAD Distill-MOS whisper-base)
[ $# -gt 0 ] && names=("$@")

probe() { "${PYTHON:-python}" -m probe --quiet "$@" >/dev/null; }
# --no-check: `probe check MODEL` is done once, not again for every store.
extract() { probe extract --no-check --model "$model" --corpus "speech/$1.csv" --to features "${@:2}"; }
ask() { probe run "$1" --model "$model" --corpus "speech/$2.csv" --from features --to records "${@:3}"; }
similar() { probe similarity --model "$model" --corpus "speech/$1.csv" --from features --to records "${@:2}"; }

phones=(--labels speech/sentences_phones.csv)
trials=(--trials speech/trials_test.csv --dev-trials speech/trials_dev.csv)
disturbed=(--condition "noise:files=speech/noise/doing_the_dishes.flac@10dB" --condition telephone)
for name in "${names[@]}"; do
  [ -n "${specs[$name]:-}" ] || { echo "unknown name $name; known: ${!specs[*]}" >&2; exit 2; }
  model=$name=${specs[$name]}
  [ "$name" = "${specs[$name]}" ] && model=$name
  date "+%T $name"
  extract sentences_aligned
  ask phone-frames sentences_aligned "${phones[@]}"
  similar sentences_aligned "${phones[@]}" --only all
  extract speakers_shared --view meanstd
  extract speakers_shared --view meanstd --only test "${disturbed[@]}"
  ask tasks/speaker-id.toml speakers_shared --condition clean "${disturbed[@]}"
  ask gender-id speakers_disjoint
  ask speaker-verify speakers_disjoint "${trials[@]}"
  extract digits_crossdomain --limit 80 --view meanstd
  ask tasks/word-id.toml digits_crossdomain --limit 80
  case $name in GE2E | Silero-VAD | Distill-MOS) ;; *)
    extract connected_shared
    ask asr-ctc connected_shared --seeds 1 ;;
  esac
  case $name in fbank | mfcc) continue ;; esac
  model=$name-random=random:${specs[$name]}
  date "+%T $name-random"
  extract sentences_aligned
  ask phone-frames sentences_aligned "${phones[@]}"
  extract speakers_shared --view meanstd
  ask tasks/speaker-id.toml speakers_shared
done
