"""What a kind of task is: its settings with their bounds, what it needs, how it answers.

Each module of `probe.evaluation.kinds` that has a ``KIND`` is a kind; nothing else in the package
asks which one a task has.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from probe.brief import brief
from probe.data.conditions.grammar import CLEAN
from probe.data.corpus import Utterance
from probe.data.intervals import Derivation
from probe.data.splits import parse_folds
from probe.data.time_labels.files import TIER
from probe.errors import UsageError
from probe.schema import Schema

if TYPE_CHECKING:
    from probe.evaluation.dataset import Features, Problem, Score
    from probe.evaluation.tasks import Task

T = TypeVar("T")

SEEDS = 3  # of heads that are trained by gradient, whose scores depend on it


def _several(value: object) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each entry once")
    return values


# One value or a list of different ones.
Several = Annotated[tuple[T, ...], BeforeValidator(_several), AfterValidator(_each_once)]
AtLeastOne = Annotated[Several[T], Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=10**6)]
Rate = Annotated[float, Field(ge=1e-12, le=1e6)]


class Settings(Schema):
    """The settings of every kind; each kind adds its own, and a field or a property ``view``."""

    conditions: AtLeastOne[str] = (CLEAN,)
    disturb: Literal["test", "train", "both", "mixed"] = "test"
    folds: str = ""

    # Keys that are no part of a task's hash while they have this value: they came after records
    # without them.
    UNHASHED: ClassVar[dict[str, object]] = {"disturb": "test", "folds": ""}
    # Why the kind cannot be asked with folds; empty where it can.
    NO_FOLDS: ClassVar[str] = ""
    # Keys whose values are files: their content decides a score, their names do not.
    FILES: ClassVar[tuple[str, ...]] = ()

    @field_validator("folds")
    @classmethod
    def _are_folds(cls, folds: str) -> str:
        if folds and cls.NO_FOLDS:
            raise ValueError(f"no folds: {cls.NO_FOLDS}")
        try:
            return str(parse_folds(folds)) if folds else folds
        except UsageError as error:
            raise ValueError(str(error).partition("expected ")[2].rstrip(".")) from None

    @property
    def needs(self) -> frozenset[str]:
        """What these settings need beside what their kind does, see `Kind`."""
        return frozenset()

    @property
    def predicted_column(self) -> str:
        """The column that heads predict, if it is one."""
        return ""

    @property
    def domain_column(self) -> str:
        """The column whose values are trained and tested apart, if there is one."""
        return ""

    @property
    def usual_seeds(self) -> int:
        """With how many seeds heads are trained unless the user says so: one where the solution
        does not depend on it, or where the protocol that a kind repeats trains one.
        """
        return 1

    @property
    def trains_across(self) -> bool:
        """Whether one training or score is of all conditions together."""
        return self.disturb == "mixed"

    def __repr__(self) -> str:
        changed = self.model_dump(exclude_defaults=True)
        return brief(self, *(f"{name}={value!r}" for name, value in changed.items()))

    def hashed(self) -> dict[str, Any]:
        """The settings that are part of a task's hash; which conditions is no part of it where each
        has a training or a test of its own.
        """
        off = {key for key, usual in self.UNHASHED.items() if getattr(self, key) == usual}
        values = {key: value for key, value in self.model_dump().items() if key not in off}
        del values["conditions"]
        return values | ({"conditions": sorted(self.conditions)} if self.trains_across else {})


@functools.lru_cache(maxsize=10_000)
def _plain(label: str) -> str:
    return label.strip().strip("<>").casefold()


class TimeLabelSettings(Settings):
    """Settings of kinds that read labels over time, see `probe.data.intervals`.

    ``labels`` is a file in the corpus' folder; ``--labels`` replaces it.
    """

    labels: str = ""
    tier: str = TIER
    types: str = ""
    ignore: Several[str] = ("",)

    def ignores(self, label: str) -> bool:
        """Whether a label is one of those to ignore; case and angle brackets do not matter, since
        aligners write one silence as ``sil``, ``SIL`` or ``<sil>``.
        """
        return _plain(label) in map(_plain, self.ignore)

    @property
    def derivation(self) -> Derivation | None:
        """What makes the labels of speaker turns; None where labels are read as they are."""
        return None


class ProjectedSettings(Settings):
    """Settings of kinds that read one layer at a time, projected to ``project`` dimensions first
    (0: as they are).
    """

    project: int = Field(0, ge=0, le=10**6)
    projection: Literal["pca", "random"] = "pca"

    def hashed(self) -> dict[str, Any]:
        """See `Settings.hashed`."""
        off = () if self.project else ("project", "projection")
        return {key: value for key, value in super().hashed().items() if key not in off}


S = TypeVar("S", bound=Any)


@dataclass(frozen=True)
class Main:
    """How the main scores of a task are named in records."""

    head: str
    metric: str
    select_by: str
    higher_is_better: bool


def _nothing(_: Sequence[Utterance]) -> list[str]:
    return []


@dataclass(frozen=True)
class Kind(Generic[S]):
    """One kind of task.

    Attributes:
        settings: their class, with defaults, bounds and choices.
        run: yields the scores of every layer on dev and on each test set.
        check: refuses what ``run`` would refuse, without features.
        main: names of the main scores.
        metrics: that its scores have.
        needs: "trials" or "labels" (over time), the lists that it reads.
        by_domain: whether it can be trained on each domain apart (`probe.evaluation.kinds.shift`).
        wraps: the setting that names another task, whose settings the command line then changes.
        warnings: of what is odd in a corpus.
    """

    name: str
    settings: type[S]
    run: "Callable[[Task[S], Problem, Features], Iterator[Score]]"
    check: "Callable[[Task[S], Problem], None]"
    main: Callable[[S], Main]
    metrics: tuple[str, ...]
    needs: frozenset[str] = frozenset()
    by_domain: bool = False
    wraps: str = ""
    warnings: Callable[[Sequence[Utterance]], Iterable[str]] = _nothing

    def __reduce__(self) -> "tuple[Callable[[str], Kind[S]], tuple[str]]":
        """Pickle the name alone, since a kind is code."""
        from probe.evaluation.kinds.registry import kind_of

        return kind_of, (self.name,)

    def __repr__(self) -> str:
        return brief(self, self.name)
