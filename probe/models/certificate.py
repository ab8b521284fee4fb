"""What a check of a model gives: findings, and the certificate that gathers them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from probe.brief import brief

PASS, FAIL, NOTE, SKIPPED = "pass", "FAIL", "note", "skipped"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        result: ``pass``, ``FAIL``, ``note`` (worth knowing, no fault) or ``skipped`` (nothing to
            compare with).
        found, expected: in words and figures.
    """

    check: str
    result: str
    found: str
    expected: str = ""

    @classmethod
    def of(cls, check: str, holds: bool, found: str, expected: str = "") -> "Finding":
        """Return one that passes where something holds."""
        return cls(check, PASS if holds else FAIL, found, expected)


@dataclass(frozen=True)
class Certificate:
    """What `probe.models.check.check_model` found about one model on one machine.

    Attributes:
        model, revision, weights_sha256, implementation, precision: what was checked.
        quick: whether it is the short form.
        findings: one per check.
        packages, device: what it was computed with.
        seconds: wall time.
    """

    model: str
    revision: str
    weights_sha256: str
    implementation: str
    precision: str
    quick: bool
    findings: tuple[Finding, ...]
    packages: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    seconds: float = 0.0

    def __repr__(self) -> str:
        return brief(self, self.model, self.summary())

    @property
    def failed(self) -> list[Finding]:
        """The checks that failed."""
        return [finding for finding in self.findings if finding.result == FAIL]

    def summary(self) -> str:
        """Return one line for people."""
        counts = Counter(finding.result for finding in self.findings)
        words = {FAIL: "FAILED", PASS: "passed", NOTE: "noted", SKIPPED: "skipped"}
        parts = [f"{counts[result]} {word}" for result, word in words.items() if counts[result]]
        form = "quick check" if self.quick else "check"
        return f"{form}: {', '.join(parts)}, in {self.seconds:.1f} s on {self.device}"

    def as_json(self) -> dict[str, Any]:
        """Return plain values, as they stand beside a store's recipe; without the time it took, so
        that equal outcomes are equal bytes.
        """
        values = {name: value for name, value in asdict(self).items() if name != "seconds"}
        return values | {"passed": not self.failed}
