"""CTC heads on every layer: trained together against one at a time with ``F.ctc_loss``, the way
`probe.CTCProbe` does.

    python benchmarks/ctc.py [--head linear|mlp|bilstm] [--layers 13] [--dim 768] [--utterances 64]
    [--epochs 4] [--rounds 3] [--device cuda] [--to record.json]
    python benchmarks/ctc.py --head bilstm --rates 3e-3 [--hidden 128]
    [--lstm-layers 1] python benchmarks/ctc.py --step --rates 3e-3 [--hidden 128] [--frames 150]
    [--to record.json]

Frames are planted: every character is a direction of its own for a few frames, in noise that
differs from layer to layer. Rounds of both ways are interleaved; the ratio is the median of the
rounds' ratios. Peak memory is that of each way in a process of its own. ``--loss`` measures the
loss with its gradient alone, on one batch of random logits.

``--step`` measures loss and gradients of one batch of BiLSTM heads: together
(`probe.heads.ctc.stacked`), one at a time (`torch.nn.LSTM`), and one at a time under bfloat16
autocast.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from probe.environment import package_versions
from probe.heads.ctc.all_layers import fit_layers
from probe.heads.ctc.ctc_probe import CTCProbe, CTCTraining
from probe.heads.ctc.loss import Scratch, Targets, loss_and_gradient
from probe.heads.ctc.modules import CTCHead, HeadSettings
from probe.heads.ctc.stacked import stacked_logits
from probe.models.encoder import device_name

Problem = tuple[list[tuple[str, list[np.ndarray], list[np.ndarray]]], list[str], list[str]]
SYMBOLS = " abcdefghijklmnopqrstuvwxyz'."


def planted(options: argparse.Namespace) -> Problem:
    """Layers of (frame, dim) float16 utterances, the transcripts of train and of dev."""
    generator = np.random.default_rng(0)
    n_train, n_dev = options.utterances, options.dev
    texts, aligned = [], []
    for _ in range(n_train + n_dev):
        symbols = generator.integers(1, len(SYMBOLS), size=options.labels)
        texts.append("".join(SYMBOLS[i] for i in symbols))
        n_frames = int(options.frames * generator.uniform(0.8, 1))
        where = np.sort(generator.choice(n_frames // 2, size=options.labels, replace=False)) * 2
        symbol_of = np.full(n_frames, len(SYMBOLS))
        symbol_of[where] = symbol_of[where + 1] = symbols
        aligned.append(symbol_of)
    layers = []
    for layer in range(options.layers):
        codes = generator.standard_normal((len(SYMBOLS) + 1, options.dim))
        noise = 1 + 0.3 * layer
        frames = [
            (codes[rows] + noise * generator.standard_normal((len(rows), options.dim))).astype(
                np.float16
            )
            for rows in aligned
        ]
        layers.append((str(layer), frames[:n_train], frames[n_train:]))
    return layers, texts[:n_train], texts[n_train:]


def together(options: argparse.Namespace, problem: Problem, stamp: Callable[[], None]) -> list[Any]:
    return [
        probe.search_
        for _, probe in fit_layers(
            lambda: new_probe(options), *problem, on_progress=lambda n, _: None if n else stamp()
        )
    ]


def one_at_a_time(
    options: argparse.Namespace, problem: Problem, stamp: Callable[[], None]
) -> list[Any]:
    layers, texts, dev_texts = problem

    def on_progress(_n: int, _spared: int) -> None:
        stamp()

    return [
        new_probe(options).fit(frames, texts, dev, dev_texts, on_progress).search_
        for _, frames, dev in layers
    ]


def new_probe(options: argparse.Namespace) -> CTCProbe:
    return CTCProbe(
        HeadSettings(options.head, hidden=options.hidden, n_layers=options.lstm_layers),
        CTCTraining(options.rates, epochs=options.epochs, batch_size=options.batch),
        device=options.device,
    )


WAYS: dict[str, Callable[..., list[Any]]] = {"together": together, "one at a time": one_at_a_time}


def peak_bytes(way: str, options: argparse.Namespace) -> tuple[int, int]:
    """Resident bytes before training, with the frames in memory, and at most until its end. Linux
    only.
    """
    problem = planted(options)
    before = resident_bytes("VmRSS")
    WAYS[way](options, problem, lambda: None)
    return before, resident_bytes("VmHWM")


def resident_bytes(what: str) -> int:
    """Of this process; ``ru_maxrss`` would start from the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(what)))


def losses(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Ways to the loss and the gradient of one batch."""
    generator = torch.Generator().manual_seed(0)
    n_problems, n_symbols = options.layers * len(options.rates), len(SYMBOLS) + 1
    logits = 1.5 * torch.randn(
        options.batch, options.frames, n_problems, n_symbols, generator=generator
    )
    labels = [
        torch.randint(1, n_symbols, (options.labels,), generator=generator)
        for _ in range(options.batch)
    ]
    lengths, n_labels = (
        torch.full((options.batch,), options.frames),
        torch.full((options.batch,), options.labels),
    )
    alone = logits.permute(2, 1, 0, 3).contiguous()
    scratch = Scratch()

    def with_torch() -> None:
        for values in alone:
            values = values.requires_grad_()
            F.ctc_loss(
                values.log_softmax(2), torch.cat(labels), lengths, n_labels, reduction="sum"
            ).backward()

    return {
        "together": lambda: loss_and_gradient(
            logits, Targets.of(labels, lengths, n_symbols, logits), scratch
        ),
        "one at a time": with_torch,
    }


def steps(options: argparse.Namespace) -> dict[str, Callable[[], list[Tensor]]]:
    """Ways to the gradients of one batch for BiLSTM heads of all layers and learning rates; each
    returns those of the projections.
    """
    torch.manual_seed(0)
    n_heads, n_symbols = options.layers * len(options.rates), len(SYMBOLS) + 1
    frames = [
        torch.randn(options.batch, options.frames, options.dim) for _ in range(options.layers)
    ]
    labels = [torch.randint(1, n_symbols, (options.labels,)) for _ in range(options.batch)]
    lengths, n_labels = (
        torch.full((options.batch,), options.frames),
        torch.full((options.batch,), options.labels),
    )
    settings = HeadSettings(
        "bilstm", hidden=options.hidden, n_layers=options.lstm_layers, dropout=0.0
    )
    heads = [CTCHead(settings, options.dim, n_symbols) for _ in range(n_heads)]
    by_layer = [
        heads[first : first + len(options.rates)] for first in range(0, n_heads, len(options.rates))
    ]
    weights = [torch.func.stack_module_state(some)[0] for some in by_layer]
    scratch = Scratch()

    def gradients(work: Callable[[], None]) -> Callable[[], list[Tensor]]:
        def step() -> list[Tensor]:
            for head in heads:
                head.zero_grad(set_to_none=True)
            work()
            return [
                head.projection.weight.grad
                for head in heads
                if head.projection.weight.grad is not None
            ]

        return step

    def one_by_one() -> None:
        for number, head in enumerate(heads):
            logits = head(frames[number // len(options.rates)], lengths).float()
            F.ctc_loss(
                logits.log_softmax(2).transpose(0, 1),
                torch.cat(labels),
                lengths,
                n_labels,
                reduction="sum",
            ).backward()

    def in_bfloat16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            one_by_one()

    def together() -> list[Tensor]:
        for own in weights:
            for value in own.values():
                value.grad = None
        logits = torch.cat(stacked_logits(settings, weights, frames, lengths, True, scratch), dim=2)
        _, gradient = loss_and_gradient(
            logits.detach(), Targets.of(labels, lengths, n_symbols, logits), scratch
        )
        logits.backward(gradient)
        found = [own["projection.weight"].grad for own in weights]
        return [gradient for stack in found if stack is not None for gradient in stack]

    return {
        "together": together,
        "one at a time": gradients(one_by_one),
        "bf16": gradients(in_bfloat16),
    }


def peak_of_step(way: str, options: argparse.Namespace) -> int:
    """Resident bytes at most, with weights and frames. Linux only."""
    steps(options)[way]()
    return resident_bytes("VmHWM")


def measure_steps(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every round, peak memory in a process of its own, and the largest deviation from
    heads trained one at a time.
    """
    ways = steps(options)
    expected = ways["one at a time"]()
    record: dict[str, Any] = {
        "options": vars(options),
        "threads": torch.get_num_threads(),
        "packages": package_versions(),
    }
    record["deviation"] = {
        name: max(float((a - b).norm() / b.norm()) for a, b in zip(work(), expected, strict=True))
        for name, work in ways.items()
    }
    record["seconds"] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, work in ways.items():
            start = time.perf_counter()
            work()
            record["seconds"][name].append(time.perf_counter() - start)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        record["peak_bytes"] = {name: pool.apply(peak_of_step, (name, options)) for name in ways}
    return record


def report_steps(record: dict[str, Any]) -> None:
    """Prints medians, the ratio to heads trained one at a time, and peak memory."""
    print(
        "| way | median s | one at a time / way | peak MiB | gradients differ by |\n|---|---|---|---|---|"
    )
    for name, seconds in record["seconds"].items():
        ratio = statistics.median(
            b / a for a, b in zip(seconds, record["seconds"]["one at a time"], strict=True)
        )
        peak = record["peak_bytes"][name] / 2**20
        print(
            f"| {name} | {statistics.median(seconds):.3f} | {ratio:.2f} | {peak:.0f} | {record['deviation'][name]:.1e} |"
        )


def write(record: dict[str, Any], path: Path | None) -> None:
    """Writes a record as JSON, if a file is named."""
    if path:
        path.write_text(json.dumps(record, indent=1, default=str) + "\n")


def compare(seconds: dict[str, list[float]]) -> None:
    """Prints medians of interleaved rounds, and the ratio of the second way to the first."""
    print("| way | median s | all rounds, s |\n|---|---|---|")
    for way, values in seconds.items():
        print(
            f"| {way} | {statistics.median(values):.3f} | {', '.join(f'{value:.3f}' for value in values)} |"
        )
    ratios = sorted(slow / fast for fast, slow in zip(*seconds.values(), strict=True))
    print(
        f"\nratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} rounds)\n"
    )


def trained(
    way: str, options: argparse.Namespace, problem: Problem
) -> tuple[list[Any], float, float]:
    """Searches, seconds for all, and seconds for one epoch of every head after the first, which
    pays for what is done once.
    """
    stamps: list[float] = []
    start = time.perf_counter()
    found = WAYS[way](options, problem, lambda: stamps.append(time.perf_counter()))
    end = time.perf_counter()
    by_run = np.array(stamps).reshape(-1, options.epochs)
    return found, end - start, float((by_run[:, -1] - by_run[:, 0]).sum()) / (options.epochs - 1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in {
        "layers": 13,
        "dim": 768,
        "utterances": 64,
        "dev": 16,
        "frames": 150,
        "labels": 25,
        "batch": 16,
        "epochs": 4,
        "rounds": 3,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-1, 1e-1, 5e-2, 2e-2])
    parser.add_argument("--loss", action="store_true", help="the loss alone")
    parser.add_argument("--head", choices=["linear", "mlp", "bilstm"], default="linear")
    parser.add_argument("--hidden", type=int, default=128, help="units of a BiLSTM")
    parser.add_argument(
        "--lstm-layers", type=int, default=1, choices=[1, 2], help="layers of a BiLSTM"
    )
    parser.add_argument("--step", action="store_true", help="one step of BiLSTM heads")
    parser.add_argument("--device", default="cpu", help="where heads are trained (not --step)")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--to", type=Path, help="file of a JSON record")
    options = parser.parse_args(arguments)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; {vars(options)}\n")
    if options.step:
        record = measure_steps(options)
        report_steps(record)
        write(record, options.to)
        return
    whole: dict[str, list[float]] = {way: [] for way in WAYS}
    if options.loss:
        ways = losses(options)
        for _ in range(options.rounds):
            for way, work in ways.items():
                start = time.perf_counter()
                work()
                whole[way].append(time.perf_counter() - start)
        compare(whole)
        return
    problem = planted(options)
    epoch: dict[str, list[float]] = {way: [] for way in WAYS}
    found: dict[str, list[Any]] = {}
    for _ in range(options.rounds):
        for way in WAYS:
            found[way], seconds, epoch_s = trained(way, options, problem)
            whole[way].append(seconds)
            epoch[way].append(epoch_s)
    print("Everything:\n")
    compare(whole)
    print("An epoch: steps on train, loss and character errors on dev:\n")
    compare(epoch)
    equal = sum(a == b for a, b in zip(*found.values(), strict=True))
    differ = max(
        abs(a["dev_cer"] - b["dev_cer"])
        for one, other in zip(*found.values(), strict=True)
        for a, b in zip(one, other, strict=True)
    )
    print(
        f"equal searches: {equal} of {options.layers} layers; dev CER differs by {differ:.4f} at most"
    )
    record = {
        "benchmark": "ctc",
        "options": vars(options),
        "device": device_name(torch.device(options.device)),
        "packages": package_versions(),
        "seconds": whole,
        "epoch_seconds": epoch,
        "equal_searches": equal,
        "largest_difference_of_dev_cer": differ,
    }
    write(record, options.to)
    context = multiprocessing.get_context("spawn")
    for way in () if options.no_memory else WAYS:
        with context.Pool(1) as pool:
            before, peak = pool.apply(peak_bytes, (way, options))
        print(
            f"peak memory, {way}: {peak / 2**20:.0f} MiB, of which {before / 2**20:.0f} before training"
        )


if __name__ == "__main__":
    main()
