"""Finds the violations of a round from the content of both sides and the target's record of writes. Knows nothing of
product_sync.
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
class Evidence:
    """``ended_at`` is when the first run was recorded as ended by force; ``None`` if it ended by itself. The names of
    runs are those of their sessions."""

    wanted: Mapping[str, Row]
    rows: Mapping[str, Row]
    writes: Sequence[Write]
    first: str
    succeeded: bool
    next_succeeded: bool
    ended_at: datetime | None


def violations(evidence: Evidence) -> list[str]:
    return list(_violations(evidence))


def _violations(evidence: Evidence) -> Iterator[str]:
    if not evidence.next_succeeded:
        yield "the next run failed"
    if evidence.rows != evidence.wanted:
        wrong = sorted(key for key in {*evidence.rows, *evidence.wanted} if _differs(key, evidence))
        yield f"{len(wrong)} rows are wrong, such as {wrong[:3]}"
    twice = [key for key, times in Counter(write.id for write in evidence.writes).items() if times > 1]
    if twice:
        yield f"{len(twice)} rows were written twice, such as {sorted(twice)[:3]}"
    others = [write.at for write in evidence.writes if write.run != evidence.first]
    own = [write.at for write in evidence.writes if write.run == evidence.first]
    if own and others and max(own) > min(others):
        yield "two runs wrote the table at once"
    if evidence.succeeded and others:
        yield f"the run was green, and left {len(others)} rows to the next one"
    if evidence.ended_at and own and max(own) > evidence.ended_at + _NOTICES_S:
        yield f"a step wrote {(max(own) - evidence.ended_at).total_seconds():.0f} s after the end of its run"


def _differs(key: str, evidence: Evidence) -> bool:
    return evidence.rows.get(key) != evidence.wanted.get(key)
