"""Measures how long a load would take: runs its first batch and rolls it back.

A number that was not measured is worse than none. If nothing can be tried, the estimate says why (design section 5,
"Dry run").
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from product_sync.errors import (
    EveryBatchWouldFail,
    RowsExcluded,
    RowsRefused,
    SourceReadError,
    TransientError,
    Unreachable,
)
from product_sync.load.batching import read_batches
from product_sync.load.loader import DEFAULT_POLICY, WRITES, LoadPolicy
from product_sync.load.pacing import Pacing
from product_sync.load.recheck import recheck
from product_sync.load.transactions import bisected
from product_sync.runtime.clock import Timing
from product_sync.schema.ports import Source, TargetWriter, WriteBatch, Written
from product_sync.schema.row_schema import RowSchema

#: Adaptive pacing begins with small batches. After so many, each up to four times as large, it has found its size.
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Estimate:
    """``seconds`` that the load would take, with its pauses, or ``None`` and ``because``; and how many ``batches``."""

    seconds: float | None
    batches: int
    because: str | None = None


def _count(plan: Path, next_size: Callable[[], int]) -> int:
    return sum(1 for _ in read_batches(plan, WRITES, next_size))


def not_probed(plan: Path, pacing: Pacing, because: str) -> Estimate:
    """The estimate if no batch may be tried: zero if there is nothing to do, else the reason."""
    batches = _count(plan, pacing.batch_size)
    return Estimate(None, batches, because) if batches else Estimate(0.0, 0)


def estimate(
    plan: Path,
    row_schema: RowSchema,
    source: Source,
    writer: TargetWriter,
    *,
    source_taken_at: datetime,
    pacing: Pacing,
    timing: Timing,
    policy: LoadPolicy = DEFAULT_POLICY,
) -> Estimate:
    """Tries the first batch of ``plan``, and multiplies. Nothing is committed. The batch is read again as in the load.
    If the database refuses rows of it, the largest part that it accepts is measured. A pacing that wants a larger batch
    after the first measurement gets it, a few times."""
    batches = _count(plan, pacing.batch_size)
    if batches == 0:
        return Estimate(0.0, 0)
    is_old = policy.is_old(source_taken_at, timing.now())
    asked, batch_s = 0, 0.0
    try:
        for _ in range(_TRIES):
            if pacing.batch_size() <= asked:
                break
            asked = pacing.batch_size()
            rows = next(read_batches(plan, WRITES, pacing.batch_size))
            started = timing.monotonic()
            batch = recheck(rows, row_schema, source, inserts_too=is_old).batch
            reading_s = timing.monotonic() - started
            writing_s = _measured(writer, batch, timing)
            batch_s = reading_s + writing_s
            pacing.batch_done(rows.num_rows, writing_s, reading_s)
    except RowsExcluded as error:
        because = "The rows of the first batch wait for other rows, and are written after all batches"
        return Estimate(None, batches, f"{because}: {error}")
    except RowsRefused as error:
        return Estimate(None, batches, f"The database refuses the rows of the first batch: {error}")
    except (TransientError, EveryBatchWouldFail, SourceReadError, Unreachable) as error:
        return Estimate(None, batches, f"The first batch could not be tried: {error}")
    batches = _count(plan, lambda: asked)
    return Estimate(batches * batch_s + (batches - 1) * pacing.pause_s(), batches)


def _measured(writer: TargetWriter, batch: WriteBatch, timing: Timing) -> float:
    """Seconds for the whole batch, scaled up from the first part of it that the database accepts. Rows that wait for
    other rows are left out. Raises the last refusal if it accepts none."""
    started = timing.monotonic()

    def probe(part: WriteBatch) -> Written:
        nonlocal started
        started = timing.monotonic()
        return writer.probe(part)

    refusal: RowsRefused | None = None
    for part, outcome in bisected(batch, probe, writer.obstacles):
        if isinstance(outcome, Written):
            return (timing.monotonic() - started) * batch.num_rows / part.num_rows
        refusal = outcome
    if refusal:
        raise refusal
    return 0.0
