#!/usr/bin/env bash
# Probe scores on bf16 features beside fp32 ones, paired, on the recordings in $PROBE_SPEECH: precision.sh FOLDER [MODEL].
set -euo pipefail
: "${PROBE_SPEECH:?set it to the folder of recordings}"
folder=${1:?name a folder for features and records}
model=${2:-random:facebook/wav2vec2-base}
for precision in fp32 bf16; do
  for pair in speaker-id:speakers_shared word-id:digits_shared; do
    "${PYTHON:-python}" -m probe --quiet bench --model "$model" --task "${pair%%:*}" --corpus "$PROBE_SPEECH/${pair##*:}.csv" \
      --precision $precision --to "$folder/$precision" >/dev/null
  done
done
"${PYTHON:-python}" - "$folder" <<'PYTHON_END'
import sys

import probe

fp32, bf16 = (probe.read_records(f"{sys.argv[1]}/{precision}/results") for precision in ("fp32", "bf16"))
print("| task | layer | fp32 | bf16 | difference, points [95 %] | n | blocks |\n|---|--:|--:|--:|--:|--:|--:|")
key = ["task", "layer", "head", "metric", "split"]
both = fp32[fp32["split"] == "test"].merge(bf16, on=key, suffixes=("", "_bf16"))
for row in both[both["metric"] == "accuracy"].to_dict("records"):
    pair = probe.paired_difference(row["counts_bf16"], row["counts"])
    low, high = (f"{100 * end:+.1f}" if end is not None else "?" for end in (pair.low, pair.high))
    cells = [row["task"], row["layer"], f"{100 * row['value']:.1f}", f"{100 * row['value_bf16']:.1f}"]
    print("| " + " | ".join([*cells, f"{100 * pair.difference:+.1f} [{low}, {high}]", str(row["n"]), str(row["n_blocks"])]) + " |")
PYTHON_END
