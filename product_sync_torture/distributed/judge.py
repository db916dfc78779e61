"""Finds the violations of a round from the content of both sides, the target's record of writes, and what the runs say
that they have written. Knows nothing of product_sync.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

Row = tuple[Any, ...]
#: How long after the end of its run a step may go on to write: two looks at the run, and a busy machine.
_NOTICES_S: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Write:
    """One committed write of a row, by a session that names its run."""

    id: str
    run: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RunRecord:
    """``counts`` are what a successful run says that it has done: rows inserted, updated and so on, and conflicts."""

    name: str
    succeeded: bool
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Evidence:
    """``runs`` are the one with the kill, and the last one after it. ``ended_at`` is when the first was recorded as
    ended by force; ``None`` if it ended by itself."""

    wanted: Mapping[str, Row]
    rows: Mapping[str, Row]
    writes: Sequence[Write]
    runs: Sequence[RunRecord]
    ended_at: datetime | None


def violations(evidence: Evidence) -> Iterator[str]:
    first, last = evidence.runs
    if not last.succeeded:
        yield "the next run failed"
    if evidence.rows != evidence.wanted:
        wrong = [
            key for key in {*evidence.rows, *evidence.wanted} if evidence.rows.get(key) != evidence.wanted.get(key)
        ]
        yield f"{len(wrong)} rows are wrong, such as {sorted(wrong)[:3]}"
    twice = [key for key, times in Counter(write.id for write in evidence.writes).items() if times > 1]
    if twice:
        yield f"{len(twice)} rows were written twice, such as {sorted(twice)[:3]}"
    others = [write.at for write in evidence.writes if write.run != first.name]
    own = [write.at for write in evidence.writes if write.run == first.name]
    if own and others and max(own) > min(others):
        yield "two runs wrote the table at once"
    if first.succeeded and others:
        yield f"the run was green, and left {len(others)} rows to the next one"
    if evidence.ended_at and own and max(own) > evidence.ended_at + _NOTICES_S:
        yield f"a step wrote {(max(own) - evidence.ended_at).total_seconds():.0f} s after the end of its run"
    for run, written in ((first, len(own)), (last, len(others))):
        said = dict(run.counts)
        if run.succeeded and (said.pop("conflicts", 0), sum(said.values())) != (0, written):
            yield f"run {run.name} wrote {written} rows, and says: {dict(run.counts)}"
