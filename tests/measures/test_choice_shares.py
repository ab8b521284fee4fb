"""How often each of several scores is the best if speakers are resampled."""

import numpy as np
import pytest

from probe.measures.bootstrap import resamples
from probe.measures.choice_shares import choice_shares, smallest_set
from probe.measures.counts import ratio_counts, several, trial_counts

SPEAKERS = [f"speaker {i}" for i in range(8)]


def hits(*of_speakers):
    return ratio_counts(SPEAKERS, of_speakers, [10] * len(SPEAKERS))


def eer_counts(seed):
    generator = np.random.default_rng(seed)
    ends = generator.integers(8, size=(2, 120))
    ends[1, :40] = ends[0, :40]
    target = ends[0] == ends[1]
    names = [[SPEAKERS[i] for i in end] for end in ends]
    return trial_counts(*names, target, target + generator.normal(size=120))


def test_a_score_that_is_better_for_every_speaker_is_chosen_in_every_resample():
    shares = choice_shares([hits(*[5] * 8), hits(*[6] * 8), hits(*[4] * 8)], "accuracy")
    assert shares == [0.0, 1.0, 0.0]


def test_lower_is_better_for_error_rates():
    assert choice_shares([hits(*[5] * 8), hits(*[6] * 8)], "wer") == [1.0, 0.0]


def test_two_scores_that_take_turns_over_speakers_share_the_choices():
    one, other = hits(*[8, 4] * 4), hits(*[4, 8] * 4)
    shares = choice_shares([one, other], "accuracy")
    # Each resample draws 8 speakers; as many of either kind are a tie, which the first one wins:
    # P(4 of 8) = 70 / 256.
    assert shares == pytest.approx([0.5 + 35 / 256, 0.5 - 35 / 256], abs=0.05)


@pytest.mark.parametrize("metric", ["accuracy", "eer"])
def test_shares_count_the_resamples_of_the_bootstrap(metric):
    generator = np.random.default_rng(0)
    of_metric = {
        "accuracy": [hits(*generator.integers(4, 8, 8)) for _ in range(5)],
        "eer": [eer_counts(0) | {"rank": eer_counts(i)["rank"]} for i in range(5)],
    }
    counts = of_metric[metric]
    values = np.stack([resamples(item, metric=metric) for item in counts], axis=1)
    values = values[np.isfinite(values).all(axis=1)].round(12)
    best = values.argmax(axis=1) if metric == "accuracy" else values.argmin(axis=1)
    expected = np.bincount(best, minlength=5) / len(values)
    assert choice_shares(counts, metric) == pytest.approx(expected)
    assert np.count_nonzero(expected) > 2


def test_seeds_are_averaged_in_each_resample():
    up, down = hits(*[9] * 8), hits(*[1] * 8)
    both, flat = several([up, down]), several([hits(*[6] * 8)] * 2)
    assert choice_shares([both, flat], "accuracy") == [0.0, 1.0]


def test_shares_are_unknown_with_five_speakers_or_other_utterances():
    few = [ratio_counts(SPEAKERS[:5], [i] * 5, [10] * 5) for i in (3, 4)]
    assert choice_shares(few, "accuracy") is None
    others = ratio_counts(SPEAKERS, [5] * 8, [11] * 8)
    assert choice_shares([hits(*[5] * 8), others], "accuracy") is None


def test_the_smallest_set_has_the_largest_shares_that_reach_90_percent():
    assert smallest_set([0.05, 0.5, 0.05, 0.4]) == [1, 3]
    assert smallest_set([0.3, 0.3, 0.3, 0.1]) == [0, 1, 2]
    assert smallest_set([1.0]) == [0]
    assert smallest_set([0.45, 0.44, 0.06, 0.05]) == [0, 1, 2]
