"""The share of one run in a list of jobs that several runs do: ``--shard 2/7``.

A job belongs to a share by the hash of its id. Which jobs a share has therefore depends neither on
the other jobs nor on what is done already, so any scheduler can start the runs, in any order, and
their number may change from one time to the next.
"""

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass

from probe.errors import UsageError


@dataclass(frozen=True)
class Share:
    """Share ``index`` of ``count``, counted from 1."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Return the share that a text such as ``2/7`` names.

        Raises:
            UsageError: no such text, or not a share from 1 to the number of shares.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        share = cls(*map(int, match.groups())) if match else None
        if share is None or not 1 <= share.index <= share.count:
            raise UsageError(
                f"--shard {text}: expected I/N with I from 1 to N, such as 1/4, 2/4, 3/4 and 4/4 "
                "for four runs. Add 1 to a number that your scheduler counts from 0."
            )
        return share

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def is_whole(self) -> bool:
        """Whether every job belongs to this share."""
        return self.count == 1

    def has(self, job_id: str) -> bool:
        """Whether a job belongs to this share; every job belongs to one share of each ``count``."""
        digest = hashlib.sha256(job_id.encode()).digest()
        return int.from_bytes(digest[:8]) % self.count == self.index - 1


WHOLE = Share()


@dataclass(frozen=True)
class Part:
    """The jobs that an engine gives to one of its workers.

    Attributes:
        names: the last words of the jobs' ids; None means none of the jobs of ``share`` yet: they
            are only planned.
    """

    names: Collection[str] | None = None
    share: Share = WHOLE

    @property
    def is_whole(self) -> bool:
        """Whether every job belongs to it."""
        return False

    def has(self, job_id: str) -> bool:
        """Whether a job belongs to it."""
        return self.names is not None and job_id.rpartition(" ")[2] in self.names
