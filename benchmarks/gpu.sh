#!/usr/bin/env bash
# Everything that needs a GPU, in about 8 minutes on one of them: the tests of tests/models/test_device.py, then how fast features
# are extracted (beside transformers in bf16, padded batches of 16 sorted by length) and heads are trained.
#
#     benchmarks/gpu.sh FILE.json          # on the GPU
#     benchmarks/gpu.sh FILE.json --dry    # the same steps on the CPU with miniature models, in a minute or two
#
# FILE.json holds the records of the benchmarks and how each step ended; a step that fails or runs out of time does not stop the
# others. The exit code is 1 if any did. PYTHON names the interpreter.
set -uo pipefail
to=$(realpath -m "${1:?name the JSON file to write}")
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ways="padded 16 sorted, bf16;probe bf16, nothing written;probe bf16, meanstd;probe bf16"
if [ "${2:-}" = --dry ]; then
  device=cpu base=random:data2vec-audio-tiny large=random:data2vec-audio-tiny patience=10 disk_blocks=2
  extraction=(--utterances 3 --rounds 2)
  probes=(--only frames --rows 2000 --rounds 1 --tols 1e-2)
  ctc=(--layers 2 --dim 16 --epochs 2 --rounds 1 --utterances 8 --dev 4 --frames 80 --labels 10 --rates 1e-1)
  tests="whisper or memory or heads or probes"
elif [ $# -gt 1 ]; then
  echo "usage: benchmarks/gpu.sh FILE.json [--dry]" >&2
  exit 2
else
  device=cuda base=random:facebook/wav2vec2-base large=random:facebook/wav2vec2-large-robust patience=1 disk_blocks=256
  extraction=(--utterances 400 --rounds 5)
  probes=(--only frames --rounds 3 --tols 1e-4)
  ctc=(--rounds 3)
  tests=""
fi

step() {  # step NAME SECONDS COMMAND...: its output goes to the terminal and to a file; a busy CPU has more patience
  local name=$1 limit=$(($2 * patience)) began=$SECONDS
  shift 2
  echo "== $name" >&2
  timeout "$limit" "$@" 2>&1 | tee "$work/$name.log" >&2
  echo "${PIPESTATUS[0]} $((SECONDS - began))" >"$work/$name.ended"
}

cd "$here/.."
PROBE_TEST_DEVICE=$device step tests 100 "$python" -m pytest -q -p no:cacheprovider tests/models/test_device.py -k "$tests"
for size in base large; do
  step "$size" 110 "$python" benchmarks/extraction.py --device $device --model "${!size}" --ways "$ways" --no-memory \
    "${extraction[@]}" --to "$work/$size.json"
done
step probes 60 "$python" benchmarks/probes.py --device $device --no-memory "${probes[@]}" --to "$work/probes.json"
step ctc 60 "$python" benchmarks/ctc.py --device $device --no-memory "${ctc[@]}" --to "$work/ctc.json"
step disk 30 dd if=/dev/zero of="$work/zeros" bs=4M count=$disk_blocks conv=fdatasync

"$python" - "$work" "$to" <<'PYTHON_END'
import json
import statistics
import sys
from pathlib import Path

work, to = map(Path, sys.argv[1:])
record = {"steps": {}}
for file in sorted(work.glob("*.ended"), key=lambda path: path.stat().st_mtime):
    code, seconds = map(int, file.read_text().split())
    last = file.with_suffix(".log").read_text(errors="replace").strip().splitlines()[-1:]
    record["steps"][file.stem] = {"exit_code": code, "seconds": seconds, "last_line": "".join(last)}
for file in work.glob("*.json"):
    record[file.stem] = json.loads(file.read_text())
for size in ("base", "large"):
    if size not in record:
        continue
    peak = max(value for name, value in record[size]["peak_gflops"].items() if name.startswith("bfloat16"))
    peer = record[size]["seconds"]["padded 16 sorted, bf16"]["wall_s"]
    record[size]["summary"] = {
        way: {
            "x_real_time": record[size]["audio_s"] / statistics.median(taken["wall_s"]),
            "ratio_to_padded": statistics.median(a / b for a, b in zip(peer, taken["wall_s"], strict=True)),
            "tflops": record[size]["gflop"] / statistics.median(taken["wall_s"]) / 1e3,
            "share_of_peak": record[size]["gflop"] / statistics.median(taken["wall_s"]) / peak,
        }
        for way, taken in record[size]["seconds"].items()
    }
    print(f"{size} on {record[size]['device']}: " + "; ".join(
        f"{way} {item['x_real_time']:.0f} x real time, {item['ratio_to_padded']:.2f} x padded, {100 * item['share_of_peak']:.0f} % of the peak"
        for way, item in record[size]["summary"].items()
    ))
to.parent.mkdir(parents=True, exist_ok=True)
to.write_text(json.dumps(record, indent=1) + "\n")
failed = [name for name, item in record["steps"].items() if item["exit_code"]]
print(f"{to}: " + (f"failed: {', '.join(failed)}" if failed else "every step succeeded"))
sys.exit(bool(failed))
PYTHON_END
