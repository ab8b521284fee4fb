"""How often intervals hold the truth: simulated corpora of speakers, with
`probe.measures.uncertainty` as it is.

    python benchmarks/coverage.py [--simulations 2000] [--method speakers|percentile] [--jobs 1]
    [--only accuracy ...] [--blocks 12,40]
    python benchmarks/coverage.py --sets|--comparisons [--simulations 2000]

Prints Markdown: one row per score, one column per number of blocks (speakers): how often the
interval held the truth, in percent, and its median width in points; in parentheses how often the
interval lay below the truth, how often above it, and how often there was none. Then the same for
the difference of two equally good models on the same utterances. ``--sets`` prints how often the
model confidence set leaves out one of several equally good models, and one that is worse;
``--comparisons`` how often `probe compare` calls any of several scores of equally good models
better or worse, and how often it would without Holm's procedure. The Monte Carlo error of 95 % of n
simulations is sqrt(0.95 * 0.05 / n), 0.5 points of 2,000. The same corpora are drawn every time, so
two versions are compared by running this file with each of them:
``PYTHONPATH=OTHER_CHECKOUT python benchmarks/coverage.py``.

The corpora, drawn anew each time; the truth is that of infinitely many speakers. Of every kind of
score there are two families of generators:

* utterances of a speaker: log-normal around 20 (of trials: around 8), sigma 0.5 (``--sigma``), at
  least 1 (2), whatever the speaker's score;
* accuracy: a speaker's is Beta(8p, 8 - 8p), its mean p 0.8, 0.95 or 0.99; or logit-normal with
  standard deviation 1.0, 1.2 and 1.2 on the logit scale and the same means;
* WER: 1 + Poisson(8) words an utterance; a speaker's rate is log-normal with sigma 0.6, or Gamma
  with shape 3, its mean 0.15; an utterance's errors are Poisson, its own rate Gamma distributed
  around the speaker's (shape 2);
* EER: up to 10 target pairs a speaker, drawn from all, and as many non-target pairs of utterances
  of two speakers. A score is normal: a shift of targets, an effect of the speaker on targets
  (standard deviation 0.5), of either speaker on non-targets (0.35 each), of the pair of speakers
  (0.3), of either utterance (0.4 each) and noise (0.6); effects of speakers and pairs twice as
  large for unlike speakers. The truth is Phi(-shift / (sd of targets + sd of others)). Or the
  cosine of embeddings of 16 dimensions: one of eight fixed accents, a voice, and noise whose size
  depends on the speaker; the truth is that of 4,000 speakers;
* ccc, pearson, r2: a speaker's number is normal (an age) and is predicted as 0.8 of it, with errors
  of the speaker (standard deviation 0.4) and of the utterance (0.3);
* uar: three classes with shares 0.7, 0.2 and 0.1; a speaker's recall of a class is Beta(8p, 8 - 8p)
  with p 0.85, 0.7 and 0.55, wrong answers fall on both other classes alike.

Two models share what makes a speaker, an utterance or a pair hard: of each effect's variance 0.7 is
common to both.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betaincinv, expit, gammaincinv, ndtr

from probe.measures.block_sums import class_counts, moment_counts
from probe.measures.comparison import LEVEL, paired_difference
from probe.measures.counts import Counts, value_of
from probe.measures.uncertainty import interval

Floats = NDArray[np.float64]
Ends = tuple[float, float] | None

COMMON = 0.7  # part of an effect's variance that two models share
SPEAKER_OF_TARGETS, SPEAKER, PAIR, UTTERANCE, NOISE = 0.5, 0.35, 0.3, 0.4, 0.6
SHIFT = 2.4


@dataclass(frozen=True)
class Corpus:
    """The counts of equally good models on one simulated corpus, and the score of infinitely many
    speakers.
    """

    counts: list[Counts]
    truth: float
    metric: str


def accuracy(
    generator: np.random.Generator,
    n_blocks: int,
    n_models: int,
    sigma: float = 0.5,
    gap: float = 0.0,
    typical: float = 0.8,
    logit_sd: float = 0.0,
) -> Corpus:
    """Speakers of a ``typical`` accuracy on average, less ``gap`` of the last model; logit-normal
    where ``logit_sd`` is given.
    """
    n = utterances(generator, n_blocks, 20, sigma)
    mean = np.array([typical] * (n_models - 1) + [typical - gap])[:, None]
    of_speakers = effects(generator, n_blocks, n_models)
    if logit_sd:
        rates = expit(logit_mean(typical, logit_sd) + logit_sd * of_speakers)
    else:
        rates = betaincinv(8 * mean, 8 - 8 * mean, ndtr(of_speakers))
    counts = [ratio(generator.binomial(n, rate), n) for rate in rates]
    return Corpus(counts, typical, "accuracy")


@functools.cache
def logit_mean(typical: float, sd: float) -> float:
    """The mean on the logit scale of a logit-normal variable with the mean ``typical``."""
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    return float(brentq(lambda at: weights @ expit(at + sd * points) - typical, -20, 20))


def wer(
    generator: np.random.Generator,
    n_blocks: int,
    n_models: int,
    sigma: float = 0.5,
    shape: float = 0.0,
) -> Corpus:
    """Speakers of WER 0.15 on average, some of them hard; Gamma of this ``shape``, or log-normal."""
    speaker = np.repeat(np.arange(n_blocks), utterances(generator, n_blocks, 20, sigma))
    words = 1 + generator.poisson(8, len(speaker))
    of_speakers = effects(generator, n_blocks, n_models)
    if shape:
        rates = 0.15 * gammaincinv(shape, ndtr(of_speakers)) / shape
    else:
        rates = 0.15 * np.exp(0.6 * of_speakers - 0.6**2 / 2)
    errors = [
        generator.poisson(words * rate[speaker] * generator.gamma(2, 0.5, len(speaker)))
        for rate in rates
    ]
    total = np.bincount(speaker, words, n_blocks).astype(int)
    sums = [np.bincount(speaker, wrong, n_blocks).astype(int) for wrong in errors]
    return Corpus([ratio(numerator, total) for numerator in sums], 0.15, "wer")


def eer(
    generator: np.random.Generator,
    n_blocks: int,
    n_models: int,
    sigma: float = 0.5,
    speakers: float = 1.0,
) -> Corpus:
    """Verification of about 8 utterances a speaker, with effects of speakers and of their pairs
    ``speakers`` times as large.
    """
    speaker, pairs, n_targets = trials(generator, n_blocks, sigma)
    ends, is_target = speaker[pairs], np.arange(len(pairs)) < n_targets
    of_targets, of_speakers = (effects(generator, n_blocks, n_models) for _ in range(2))
    of_pairs, of_utterances = (
        effects(generator, n_blocks**2, n_models),
        effects(generator, len(speaker), n_models),
    )
    noise = effects(generator, len(pairs), n_models)
    of_target, of_speaker, of_pair = (
        speakers * effect for effect in (SPEAKER_OF_TARGETS, SPEAKER, PAIR)
    )
    own = np.where(
        is_target,
        of_target * of_targets[:, ends[:, 0]],
        of_speaker * of_speakers[:, ends].sum(axis=2),
    )
    crossed = np.where(
        is_target, 0, of_pair * of_pairs[:, ends.min(axis=1) * n_blocks + ends.max(axis=1)]
    )
    scores = (
        SHIFT * is_target
        + own
        + crossed
        + UTTERANCE * of_utterances[:, pairs].sum(axis=2)
        + NOISE * noise
    )
    sd_targets = np.sqrt(of_target**2 + 2 * UTTERANCE**2 + NOISE**2)
    sd_others = np.sqrt(2 * of_speaker**2 + of_pair**2 + 2 * UTTERANCE**2 + NOISE**2)
    counts = trial_counts_of(n_blocks, ends, is_target, scores)
    return Corpus(counts, float(ndtr(-SHIFT / (sd_targets + sd_others))), "eer")


def embeddings(
    generator: np.random.Generator, n_blocks: int, n_models: int, sigma: float = 0.5
) -> Corpus:
    """Verification by the cosine of embeddings, with impostors of the same accent."""
    return Corpus(cosines(generator, n_blocks, n_models, sigma), cosine_truth(), "eer")


@functools.cache
def cosine_truth() -> float:
    """The EER of `embeddings` with 4,000 speakers."""
    return value_of(cosines(np.random.default_rng(0), 4000, 1, 0.5)[0], "eer")


def cosines(
    generator: np.random.Generator, n_blocks: int, n_models: int, sigma: float
) -> list[Counts]:
    """Trials of `embeddings`."""
    speaker, pairs, n_targets = trials(generator, n_blocks, sigma)
    accents = 0.7 * np.random.default_rng(16).standard_normal((8, 16))
    voices = accents[generator.integers(8, size=n_blocks)]
    voices = voices + generator.standard_normal((n_blocks, 16))
    size = np.exp(0.3 * generator.standard_normal(n_blocks))[speaker, None]
    noise = np.stack([effects(generator, len(speaker), n_models) for _ in range(16)], axis=2)
    points = voices[speaker] + 1.1 * size * noise
    points /= np.linalg.norm(points, axis=2, keepdims=True)
    scores = (points[:, pairs[:, 0]] * points[:, pairs[:, 1]]).sum(axis=2)
    return trial_counts_of(n_blocks, speaker[pairs], np.arange(len(pairs)) < n_targets, scores)


def trials(
    generator: np.random.Generator, n_blocks: int, sigma: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """(utterance,) speakers, (trial, 2) utterances, targets first, and the number of targets."""
    n = utterances(generator, n_blocks, 8, sigma, least=2)
    first = np.cumsum(n) - n
    speaker = np.repeat(np.arange(n_blocks), n)
    targets = np.concatenate(
        [start + some_pairs(generator, size) for start, size in zip(first, n, strict=True)]
    )
    one = generator.integers(len(speaker), size=len(targets))
    others = len(speaker) - n[speaker[one]]
    other = one + n[speaker[one]] + generator.integers(1 << 30, size=len(one)) % others
    other %= len(speaker)
    same = speaker[one] == speaker[other]
    other[same] = (other[same] + n[speaker[one[same]]]) % len(speaker)
    others = np.stack([one, other], axis=1)[speaker[one] != speaker[other]]
    return speaker, np.concatenate([targets, others]), len(targets)


def trial_counts_of(
    n_blocks: int, ends: NDArray[np.int64], is_target: NDArray[np.bool_], scores: Floats
) -> list[Counts]:
    """Counts of (model, trial) scores."""
    common = {
        "block": names(n_blocks),
        "enroll": ends[:, 0],
        "test": ends[:, 1],
        "target": is_target.astype(int),
    }
    return [{**common, "rank": np.argsort(np.argsort(row))} for row in scores]


def number(
    generator: np.random.Generator,
    n_blocks: int,
    n_models: int,
    sigma: float = 0.5,
    metric: str = "ccc",
) -> Corpus:
    """Numbers of speakers, predicted with errors of speakers and of utterances."""
    speaker = np.repeat(np.arange(n_blocks), utterances(generator, n_blocks, 20, sigma))
    truth = generator.standard_normal(n_blocks)[speaker]
    of_speaker, of_utterance = (effects(generator, n, n_models) for n in (n_blocks, len(speaker)))
    predicted = 0.8 * truth + 0.4 * of_speaker[:, speaker] + 0.3 * of_utterance
    noise = 0.4**2 + 0.3**2
    values = {
        "ccc": 2 * 0.8 / (1 + 0.8**2 + noise),
        "pearson": 0.8 / np.sqrt(0.8**2 + noise),
        "r2": 1 - 0.2**2 - noise,
    }
    blocks = [f"speaker {i}" for i in speaker]
    counts = [moment_counts(blocks, truth, guesses) for guesses in predicted]
    return Corpus(counts, values[metric], metric)


def classes(
    generator: np.random.Generator, n_blocks: int, n_models: int, sigma: float = 0.5
) -> Corpus:
    """Three classes, a common one that is recognised well and two rare ones."""
    recalls = np.array([0.85, 0.7, 0.55])
    speaker = np.repeat(np.arange(n_blocks), utterances(generator, n_blocks, 20, sigma))
    truth = generator.choice(3, size=len(speaker), p=[0.7, 0.2, 0.1])
    at_most = ndtr(np.stack([effects(generator, n_blocks, n_models) for _ in recalls], axis=2))
    rates = betaincinv(8 * recalls, 8 - 8 * recalls, at_most)
    blocks, known = [f"speaker {i}" for i in speaker], ["a", "b", "c"]
    counts = []
    for of_model in rates:
        is_right = generator.random(len(speaker)) < of_model[speaker, truth]
        guesses = (truth + np.where(is_right, 0, generator.integers(1, 3, len(speaker)))) % 3
        names_of = [[known[i] for i in values] for values in (truth, guesses)]
        counts.append(class_counts(blocks, *names_of, known))
    return Corpus(counts, float(recalls.mean()), "uar")


def utterances(
    generator: np.random.Generator, n_blocks: int, typical: int, sigma: float, least: int = 1
) -> NDArray[np.int64]:
    """(block,) how many utterances each speaker has."""
    return np.maximum(least, typical * generator.lognormal(0, sigma, n_blocks)).astype(np.int64)


def effects(generator: np.random.Generator, n: int, n_models: int) -> Floats:
    """(model, n) standard normal, alike between models."""
    return np.sqrt(COMMON) * generator.standard_normal(n) + np.sqrt(
        1 - COMMON
    ) * generator.standard_normal((n_models, n))


def some_pairs(generator: np.random.Generator, n: int, most: int = 10) -> NDArray[np.int64]:
    """(pair, 2) different pairs of 0 .. n - 1."""
    pairs = np.stack(np.triu_indices(n, 1), axis=1)
    return generator.permutation(pairs)[:most]


def names(n_blocks: int) -> list[str]:
    """(block,) names of speakers."""
    return [f"speaker {i}" for i in range(n_blocks)]


def ratio(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> Counts:
    """Sums per block."""
    return {
        "block": names(len(denominator)),
        "numerator": numerator.tolist(),
        "denominator": denominator.tolist(),
    }


SCORES: dict[str, Callable[..., Corpus]] = {
    "accuracy of 80 %, Beta": accuracy,
    "accuracy of 80 %, logit-normal": partial(accuracy, logit_sd=1.0),
    "accuracy of 95 %, Beta": partial(accuracy, typical=0.95),
    "accuracy of 95 %, logit-normal": partial(accuracy, typical=0.95, logit_sd=1.2),
    "accuracy of 99 %, Beta": partial(accuracy, typical=0.99),
    "accuracy of 99 %, logit-normal": partial(accuracy, typical=0.99, logit_sd=1.2),
    "WER, log-normal": wer,
    "WER, Gamma": partial(wer, shape=3.0),
    "EER, additive": eer,
    "EER, additive, unlike speakers": partial(eer, speakers=2.0),
    "EER, embeddings": embeddings,
    "UAR": classes,
    "CCC": number,
    "Pearson": partial(number, metric="pearson"),
    "R2": partial(number, metric="r2"),
}
USUAL = ("accuracy of 80 %, Beta", "WER, Gamma", "EER, additive", "EER, embeddings", "CCC", "UAR")
BLOCKS = (7, 12, 20, 40, 200)
OF_DIFFERENCES = (12, 20, 40)
Measure = Callable[[Corpus], tuple[Ends, float]]  # the interval, and the truth that it should hold


def of_value(corpus: Corpus, method: str = "speakers") -> tuple[Ends, float]:
    """The interval of the first model's score."""
    about = {} if method == "speakers" else {"method": method, "n_resamples": 400}
    return interval(corpus.counts[0], metric=corpus.metric, **about), corpus.truth


def of_difference(corpus: Corpus) -> tuple[Ends, float]:
    """The interval of the difference of two models that are equally good."""
    found = paired_difference(corpus.counts[0], corpus.counts[1], metric=corpus.metric)
    return (None if found.low is None or found.high is None else (found.low, found.high)), 0.0


@dataclass(frozen=True)
class Coverage:
    """What came of many corpora.

    Attributes:
        held: how often an interval held the truth, of those that there were.
        above, below: how often all of it lay above, or below, the truth.
        none: how often there was no interval.
        width: the median.
    """

    held: float
    above: float
    below: float
    none: float
    width: float


def coverage(
    score: str,
    n_blocks: int,
    n_simulations: int,
    measure: Measure = of_value,
    n_models: int = 1,
    sigma: float = 0.5,
) -> Coverage:
    """How often the intervals of ``measure`` held the truth in corpora of ``n_blocks`` speakers;
    the same corpora every time.
    """
    generators = (np.random.default_rng([number, n_blocks]) for number in range(n_simulations))
    found = [
        measure(SCORES[score](generator, n_blocks, n_models, sigma)) for generator in generators
    ]
    rows = np.array([(*ends, truth) for ends, truth in found if ends is not None]).reshape(-1, 3)
    low, high, truth = rows.T
    above, below = np.mean(low > truth), np.mean(high < truth)
    none = 1 - len(rows) / n_simulations
    return Coverage(
        float(1 - above - below), float(above), float(below), none, float(np.median(high - low))
    )


def left_out_of_set(
    n_blocks: int, n_models: int, n_simulations: int, gap: float = 0.0
) -> tuple[float, float]:
    """Of equally accurate models, the last less by ``gap``: how often an equal one is not in the
    95 % confidence set, and how often the last.
    """
    from probe.measures.confidence_set import confidence_set

    found = []
    for number in range(n_simulations):
        generator = np.random.default_rng([number, n_blocks, n_models])
        corpus = accuracy(generator, n_blocks, n_models, gap=gap)
        out = np.array(confidence_set(corpus.counts, corpus.metric)) <= LEVEL
        found.append((out.any() if not gap else out[:-1].any(), out[-1]))
    of_equal, of_last = np.mean(found, axis=0)
    return float(of_equal), float(of_last)


def _sets(options: argparse.Namespace) -> None:
    print("| blocks | models | equally good, any left out | one 5 points worse | 10 points worse |")
    print("| --- | --- | --- | --- | --- |")
    for n_blocks in _sizes(options, (7, *OF_DIFFERENCES)):
        for n_models in (2, 3, 5, 10, 20):
            about = (n_blocks, n_models, options.simulations)
            shares = [left_out_of_set(*about)[0]]
            shares += [left_out_of_set(*about, gap)[1] for gap in (0.05, 0.1)]
            shown = " | ".join(f"{100 * share:.1f}" for share in shares)
            print(f"| {n_blocks} | {n_models} | {shown} |", flush=True)


def called_different(n_blocks: int, n_scores: int, n_simulations: int) -> tuple[float, float]:
    """How often a comparison of two equally good models calls any score different, and how often if
    each is judged alone.
    """
    from probe.reporting.tables.comparison import UNCLEAR, judged

    found = []
    for number in range(n_simulations):
        generator = np.random.default_rng([number, n_blocks, n_scores])
        pairs = [accuracy(generator, n_blocks, 2).counts for _ in range(n_scores)]
        differences = [paired_difference(b, a, metric="accuracy") for a, b in pairs]
        rows = judged(
            [
                {"difference": item.difference, "p": item.p, "higher_is_better": True}
                for item in differences
            ]
        )
        found.append(
            (any(row["verdict"] != UNCLEAR for row in rows), any(row["p"] <= LEVEL for row in rows))
        )
    together, alone = np.mean(found, axis=0)
    return float(together), float(alone)


def _comparisons(options: argparse.Namespace) -> None:
    print("| blocks | scores | any called better or worse | each judged alone |")
    print("| --- | --- | --- | --- |")
    for n_blocks in OF_DIFFERENCES:
        for n_scores in (2, 10, 40):
            shares = called_different(n_blocks, n_scores, options.simulations)
            print(
                f"| {n_blocks} | {n_scores} | {' | '.join(f'{100 * share:.1f}' for share in shares)} |",
                flush=True,
            )


def _sizes(options: argparse.Namespace, usual: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(int, options.blocks.split(","))) if options.blocks else usual


def _row(job: tuple[str, int, bool, argparse.Namespace]) -> Coverage:
    score, n_blocks, paired, options = job
    measure = of_difference if paired else partial(of_value, method=options.method)
    return coverage(score, n_blocks, options.simulations, measure, 1 + paired, options.sigma)


def _table(found: dict[tuple[str, int], Coverage]) -> str:
    scores, sizes = list(dict.fromkeys(score for score, _ in found)), sorted({n for _, n in found})
    lines = [["blocks", *map(str, sizes)], ["---"] * (1 + len(sizes))]
    lines += [[score, *(_shown(found[score, n]) for n in sizes)] for score in scores]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _shown(item: Coverage) -> str:
    misses = f"{100 * item.below:.1f}, {100 * item.above:.1f}, {100 * item.none:.1f}"
    return f"{100 * item.held:.1f} / {100 * item.width:.1f} ({misses})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--method", default="speakers", choices=["speakers", "percentile"])
    parser.add_argument(
        "--sigma",
        type=float,
        default=0.5,
        help="of the logarithm of the number of utterances of a speaker",
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--sets", action="store_true", help="model confidence sets")
    parser.add_argument(
        "--comparisons",
        action="store_true",
        help="how often equally good models are told apart in any score",
    )
    parser.add_argument("--only", choices=SCORES, action="append", help="these scores; repeat")
    parser.add_argument(
        "--blocks",
        help="such as 12,40; without it 7 to 200, 12 to 40 for differences, 7 to 40 for sets",
    )
    options = parser.parse_args(arguments)
    if options.sets or options.comparisons:
        (_sets if options.sets else _comparisons)(options)
        return
    error = 100 * np.sqrt(0.95 * 0.05 / options.simulations)
    print(f"% held / median width in points (below, above, none), Monte Carlo error {error:.1f}\n")
    with ProcessPoolExecutor(options.jobs) as pool:
        for paired, usual in ((False, BLOCKS), (True, OF_DIFFERENCES)):
            sizes = _sizes(options, usual)
            scores = options.only or (USUAL if paired else SCORES)
            places = [(score, n) for score in scores for n in sizes]
            results = pool.map(_row, [(score, n, paired, options) for score, n in places])
            found = dict(zip(places, results, strict=True))
            print("The difference of two models\n" if paired else "The interval of a score\n")
            print(_table(found), flush=True)


if __name__ == "__main__":
    main()
