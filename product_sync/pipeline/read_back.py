"""What a run has read and found, read back from its files: for its later steps, and for people.

A share of the few products that a partial run has read means nothing: one of one is quarantined, both of two are
changed. So the checks that judge a share use the approximate sizes of both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from product_sync.compare import quarantine
from product_sync.compare.diff import DiffCounts
from product_sync.compare.diff_lines import SHOWN, Difference
from product_sync.pipeline.pending_diff import counts_of, first_of
from product_sync.results import SampleValue
from product_sync.schema.records import Reason
from product_sync.state import store
from product_sync.state.files import row_count
from product_sync.state.store import RunFiles
from product_sync.verify import checks
from product_sync.verify.checks import CheckResult

if TYPE_CHECKING:
    from product_sync.pipeline.sync_run import SyncRun


def first_rejects(run: SyncRun) -> list[dict[str, Any]]:
    return quarantine.first_entries(run.newest(store.SOURCE_COUNT).path(store.REJECTS), SHOWN)


def first_differing(run: SyncRun) -> list[Difference]:
    return first_of(run.newest(store.DIFF_COUNTS))


def quarantine_summary(run: SyncRun) -> tuple[int, Mapping[Reason, int]]:
    path = run.folder.quarantine
    count = row_count(path)
    return count, quarantine.summary(path) if count else {}


def sample_product(files: RunFiles) -> list[SampleValue]:
    return [SampleValue(**value) for value in _read(files).get("product", ())]


def source_size(files: RunFiles) -> int:
    """How many documents the run has read; of a partial run, about how many the collection has."""
    read = _read(files)
    return int(read.get("in_collection", read["documents"]))


def target_size(files: RunFiles, counts: DiffCounts) -> int:
    """How many rows were compared; for a partial run, about how many the table has."""
    return max(counts.target_count, int(_read(files).get("in_table", 0)))


def check_source(run: SyncRun, files: RunFiles) -> CheckResult:
    """Whether a source snapshot looks complete; of a partial run, whether the collection does."""
    accepted = run.settings.accept_source_count
    return checks.source_looks_complete(
        source_size(files), run.folder.read_baseline(), accepted, run.commands, run.scope
    )


def check_mapping(run: SyncRun, files: RunFiles) -> CheckResult:
    read, columns = _read(files), run.row_schema.values
    return checks.mapping_fits_source(read["documents"], columns, read.get("found", {}), read.get("advice", {}))


def check_change(run: SyncRun) -> CheckResult:
    """Whether the newest diff, this run's first, is a change that may be written."""
    files = run.newest(store.DIFF_COUNTS)
    counts = counts_of(files)
    in_table = target_size(files, counts)
    return checks.change_is_plausible(counts.changed, in_table, run.settings.accept_changes, run.commands)


def _read(files: RunFiles) -> dict[str, Any]:
    return files.read_json(store.SOURCE_COUNT) or {}
