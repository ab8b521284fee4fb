"""The metrics that records hold: one table of everything but how to compute them.

To add a metric, add a `Metric` to `METRICS` and let a task kind write records of it. A metric of
trials also needs its function in `probe.measures.detection.TRIAL_METRICS`.
"""

import math
from dataclasses import dataclass
from typing import Literal

from probe.measures.intervals import Scale

Unit = Literal["%", "bits per label", "cost", "bits", "coefficient", "unit of the label"]
Form = Literal["hits", "errors", "amounts", "trials", "moments", "classes", "influences"]
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
        lowest, highest: the smallest and the largest possible value.
        unit: percent are fractions that are printed times 100; detection costs (``cost``, or
            ``bits`` of log-likelihood ratios), coefficients, such as correlations, and amounts in
            the label's own unit are printed as they are.
        counts: what the counts of its records are: correct units of all (``hits``), errors for
            each reference unit (``errors``), sums of amounts (``amounts``), trials, or sums that
            the metric is a function of (``moments`` of numbers, or ``classes``, see
            `probe.measures.block_sums`), or the value and by how much each block moves it
            (``influences``).
        least_others: the fewest non-target trials with which it has a value.
    """

    name: str
    title: str
    higher_is_better: bool
    chance: float | None = None
    lowest: float = 0.0
    highest: float = 1.0
    unit: Unit = "%"
    counts: Form = "errors"
    least_others: int = 0

    @property
    def is_cost(self) -> bool:
        """Whether it is a detection cost: it repeats what the EER says, so views hide it."""
        return self.unit in ("cost", "bits")

    @property
    def in_percent(self) -> bool:
        """Whether it is printed in percent."""
        return self.unit == "%"

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
    def of_numbers(self) -> bool:
        """Whether it compares numbers, and not classes, words or trials."""
        return self.unit in ("coefficient", "unit of the label")

    @property
    def is_eer(self) -> bool:
        """Whether it is an equal error rate, by whatever convention."""
        return self.of_trials and self.unit == "%" and not self.higher_is_better

    @property
    def interval_scale(self) -> Scale:
        """The scale of its interval, see `probe.measures.intervals`: none of a detection cost,
        whose minimum over thresholds is lower on a short list of trials, or of a codelength, which
        is a property of one training set.
        """
        if self.is_cost or self.in_bits:
            return "none"
        if self.of_trials:
            return "logit"
        if self.lowest == -math.inf:
            return "plain"
        if self.lowest == -1:
            return "fisher"
        return "share" if self.highest == 1 else "rate"

    @property
    def scale(self) -> float:
        """The factor between a record's value and the number that is printed."""
        return 100.0 if self.in_percent else 1.0

    @property
    def printed_unit(self) -> str:
        """The unit of the printed number; empty for a coefficient and for a cost without unit."""
        return "" if self.unit in ("cost", "coefficient") else self.unit

    def decimals(self, value: float) -> int:
        """How many decimals of a value are printed."""
        if self.unit == "unit of the label":  # three significant digits
            size = abs(value)
            return max(0, 2 - math.floor(math.log10(size))) if 0 < size < math.inf else 0
        return {"%": 1, "bits per label": 2}.get(self.unit, 3)

    def rounded(self, value: float) -> float:
        """The number that is printed for a value; never -0."""
        return round(self.scale * value, self.decimals(value)) + 0.0

    def text(self, value: float) -> str:
        """A value as it is printed: percent with one decimal, codelengths with two, costs and
        coefficients with three, amounts with three significant digits; a dash for NaN.
        """
        return MISSING if math.isnan(value) else f"{self.rounded(value):.{self.decimals(value)}f}"

    def difference_text(self, difference: float) -> str:
        """A difference of two values with its sign: in points, or in the metric's unit; a dash for
        NaN.
        """
        if math.isnan(difference):
            return MISSING
        return f"{self.rounded(difference):+.{self.decimals(difference)}f}"


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
        least_others=least_others,
    )
    for prior, least_others in (("0.01", 1000), ("0.05", 200))  # 10 / prior
)
CLLR = Metric(
    "cllr",
    "cost of log-likelihood ratios",
    higher_is_better=False,
    chance=1.0,
    highest=math.inf,
    unit="bits",
    counts="trials",
)
MIN_CLLR = Metric(
    "min_cllr",
    "cost of log-likelihood ratios after the best calibration",
    higher_is_better=False,
    chance=1.0,
    unit="bits",
    counts="trials",
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
UAR = Metric("uar", "unweighted average recall", higher_is_better=True, counts="classes")
MACRO_F1 = Metric("macro_f1", "macro-averaged F1", higher_is_better=True, counts="classes")
MAP = Metric("map", "mean average precision", higher_is_better=True, counts="influences")
TAG_F1 = Metric("tag_f1", "macro-averaged F1 of tags", higher_is_better=True, counts="influences")
AUC = Metric("auc", "area under the ROC", higher_is_better=True, chance=0.5, counts="trials")
CCC, PEARSON, SPEARMAN = (
    Metric(
        name,
        title,
        higher_is_better=True,
        chance=0.0,
        lowest=-1.0,
        unit="coefficient",
        counts="moments",
    )
    for name, title in (
        ("ccc", "concordance correlation coefficient"),
        ("pearson", "Pearson's correlation"),
        ("spearman", "Spearman's rank correlation"),
    )
)
R2 = Metric(
    "r2",
    "coefficient of determination",
    higher_is_better=True,
    chance=0.0,
    lowest=-math.inf,
    unit="coefficient",
    counts="moments",
)
MAE = Metric(
    "mae",
    "mean absolute error",
    higher_is_better=False,
    highest=math.inf,
    unit="unit of the label",
    counts="amounts",
)
METRICS = {
    metric.name: metric
    for metric in (
        *(ACCURACY, UAR, MACRO_F1, AUC, MAP, TAG_F1),
        *(CCC, PEARSON, SPEARMAN, R2, MAE),
        *(WER, CER, PER, CODELENGTH),
        *(EER, EER_HULL, MIN_DCF_01, MIN_DCF_05, CLLR, MIN_CLLR),
        *(ABX_ERROR, PNMI, PHONE_PURITY, CLUSTER_PURITY),
    )
}


def metric_of(name: str) -> Metric:
    """The metric of a record; a name that this version does not know is taken for an error rate,
    so that the records of a newer version can still be read.
    """
    return METRICS.get(name) or Metric(name, name, higher_is_better=False, highest=math.inf)
