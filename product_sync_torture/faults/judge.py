"""Says what a round has left behind that must not be there. Knows what was planned and what the servers hold, and
nothing of product_sync.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Row = tuple[Any, ...]


class Ending(StrEnum):
    """What the struck run came to."""

    RECOVERED = "recovered"
    FAILED = "failed"
    TURNED_AWAY = "turned away"  # before a run began, so that there is none in the history
    CANCELLED = "cancelled"
    KILLED = "killed"
    KILLED_EARLY = "killed before it was recorded"


@dataclass(frozen=True)
class Drift:
    """Rows by id, as they are in the source and as they were in the target; ``refused`` break a rule of the table."""

    source: Mapping[str, Row]
    before: Mapping[str, Row]
    refused: frozenset[str]
    batch_size: int

    @property
    def planned(self) -> list[str]:
        """What has to be written, in the order in which a load goes: missing products first, then changed ones."""
        return planned(self.source, self.before)

    @property
    def batches(self) -> int:
        return -(-len(self.planned) // self.batch_size)

    @property
    def wanted(self) -> dict[str, Row]:
        """The target when all is well."""
        extra = {key: row for key, row in self.before.items() if key not in self.source}
        return {key: row for key, row in self.source.items() if key not in self.refused} | extra


@dataclass(frozen=True, slots=True)
class Write:
    """One row that was written and committed. ``writer`` is how its session called itself."""

    id: str
    op: str
    transaction: str
    writer: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run as its caller and the history saw it. ``exit_status`` is negative for a signal, ``None`` if it had to be
    ended because it did not end; ``answer`` is its last line, empty if it gave none. ``run_id`` and ``status`` are
    empty if the history has no such run; ``told`` is all that the history says of it."""

    exit_status: int | None
    answer: Mapping[str, Any]
    run_id: str
    status: str
    told: str

    @property
    def error(self) -> str:
        error = self.answer.get("error") or {}
        return f"{error.get('code', '')}: {error.get('message', '')} {error.get('hint', '')}" if error else ""


@dataclass(frozen=True)
class Evidence:
    """Of a round. ``struck.status`` is the one after the next run has started; ``left`` are sessions and locks that
    were still there long after a run had ended."""

    drift: Drift
    struck: Run
    next: Run
    documents: Mapping[str, Row]
    rows: Sequence[Row]
    writes: Sequence[Write]
    left: Sequence[str] = ()


@dataclass(frozen=True)
class Expected:
    """How a struck run may end, and what its error has to name where it ends in one."""

    endings: frozenset[Ending]
    cause: str = "."


@dataclass
class RunChecks:
    ending: Ending | None
    violations: list[str] = field(default_factory=list)


def planned(source: Mapping[str, Row], target: Mapping[str, Row]) -> list[str]:
    missing = sorted(key for key in source if key not in target)
    return missing + sorted(key for key in source if key in target and source[key] != target[key])


def judge(evidence: Evidence, expected: Expected) -> RunChecks:
    ending = ending_of(evidence.struck)
    violations = [
        *_wrong_end(evidence.struck, ending, expected),
        *_wrong_next(evidence.next),
        *unequal(evidence.drift, evidence.documents, evidence.rows),
        *written_twice(evidence.writes),
        *half_batches(evidence.drift, evidence.writes, evidence.struck.run_id),
        *unknown_writers(evidence.writes, (evidence.struck, evidence.next)),
        *miscounted(evidence.struck, evidence.writes),
        *miscounted(evidence.next, evidence.writes),
        *(f"left behind: {each}" for each in evidence.left),
    ]
    return RunChecks(ending, violations)


def ending_of(run: Run) -> Ending | None:
    """``None`` for a run that ended in silence, or in a way that its exit status does not tell."""
    match run.exit_status, run.status:
        case 0, "SUCCESS":
            return Ending.RECOVERED
        case ((1 | 3), "FAILURE") if run.error:
            return Ending.FAILED
        case ((1 | 3), "") if run.error:
            return Ending.TURNED_AWAY
        case 130, ("CANCELED" | "") if run.error:
            return Ending.CANCELLED
        case ((-15), ""):
            return Ending.KILLED_EARLY
        case ((-9), "FAILURE"):
            return Ending.KILLED
        case ((-9), ""):
            return Ending.KILLED_EARLY
    return None


def _wrong_end(run: Run, ending: Ending | None, expected: Expected) -> Iterator[str]:
    if ending is None:
        said = run.error or "without an error"
        yield f"it ended with {run.exit_status}, {said}; the history says {run.status or 'nothing'}: {run.told[-300:]}"
    elif ending not in expected.endings:
        yield f"it {ending}: {run.error or run.told[-300:]}"
    if ending in (Ending.FAILED, Ending.TURNED_AWAY) and not re.search(expected.cause, run.error):
        yield f"its error does not name the cause: {run.error}"
    if ending is Ending.FAILED and not re.search(expected.cause, run.told):
        yield f"the history does not name the cause: {run.told[-500:]}"
    if ending is Ending.KILLED and "is gone" not in run.told:
        yield f"the history does not say that it was killed: {run.told[-300:]}"
    if ending is Ending.RECOVERED and run.answer.get("valid") is not True:
        yield f"it succeeded without having compared: {run.answer}"


def _wrong_next(run: Run) -> Iterator[str]:
    if (run.exit_status, run.status, run.answer.get("valid")) != (0, "SUCCESS", True):
        yield f"the next run ended with {run.exit_status} ({run.status or 'not recorded'}): {run.error}"


def unequal(drift: Drift, documents: Mapping[str, Row], rows: Sequence[Row]) -> list[str]:
    """Rows that are not as the source has them, too few, too many or twice; and a source that was changed."""
    found = [f"row {key} is there {count} times" for key, count in Counter(row[0] for row in rows).items() if count > 1]
    target = {row[0]: row for row in rows}
    found += [
        f"row {key} is {str(target.get(key))[:80]}, not {str(drift.wanted.get(key))[:80]}"
        for key in sorted(target.keys() | drift.wanted.keys())
        if target.get(key) != drift.wanted.get(key)
    ]
    if documents != drift.source:
        found.append("the source is another one")
    return found


def written_twice(writes: Sequence[Write]) -> list[str]:
    """Rows that were written more than once in all, and rows that were deleted."""
    return [
        f"row {key} was written {len(ops)} times: {', '.join(ops)}"
        for key, ops in _ops_by_id(writes).items()
        if len(ops) > 1 or "DELETE" in ops
    ]


def _ops_by_id(writes: Sequence[Write]) -> dict[str, list[str]]:
    ops: dict[str, list[str]] = defaultdict(list)
    for write in writes:
        ops[write.id].append(write.op)
    return ops


def half_batches(drift: Drift, writes: Sequence[Write], first_run: str) -> list[str]:
    """Transactions that wrote a part of a batch, or of two.

    A batch with refused rows is halved until they stand alone, each part in a transaction of its own; but none of it
    may share one with another batch. The run after the struck one plans anew: from what is left, where nothing is
    refused; what was refused before stands at another place then.
    """
    wrong = _torn(_batches(drift, drift.planned), _transactions(writes, lambda w: _is_of(w, first_run)), drift)
    if drift.refused:
        return wrong
    done = {write.id for write in writes if _is_of(write, first_run)}
    left = [key for key in drift.planned if key not in done]
    return wrong + _torn(_batches(drift, left), _transactions(writes, lambda w: not _is_of(w, first_run)), drift)


def _batches(drift: Drift, ids: Sequence[str]) -> list[frozenset[str]]:
    return [frozenset(ids[start : start + drift.batch_size]) for start in range(0, len(ids), drift.batch_size)]


def _transactions(writes: Sequence[Write], chosen: Callable[[Write], bool]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for write in writes:
        if chosen(write):
            found[write.transaction].add(write.id)
    return found


def _torn(batches: Sequence[frozenset[str]], transactions: Mapping[str, set[str]], drift: Drift) -> list[str]:
    wrong = []
    for ids in transactions.values():
        batch = next((batch for batch in batches if batch & ids), frozenset())
        if not (ids == batch or (ids < batch and batch & drift.refused)):
            wrong.append(f"a transaction wrote {sorted(ids)} of the batch {sorted(batch)}")
    return wrong


def unknown_writers(writes: Sequence[Write], runs: Sequence[Run]) -> list[str]:
    """Sessions that have written although the history knows no run of theirs."""
    known = [run.run_id for run in runs]
    return sorted(
        {f"{one.writer} has written, and is in no history" for one in writes if not any(_is_of(one, i) for i in known)}
    )


def miscounted(run: Run, writes: Sequence[Write]) -> list[str]:
    """What the run says that it wrote, beside what it wrote. One that was killed says nothing."""
    ours = Counter(write.op for write in writes if run.run_id and _is_of(write, run.run_id))
    said = {"INSERT": run.answer.get("inserted"), "UPDATE": run.answer.get("updated")}
    if not run.answer:
        return []
    return [
        f"run {run.run_id[:8]} says that it wrote {count} rows by {op}, it wrote {ours[op]}"
        for op, count in said.items()
        if (count or 0) != ours[op]
    ]


def _is_of(write: Write, run_id: str) -> bool:
    return bool(run_id) and f" {run_id[:8]} " in f"{write.writer} "
