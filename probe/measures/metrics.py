"""The metrics that records hold: one table of everything but how to compute them.

To add a metric, add a `Metric` to `METRICS` and let a task kind write records of it. A metric of
trials also needs its function in `probe.measures.detection.TRIAL_METRICS`.
"""

import math
from dataclasses import dataclass
from typing import Literal

Unit = Literal["%", "bits per label", "cost"]
Form = Literal["hits", "errors", "amounts", "trials"]
MISSING = "–"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as records hold it.
        title: the name in words.
        higher_is_better: the direction.
        chance: the score of a model that knows nothing; None where it depends on the data, so that
            a control has to say it.
        highest: the largest possible value; the smallest is 0.
        unit: percent and detection costs are fractions that are printed times 100.
        counts: what the counts of its records are: correct units of all (``hits``), errors for
            each reference unit (``errors``), sums of amounts (``amounts``), or trials.
    """

    name: str
    title: str
    higher_is_better: bool
    chance: float | None = None
    highest: float = 1.0
    unit: Unit = "%"
    counts: Form = "errors"

    @property
    def is_cost(self) -> bool:
        """Whether it is a detection cost: it repeats what the EER says, so views hide it."""
        return self.unit == "cost"

    @property
    def in_bits(self) -> bool:
        """Whether it is a codelength, which is of the training labels."""
        return self.unit == "bits per label"

    @property
    def of_trials(self) -> bool:
        """Whether its counts are verification trials."""
        return self.counts == "trials"

    @property
    def of_transcripts(self) -> bool:
        """Whether it counts the errors of transcripts."""
        return self.counts == "errors"

    @property
    def is_eer(self) -> bool:
        """Whether it is an equal error rate, by whatever convention."""
        return self.of_trials and not self.is_cost

    @property
    def scale(self) -> float:
        """The factor between a record's value and the number that is printed."""
        return 1.0 if self.in_bits else 100.0

    @property
    def printed_unit(self) -> str:
        """The unit of the printed number."""
        return "bits per label" if self.in_bits else "%"

    def rounded(self, value: float) -> float:
        """The number that is printed for a value; never -0."""
        return round(self.scale * value, 2 if self.in_bits else 1) + 0.0

    def text(self, value: float) -> str:
        """A value as it is printed: percent with one decimal, bits with two; a dash for NaN."""
        if math.isnan(value):
            return MISSING
        return f"{self.rounded(value):.2f}" if self.in_bits else f"{self.rounded(value):.1f}"

    def difference_text(self, difference: float) -> str:
        """A difference of two values with its sign: in points, or in bits; a dash for NaN."""
        if math.isnan(difference):
            return MISSING
        number = self.rounded(difference)
        return f"{number:+.2f}" if self.in_bits else f"{number:+.1f}"


ACCURACY = Metric("accuracy", "accuracy", higher_is_better=True, counts="hits")
WER = Metric("wer", "word error rate", higher_is_better=False, chance=1.0, highest=math.inf)
CER = Metric("cer", "character error rate", higher_is_better=False, chance=1.0, highest=math.inf)
PER = Metric("per", "phone error rate", higher_is_better=False, chance=1.0, highest=math.inf)
EER = Metric("eer", "equal error rate", higher_is_better=False, chance=0.5, counts="trials")
EER_HULL = Metric(
    "eer_hull", "equal error rate", higher_is_better=False, chance=0.5, counts="trials"
)
MIN_DCF_01, MIN_DCF_05 = (
    Metric(
        f"min_dcf_{prior}",
        f"minimum detection cost at a prior of {prior}",
        higher_is_better=False,
        chance=1.0,
        unit="cost",
        counts="trials",
    )
    for prior in ("0.01", "0.05")
)
CODELENGTH = Metric(
    "codelength",
    "online codelength",
    higher_is_better=False,
    highest=math.inf,
    unit="bits per label",
    counts="amounts",
)
ABX_ERROR = Metric("abx_error", "ABX error", higher_is_better=False, chance=0.5, counts="amounts")
PNMI = Metric(
    "pnmi", "phone-normalised mutual information", higher_is_better=True, counts="amounts"
)
PHONE_PURITY = Metric("phone_purity", "phone purity", higher_is_better=True, counts="hits")
CLUSTER_PURITY = Metric("cluster_purity", "cluster purity", higher_is_better=True, counts="hits")
METRICS = {
    metric.name: metric
    for metric in (
        *(ACCURACY, WER, CER, PER, CODELENGTH, EER, EER_HULL, MIN_DCF_01, MIN_DCF_05),
        *(ABX_ERROR, PNMI, PHONE_PURITY, CLUSTER_PURITY),
    )
}


def metric_of(name: str) -> Metric:
    """The metric of a record; a name that this version does not know is taken for an error rate,
    so that the records of a newer version can still be read.
    """
    return METRICS.get(name) or Metric(name, name, higher_is_better=False, highest=math.inf)
