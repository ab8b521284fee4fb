"""Names of before, until every view reads `probe.reporting.text`."""

from probe.reporting.tables.grid import markdown
from probe.reporting.text import DASH, INTERVAL, arrow, escaped, escaped_all, percent, points

__all__ = ["DASH", "INTERVAL", "arrow", "escaped", "escaped_all", "markdown", "percent", "points"]
