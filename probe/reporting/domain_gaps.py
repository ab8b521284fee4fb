"""Names of before, until every view reads `probe.reporting.scores.Scores`."""

from probe.reporting.scores import crossed

__all__ = ["crossed"]
