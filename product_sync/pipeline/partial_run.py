"""The size of both sides, of which a partial run has read some products only.

A share of the few products that were read means nothing: one of one is quarantined, both of two are changed. So the
checks that judge a share use these approximate sizes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from product_sync.compare.diff import DiffCounts
from product_sync.state import store
from product_sync.state.store import RunFiles

if TYPE_CHECKING:
    from product_sync.pipeline.sync_run import SyncRun
    from product_sync.schema.ports import Source


def whole_counts(run: SyncRun, source: Source) -> dict[str, int]:
    """About how many documents and rows there are, to be kept with the source snapshot of a partial run."""
    if not run.is_partial:
        return {}
    return {"in_collection": source.estimated_count(), "in_table": run.reader.estimated_count()}


def source_size(files: RunFiles) -> int:
    """How many documents the run has read; of a partial run, about how many the collection has."""
    content = files.read_json(store.SOURCE_COUNT) or {}
    return int(content.get("in_collection", content["documents"]))


def target_size(files: RunFiles, counts: DiffCounts) -> int:
    """How many rows were compared; for a partial run, about how many the table has."""
    content = files.read_json(store.SOURCE_COUNT) or {}
    return max(counts.target_count, int(content.get("in_table", 0)))
