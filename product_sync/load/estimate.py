"""Measures how long a load would take, by really running its first batch and rolling it back.

A number that was not measured is worse than none: where nothing could be tried, the estimate says why instead
(design section 5, "Dry run").
"""

from __future__ import annotations

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
from product_sync.runtime.clock import Timing
from product_sync.schema.ports import Source, TargetWriter, WriteBatch
from product_sync.schema.row_schema import RowSchema

#: Adaptive pacing begins small; after so many batches, each up to four times as large, it is near the size it wants.
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Estimate:
    """``seconds`` that the load would take, pauses included, or ``None`` and ``because``. ``batches`` that it
    would have."""

    seconds: float | None
    batches: int
    because: str | None = None


def count_batches(plan: Path, pacing: Pacing) -> int:
    """How many batches of inserts and updates the diff file makes."""
    return _count(plan, pacing.batch_size)


def _count(plan: Path, next_size: Callable[[], int]) -> int:
    return sum(1 for _ in read_batches(plan, WRITES, next_size))


def not_probed(plan: Path, pacing: Pacing, because: str) -> Estimate:
    """The estimate where no batch may be tried: zero if there is nothing to do, else none."""
    batches = count_batches(plan, pacing)
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
    """Try the first batch of ``plan`` and multiply. The writer holds the lock, and nothing is committed.

    The first batch is read again as the load would. If the database refuses rows of it, the largest half that it
    takes is the measure. A policy that wants a larger batch once it has seen the cost of the first one gets it, a few
    times.
    """
    batches = count_batches(plan, pacing)
    if batches == 0:
        return Estimate(0.0, 0)
    stale = (timing.now() - source_taken_at).total_seconds() > policy.source_recheck_after_s
    asked, batch_s = 0, 0.0
    try:
        for _ in range(_TRIES):
            if pacing.batch_size() <= asked:
                break
            asked = pacing.batch_size()
            rows = next(read_batches(plan, WRITES, pacing.batch_size))
            started = timing.monotonic()
            batch = recheck(rows, row_schema, source, inserts_too=stale).batch
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
    """Seconds for the whole batch, scaled up from the first part of it that the database takes. Rows that wait for
    other rows are left out."""
    parts = [batch]
    asked = False
    while True:
        part = parts.pop()
        started = timing.monotonic()
        try:
            writer.probe(part)
        except RowsRefused as refusal:
            if isinstance(refusal, RowsExcluded) and not asked:
                asked = True
                waiting = {obstacle.row for obstacle in writer.obstacles(part)}
                ids = part.ids(part.inserts.schema.names[0])
                free = [place for place, row_id in enumerate(ids) if row_id not in waiting]
                if waiting and not free:
                    raise
                if waiting:
                    parts.append(part.take(free))
                    continue
            middle = part.num_rows // 2
            if middle:
                parts += [part.slice(middle, part.num_rows - middle), part.slice(0, middle)]
            if not parts:
                raise
        else:
            return (timing.monotonic() - started) * batch.num_rows / max(part.num_rows, 1)
