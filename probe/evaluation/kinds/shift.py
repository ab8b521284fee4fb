"""Kind ``shift``: another task, trained on each domain and tested on each. Domains are the values
of the column ``across``: real domains, or conditions (``condition``). ``domains`` names those that
are compared; rows of others are left out.

For every domain with training rows the wrapped task is trained on it, chooses settings and layer on
that domain's dev rows, and is scored on every domain's test rows; its learning curves and online
codes are left out. A cell that cannot be had (classes that the source domain lacks, no dev rows)
gets a score without value and the reason.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from probe.data.corpus import Utterance
from probe.errors import ProbeError, listed
from probe.evaluation.dataset import Features, Problem, Score, described, lacking
from probe.evaluation.kind import Kind, Main, Several
from probe.evaluation.kind import Settings as SettingsOfAll
from probe.evaluation.tasks import Task

log = logging.getLogger("probe")


class Settings(SettingsOfAll):
    """See docs/task-keys.md. No domains: all that the column has."""

    of: str = "word-id"
    across: str = "domain"
    domains: Several[str] = ()

    UNHASHED: ClassVar = {**SettingsOfAll.UNHASHED, "across": "domain", "domains": ()}
    NO_FOLDS: ClassVar = "domains are trained and tested apart already"

    @property
    def domain_column(self) -> str:
        """See `probe.evaluation.kind.Settings`."""
        return self.across

    @property
    def trains_across(self) -> bool:
        """See `probe.evaluation.kind.Settings`."""
        return super().trains_across or self.across == "condition"


def run(task: Task[Settings], problem: Problem, features: Features) -> Iterator[Score]:
    """Scores of the wrapped task for every train and test domain.

    Raises:
        ProbeError: fewer than two domains, or none that can be trained on.
    """
    inner, domains = _inner(task), _domains(task, problem)
    sources = list(_sources(task, problem, domains))
    problem.progress.split(len(sources))
    scored = False
    for number, (source, narrowed) in enumerate(sources):
        if number:
            problem.progress.begin()
        at_home = features.fitted_on(replace(features.fitting, train=narrowed.train))
        try:
            for score in described(inner.kind.run(inner, narrowed, at_home), at_home):
                scored = scored or score.split == "test"
                yield replace(score, train_domain=source, test_domain=score.test_domain or source)
        except ProbeError as error:
            log.warning("%s: trained on %s: %s", task.name, source, error)
            for name in narrowed.tests:
                yield _without_value(features.layers[0], source, name, str(error), inner)
    if not scored:
        raise _none(task)


def check(task: Task[Settings], problem: Problem) -> None:
    """Refuses what `run` would refuse, without features.

    Raises:
        ProbeError: see `run`.
    """
    inner, reasons = _inner(task), []
    for source, narrowed in _sources(task, problem, _domains(task, problem)):
        try:
            inner.kind.check(inner, narrowed)
        except ProbeError as error:
            reasons.append(f"{source}: {error}")
        else:
            return
    raise ProbeError("\n".join([str(_none(task)), *reasons]))


def _none(task: Task[Settings]) -> ProbeError:
    return ProbeError(
        f"{task.name}: no domain can be trained on: each needs train and dev rows of its own."
    )


def _inner(task: Task[Settings]) -> Task[Any]:
    """The wrapped task without its learning curves and codes, which are its own."""
    inner = task.inner
    off = {"budgets": (), "online_code": False}
    keys = off.keys() & type(inner.settings).model_fields.keys()
    changed = inner.settings.model_copy(update={key: off[key] for key in keys})
    return replace(inner, settings=changed)


def _domains(task: Task[Settings], problem: Problem) -> list[str]:
    """The names of the domains.

    Raises:
        ProbeError: no such column, or fewer than two domains.
    """
    tests = [item for rows in problem.tests.values() for item in rows]
    column = task.settings.across
    if column not in (*problem.columns, "domain"):
        raise ProbeError(
            f"{task.name}: across = {column!r}: the manifest has no such column; it has "
            f"{', '.join(problem.columns)}."
        )
    for split, rows in (("train", problem.train), ("test", tests)):
        if not rows:
            raise ProbeError(f"{task.name}: {lacking(split, 0, column)}")
    domains = sorted({item.label(column) for item in (*problem.train, *tests)})
    if wanted := task.settings.domains:
        if lacking_ones := sorted({*wanted} - {*domains}):
            raise ProbeError(
                f"{task.name}: domains: no train or test row has {column} "
                f"{listed([repr(name) for name in lacking_ones])}; found "
                f"{listed([repr(name) for name in domains if name], 10) or 'none'}."
            )
        domains = sorted(wanted)
    if len(domains) < 2 or "" in domains:
        expected = (
            "two or more conditions, such as --condition clean --condition telephone"
            if column == "condition"
            else f"two or more names in the manifest's column {column} over train and test rows"
        )
        raise ProbeError(
            f"{task.name}: domains {', '.join(repr(name) for name in domains)}; expected "
            f"{expected}."
        )
    return domains


def _sources(
    task: Task[Settings], problem: Problem, domains: Sequence[str]
) -> Iterator[tuple[str, Problem]]:
    """Each domain with training rows, and the problem of training on it."""
    column = task.settings.across
    tests = [item for rows in problem.tests.values() for item in rows]

    def within(rows: Sequence[Utterance], domain: str) -> list[Utterance]:
        return [item for item in rows if item.label(column) == domain]

    for source in sorted({item.label(column) for item in problem.train} & {*domains}):
        yield (
            source,
            replace(
                problem,
                train=within(problem.train, source),
                dev=within(problem.dev, source),
                tests={name: rows for name in domains if (rows := within(tests, name))},
                strict=False,
                place=f"{problem.place}trained on {source}: ",
            ),
        )


def _without_value(layer: str, source: str, target: str, reason: str, inner: Task[Any]) -> Score:
    return Score(
        **vars(inner.kind.main(inner.settings)),
        layer=layer,
        split="test",
        counts=None,
        n=0,
        note=reason,
        train_domain=source,
        test_domain=target,
    )


KIND = Kind(
    "shift",
    Settings,
    run,
    check,
    lambda _: Main("", "", "", higher_is_better=True),
    metrics=(),
    wraps="of",
)
