"""The lock on the target table, as schedules and commands see it before a run has begun (docs/decisions/0089)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from product_sync.pipeline.sync_run import WAIT_STAGE, resolve_row_schema
from product_sync.runtime.progress import OnProgress, waiting
from product_sync.schema.mapping import load_mapping
from product_sync.schema.records import TargetTable
from product_sync.settings import TargetAddress
from product_sync.targets.postgres import lock

if TYPE_CHECKING:
    from product_sync.pipeline.head_start import HeadStart

#: Seconds that a schedule may spend on connecting.
_CONNECT_WITHIN_S = 5.0


def lock_is_free_now(target: TargetAddress, mapping_path: Path) -> str | None:
    """As `lock_holder`, without reflecting the table, and within a few seconds: for schedules."""
    named = load_mapping(mapping_path).target
    return lock.lock_holder(target.url, TargetTable(named.db_schema, named.table, (), ()), within_s=_CONNECT_WITHIN_S)


def wait_until_lock_is_free(
    target: TargetAddress, mapping_path: Path, wait_s: float, on_progress: OnProgress, head_start: HeadStart | None
) -> None:
    """Wait until no other sync holds the lock. Raises `SyncAlreadyRunning` after ``wait_s`` seconds."""
    lock.wait_until_free(
        target.url,
        resolve_row_schema(target, mapping_path, head_start).table,
        wait_s=wait_s,
        on_wait=lambda note: on_progress(waiting(WAIT_STAGE, note)),
    )
