"""How fast features are extracted, beside what people write today. One command, several minutes:

    python benchmarks/extraction.py [--model random:facebook/wav2vec2-base] [--utterances 48]
    [--rounds 5] [--device cuda] [--ways "one by one;probe bf16"] [--to FILE]

The peaks of matrix products are measured first. Utterances of 1.5 to 33 s, distributed like
LibriSpeech's dev-clean, hold noise: speed does not depend on what is said. Their order was drawn
once. After a warm-up every way takes its turn in each round, reading wav files and, where it says
so, writing and syncing; a round's ratio is to the first way of the same round. Weights are random:
speed does not depend on them, errors of bf16 do. Peak memory comes from a run of each way in a
process of its own.

    one by one, gzip        transformers, one utterance at a time, every layer, float32 into a gzipped HDF5 dataset each
    one by one              the same, nothing written
    one by one, bf16        ``model.bfloat16()``, nothing written
    padded 8, gzip          transformers in batches of 8 in file order, padded, with attention mask, written as above
    padded 16 sorted, bf16  the usual way on a GPU: sorted by length, bf16, nothing written
    reference               ``--implementation reference``, nothing written: the first way for Whisper, whose input transformers'
                            module does not take in other batches (--ways "reference;probe fp32, nothing written")
    probe fp32, bf16 ...    `probe.extract` as it is, shards written and synced; ``encode`` alone where it says nothing written
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import soundfile
import torch
import torch.nn.functional as F

import probe
from probe.environment import package_versions
from probe.extraction.settings import Running, Storing
from probe.models.encoder import Encoder, device_name, pieces_of
from probe.models.packed.products import Product, can_pack
from probe.models.reference import TransformersEncoder

RATE_HZ = 16_000
SEED = 5


def durations(n: int) -> list[float]:
    """Seconds of ``n`` utterances: log-normal around 5.9 s within 1.5 to 33 s, as dev-clean's are,
    in an order drawn once.
    """
    generator = np.random.default_rng(SEED)
    return [
        round(float(item), 2)
        for item in np.clip(np.exp(generator.normal(np.log(5.9), 0.62, n)), 1.5, 33.0)
    ]


def write_corpus(folder: Path, seconds: Sequence[float]) -> Path:
    """The wav files and their manifest."""
    generator = np.random.default_rng(SEED)
    lines = ["path,text,speaker,domain,split,duration_s"]
    for number, length in enumerate(seconds):
        name = f"{number:03d}.wav"
        soundfile.write(folder / name, generator.normal(0, 0.1, int(length * RATE_HZ)), RATE_HZ)
        lines.append(f"{name},,,,train,{length}")
    manifest = folder / "corpus.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def peaks(device: torch.device) -> dict[str, float]:
    """GFLOP/s of a product of the size of a feed-forward layer, or of one that fills a GPU: through
    ``F.linear`` and, on a CPU, oneDNN's reordered weights.
    """
    found = {}
    n_rows, n_in, n_out = (8192, 8192, 8192) if device.type == "cuda" else (2048, 768, 3072)
    weight = torch.randn(n_out, n_in, device=device)
    for dtype in (torch.float32, torch.bfloat16):
        rows = torch.randn(n_rows, n_in, device=device).to(dtype)
        typed = weight.to(dtype)
        ways: dict[str, Callable[[], Any]] = {
            "linear": lambda rows=rows, typed=typed: F.linear(rows, typed)
        }
        if device.type == "cpu" and can_pack(dtype):
            product = Product(weight, None, dtype)
            ways["oneDNN"] = lambda rows=rows, product=product: product(rows)
        for name, way in ways.items():
            found[f"{str(dtype).removeprefix('torch.')} {name}"] = max(
                2 * n_rows * n_in * n_out / 1e9 / timed(way, device) for _ in range(20)
            )
    return found


def flops(model: Any, n_samples: int) -> float:
    """Multiplications and additions of transformers' forward pass over one utterance, counted from
    the shapes of the weights.
    """
    config, total, length = model.config, 0.0, n_samples
    if config.model_type == "whisper":  # 30 s, whatever is in them
        dim, length = config.d_model, config.max_source_positions
        total = 2.0 * 3 * length * dim * (2 * config.num_mel_bins + dim)
        return total + config.encoder_layers * block_flops(length, dim, config.encoder_ffn_dim)
    before = 1
    for width, kernel, stride in zip(
        config.conv_dim, config.conv_kernel, config.conv_stride, strict=True
    ):
        length = (length - kernel) // stride + 1
        total += 2.0 * length * width * kernel * before
        before = width
    dim = config.hidden_size
    total += 2.0 * length * before * dim
    for module in model.encoder.pos_conv_embed.modules():
        if isinstance(module, torch.nn.Conv1d):
            total += 2.0 * length * dim * module.in_channels / module.groups * module.kernel_size[0]
    return total + config.num_hidden_layers * block_flops(length, dim, config.intermediate_size)


def block_flops(length: int, dim: int, inner: int) -> float:
    """The same of one transformer block over ``length`` frames."""
    return 2.0 * length * (4 * dim * dim + 2 * dim * inner) + 4.0 * length * length * dim


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


class Ways:
    """What is compared: name -> a function that does the whole corpus once."""

    def __init__(self, name: str, device: str, manifest: Path, folder: Path) -> None:
        self.name, self.device, self.folder = name, torch.device(device), folder
        self.manifest = manifest
        self.paths = sorted(manifest.parent.glob("*.wav"))
        self.reference = probe.open_model(name, device, implementation="reference")
        assert isinstance(self.reference, TransformersEncoder)
        self.model = self.reference.model
        self._halved: Any = None
        self._packed: dict[str, Any] = {}
        self.all: dict[str, Callable[[], Any]] = {
            "one by one, gzip": lambda: self.by_transformers(1, torch.float32, writing=True),
            "one by one": lambda: self.by_transformers(1, torch.float32),
            "one by one, bf16": lambda: self.by_transformers(1, torch.bfloat16),
            "padded 8, gzip": lambda: self.by_transformers(8, torch.float32, writing=True),
            "reference": lambda: self.encode(self.reference),
            "padded 16 sorted, bf16": lambda: self.by_transformers(
                16, torch.bfloat16, in_order=False
            ),
        }
        for precision in (
            ("fp32", "bf16") if self.device.type == "cpu" else ("fp32", "tf32", "bf16")
        ):
            self.all[f"probe {precision}"] = lambda precision=precision: self.by_probe(
                precision, "frames"
            )
            self.all[f"probe {precision}, meanstd"] = lambda precision=precision: self.by_probe(
                precision, "meanstd"
            )
            self.all[f"probe {precision}, nothing written"] = lambda precision=precision: (
                self.encode(self.packed(precision))
            )

    def packed(self, precision: str) -> Any:
        """Our encoder."""
        if precision not in self._packed:
            self._packed[precision] = probe.open_model(
                self.name, str(self.device), precision=precision
            )
        return self._packed[precision]

    def waves(self) -> Iterator[torch.Tensor]:
        """Each file's samples, normalised as the preprocessor does."""
        for path in self.paths:
            samples, _ = soundfile.read(path, dtype="float32")
            wave = torch.from_numpy(samples)
            yield (
                (wave - wave.mean()) / (wave.var(correction=0) + 1e-7).sqrt()
                if self.reference.info.normalize
                else wave
            )

    @torch.inference_mode()
    def by_transformers(
        self, size: int, dtype: torch.dtype, writing: bool = False, in_order: bool = True
    ) -> None:
        """Padded batches of ``size`` through transformers' module."""
        model = self.model
        if dtype != torch.float32:
            if self._halved is None:
                other = probe.open_model(self.name, str(self.device), implementation="reference")
                self._halved = other.model.bfloat16()  # type: ignore[attr-defined]
            model = self._halved
        waves = list(self.waves())
        order = (
            range(len(waves))
            if in_order
            else sorted(range(len(waves)), key=lambda i: len(waves[i]))
        )
        with h5py.File(self.folder / "usual.h5", "w") as file:
            for start in range(0, len(waves), size):
                chosen = list(order)[start : start + size]
                batch = torch.nn.utils.rnn.pad_sequence(
                    [waves[i] for i in chosen], batch_first=True
                ).to(self.device, dtype)
                mask = torch.nn.utils.rnn.pad_sequence(
                    [torch.ones(len(waves[i]), dtype=torch.long) for i in chosen], batch_first=True
                )
                states = model(
                    batch,
                    attention_mask=mask.to(self.device) if size > 1 else None,
                    output_hidden_states=True,
                ).hidden_states
                for row, i in enumerate(chosen):
                    n_frames = self.reference.info.n_frames(len(waves[i]))
                    for layer, frames in enumerate(states):
                        values = frames[row, :n_frames].float().cpu().numpy()
                        if writing:
                            file.create_dataset(f"{i}/{layer}", data=values, compression="gzip")

    def by_probe(self, precision: str, view: str) -> None:
        """`probe.extract` into a new store."""
        shutil.rmtree(self.folder / "features", ignore_errors=True)
        probe.extract(
            self.packed(precision),
            self.manifest,
            self.folder / "features",
            storing=Storing(view=view),
            running=Running(check=False),
        )

    def encode(self, encoder: Encoder) -> None:
        """The forward pass alone."""
        waves = [
            torch.from_numpy(soundfile.read(path, dtype="float32")[0]).to(self.device)
            for path in self.paths
        ]
        for _ in pieces_of(encoder, waves, list(encoder.info.layers)):
            pass

    def errors(self, precision: str, n: int = 6) -> dict[str, float]:
        """Largest relative L2 error of any layer against transformers alone, and of an utterance in
        company against itself alone.
        """
        encoder = self.packed(precision)
        waves = [
            torch.from_numpy(soundfile.read(path, dtype="float32")[0]).to(self.device)
            for path in self.paths[:n]
        ]
        layers = list(encoder.info.layers)
        together, offsets = encoder.encode_packed(waves, layers)
        worst = {"against transformers": 0.0, "in company": 0.0}
        for i, wave in enumerate(waves):
            expected = self.reference.by_transformers(wave)
            alone, _ = encoder.encode_packed([wave], layers)
            for layer, packed, single in zip(layers, together, alone, strict=True):
                rows = packed[int(offsets[i]) : int(offsets[i + 1])]
                norm = float(expected[layer].norm())
                worst["against transformers"] = max(
                    worst["against transformers"], float((single - expected[layer]).norm()) / norm
                )
                worst["in company"] = max(worst["in company"], float((rows - single).norm()) / norm)
        return worst


def measure(ways: Ways, names: Sequence[str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Wall and CPU seconds of every way in every round, after a warm-up."""
    for name in names:
        ways.all[name]()
    found: dict[str, dict[str, list[float]]] = {name: {"wall_s": [], "cpu_s": []} for name in names}
    for number in range(rounds):
        for name in names:
            cpu = time.process_time()
            found[name]["wall_s"].append(timed(ways.all[name], ways.device))
            found[name]["cpu_s"].append(time.process_time() - cpu)
        print(f"round {number + 1} of {rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return found


def peak_mb(arguments: Sequence[str], name: str) -> float:
    """Peak resident memory of one run in a process of its own, beyond what it had when the model
    was open.
    """
    line = [sys.executable, __file__, *arguments, "--only", name]
    return float(
        subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()[-1]
    )


def resident_mb(field: str) -> float:
    """A line of /proc/self/status."""
    return next(
        int(line.split()[1]) / 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field)
    )


def spread(values: Sequence[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} - {max(values):.2f})"


def main() -> None:
    """Measures, prints a table, writes a record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="random:facebook/wav2vec2-base")
    parser.add_argument("--utterances", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ways", help="Names joined by ;. All where left out.")
    parser.add_argument("--no-memory", action="store_true", help="Do not measure peak memory.")
    parser.add_argument("--to", type=Path, help="Also write a JSON record here.")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    seconds = durations(chosen.utterances)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "audio").mkdir()
        manifest = write_corpus(folder / "audio", seconds)
        ways = Ways(chosen.model, chosen.device, manifest, folder)
        if chosen.only:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            before = resident_mb("VmRSS")
            ways.all[chosen.only]()
            print(resident_mb("VmHWM") - before)
            return
        names = chosen.ways.split(";") if chosen.ways else list(ways.all)
        peak = peaks(ways.device)
        work = sum(flops(ways.model, int(item * RATE_HZ)) for item in seconds) / 1e9
        found = measure(ways, names, chosen.rounds)
        errors = {precision: ways.errors(precision) for precision in ways._packed}
    arguments = [
        "--model",
        chosen.model,
        "--utterances",
        str(chosen.utterances),
        *("--device", chosen.device),
    ]
    memory = {} if chosen.no_memory else {name: peak_mb(arguments, name) for name in names}
    record = {
        "benchmark": "extraction",
        "model": chosen.model,
        "utterances": len(seconds),
        "audio_s": round(sum(seconds), 1),
        "gflop": round(work, 1),
        "device": device_name(ways.device),
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "packages": package_versions(),
        "load": os.getloadavg()[0],
        "peak_gflops": {name: round(value, 1) for name, value in peak.items()},
        "seconds": found,
        "peak_mb": memory,
        "errors": errors,
        "not runnable": {"s3prl": "does not import with today's torchaudio"},
    }
    report(record, names)
    if chosen.to:
        chosen.to.parent.mkdir(parents=True, exist_ok=True)
        chosen.to.write_text(json.dumps(record, indent=1) + "\n")


def report(record: dict[str, Any], names: Sequence[str]) -> None:
    """Prints what was measured."""
    audio_s, found, peak = record["audio_s"], record["seconds"], record["peak_gflops"]
    print(
        f"{record['model']}, {record['utterances']} utterances, {audio_s} s of audio, {record['gflop']} GFLOP; {record['device']}, ",
        end="",
    )
    print(f"{record['threads']} threads, load {record['load']:.1f} at the end")
    print(
        "peaks, GFLOP/s: " + ", ".join(f"{name} {value:.0f}" for name, value in peak.items()) + "\n"
    )
    print(
        "| | x real time | wall ratio | CPU ratio | share of peak | MB |\n|---|--:|--:|--:|--:|--:|"
    )
    first = found[names[0]]
    for name in names:
        wall, cpu = found[name]["wall_s"], found[name]["cpu_s"]
        ratio = [one / other for one, other in zip(first["wall_s"], wall, strict=True)]
        cpu_ratio = [one / other for one, other in zip(first["cpu_s"], cpu, strict=True)]
        best = max(
            value
            for key, value in peak.items()
            if key.startswith("bfloat16" if "bf16" in name else "float32")
        )
        share = [100 * record["gflop"] / item / best for item in wall]
        speed = spread([audio_s / item for item in wall])
        cells = [
            speed,
            spread(ratio),
            spread(cpu_ratio),
            f"{statistics.median(share):.0f} %",
            f"{record['peak_mb'][name]:.0f}" if record["peak_mb"] else "",
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    print()
    for precision, errors in record["errors"].items():
        print(
            f"{precision}: largest relative L2 error "
            + ", ".join(f"{name} {value:.2g}" for name, value in errors.items())
        )


if __name__ == "__main__":
    main()
