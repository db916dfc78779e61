"""Finds the violations of a round from the planned drift and the content of both servers. Knows nothing of
product_sync.
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
    """How the faulted run ended."""

    RECOVERED = "recovered"
    FAILED = "failed"
    TURNED_AWAY = "turned away"  # before a run was recorded
    CANCELLED = "cancelled"
    KILLED = "killed"
    KILLED_EARLY = "killed before it was recorded"


@dataclass(frozen=True)
class Drift:
    """Rows by id: of the source, and of the target before the run. ``refused`` rows violate a constraint."""

    source: Mapping[str, Row]
    before: Mapping[str, Row]
    refused: frozenset[str]
    batch_size: int

    @property
    def planned(self) -> list[str]:
        """The ids to write in the order of a load: missing products first, then changed ones."""
        return planned(self.source, self.before)

    @property
    def batches(self) -> int:
        return -(-len(self.planned) // self.batch_size)

    @property
    def wanted(self) -> dict[str, Row]:
        """The expected target."""
        extra = {key: row for key, row in self.before.items() if key not in self.source}
        return {key: row for key, row in self.source.items() if key not in self.refused} | extra


@dataclass(frozen=True, slots=True)
class Write:
    """One committed write of a row. ``writer`` is the application name of the session."""

    id: str
    op: str
    transaction: str
    writer: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run, seen by its caller and in the history. ``exit_status`` is negative for a signal and ``None`` if the run
    did not end in time; ``answer`` is its JSON answer, if any. ``run_id`` and ``status`` are empty if the run was not
    recorded; ``log`` is its event log."""

    exit_status: int | None
    answer: Mapping[str, Any]
    run_id: str
    status: str
    log: str

    @property
    def error(self) -> str:
        error = self.answer.get("error") or {}
        return f"{error.get('code', '')}: {error.get('message', '')} {error.get('hint', '')}" if error else ""


@dataclass(frozen=True)
class Evidence:
    """The results of a round. ``faulted.status`` was read after the next run had started. ``left`` are sessions and
    locks that remained long after a run had ended, ``unproven`` is what a full validation after both runs says against
    them."""

    drift: Drift
    faulted: Run
    next: Run
    documents: Mapping[str, Row]
    rows: Sequence[Row]
    writes: Sequence[Write]
    left: Sequence[str] = ()
    unproven: str = ""


@dataclass(frozen=True)
class Expected:
    """How a faulted run may end, and what its error must name."""

    endings: frozenset[Ending]
    cause: str = "."


@dataclass
class Verdict:
    ending: Ending | None
    violations: list[str] = field(default_factory=list)


def planned(source: Mapping[str, Row], target: Mapping[str, Row]) -> list[str]:
    missing = sorted(key for key in source if key not in target)
    return missing + sorted(key for key in source if key in target and source[key] != target[key])


def judge(evidence: Evidence, expected: Expected) -> Verdict:
    ending = ending_of(evidence.faulted)
    violations = [
        *_wrong_end(evidence.faulted, ending, expected),
        *_wrong_next(evidence.next),
        *unequal(evidence.drift, evidence.documents, evidence.rows),
        *written_twice(evidence.writes),
        *half_batches(evidence.drift, evidence.writes, evidence.faulted.run_id),
        *unknown_writers(evidence.writes, (evidence.faulted, evidence.next)),
        *miscounted(evidence.faulted, evidence.writes),
        *miscounted(evidence.next, evidence.writes),
        *(f"left behind: {each}" for each in evidence.left),
        *([f"the full validation afterwards says: {evidence.unproven}"] if evidence.unproven else []),
    ]
    return Verdict(ending, violations)


def ending_of(run: Run) -> Ending | None:
    """``None`` for a run that ended without an error, or whose exit status does not fit its recorded status."""
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
        yield f"it ended with {run.exit_status}, {said}; the history says {run.status or 'nothing'}: {run.log[-300:]}"
    elif ending not in expected.endings:
        yield f"it {ending}: {run.error or run.log[-300:]}"
    if ending in (Ending.FAILED, Ending.TURNED_AWAY) and not re.search(expected.cause, run.error):
        yield f"its error does not name the cause: {run.error}"
    if ending is Ending.FAILED and not re.search(expected.cause, run.log):
        yield f"the history does not name the cause: {run.log[-500:]}"
    if ending is Ending.KILLED and "is gone" not in run.log:
        yield f"the history does not say that it was killed: {run.log[-300:]}"
    if ending is Ending.RECOVERED and run.answer.get("valid") is not True:
        yield f"it succeeded without having compared: {run.answer}"


def _wrong_next(run: Run) -> Iterator[str]:
    if (run.exit_status, run.status, run.answer.get("valid")) != (0, "SUCCESS", True):
        yield f"the next run ended with {run.exit_status} ({run.status or 'not recorded'}): {run.error}"


def unequal(drift: Drift, documents: Mapping[str, Row], rows: Sequence[Row]) -> list[str]:
    """Wrong, missing, additional and repeated rows, and a changed source."""
    found = [f"row {key} is there {count} times" for key, count in Counter(row[0] for row in rows).items() if count > 1]
    target = {row[0]: row for row in rows}
    found += [
        f"row {key} is {str(target.get(key))[:80]}, not {str(drift.wanted.get(key))[:80]}"
        for key in sorted(target.keys() | drift.wanted.keys())
        if target.get(key) != drift.wanted.get(key)
    ]
    if documents != drift.source:
        found.append("the source was changed")
    return found


def written_twice(writes: Sequence[Write]) -> list[str]:
    """Rows that were written more than once by both runs, or deleted."""
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
    """Transactions that wrote a part of a batch, or rows of two batches.

    A batch with refused rows is halved until they are alone, each part in its own transaction, so parts of one batch
    are allowed. The next run makes new batches from the remaining rows. They are known only if no row is refused.
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
    """Sessions that have written without a recorded run."""
    known = [run.run_id for run in runs]
    return sorted(
        {
            f"{one.writer} has written, but its run is not recorded"
            for one in writes
            if not any(_is_of(one, i) for i in known)
        }
    )


def miscounted(run: Run, writes: Sequence[Write]) -> list[str]:
    """Differences between the run's own counts and its writes. A killed run has no counts."""
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
