"""Decides whether a failed sync may have written rows, and gives its error the exit status that says so.

Exit statuses 2 and 3 promise that nothing was written. An error's class cannot know that: the server that is
unreachable before the first batch is the same error when the result is verified after the last one. So the status is
decided here, once, from what the load counted (docs/decisions/0087).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from product_sync.errors import ConfigurationError, LocalStorageError, NotAttempted, ProductSyncError
from product_sync.results import SyncReport
from product_sync.state.store import LOAD_BEGAN, LOAD_RESULT, find_run

#: Counts of rows that the load changed in the target.
WRITTEN: Final = ("inserted", "updated", "deleted", "taken_back")
#: The exit statuses that promise that nothing was written.
NOTHING_WRITTEN: Final = (ConfigurationError.exit_status, NotAttempted.exit_status)
#: The exit status of an error that ended a run after it had begun to write.
AFTER_WRITING: Final = ProductSyncError.exit_status


def correct_exit_status(failure: ProductSyncError, report: SyncReport, root: Path) -> None:
    """Give ``failure`` exit status 1 if it promises that nothing was written and that is not certain. ``root`` is the
    state folder. The counts come from ``report``, or from the result that the load wrote to the run's folder. A load
    that began and left no readable result may have written."""
    if failure.exit_status not in NOTHING_WRITTEN:
        return
    counts = {name: getattr(report, name) for name in WRITTEN}
    if not any(counts.values()):
        found = load_result(root, report.run_id)
        counts = {} if found is None else {name: found.get(name) for name in WRITTEN}
        if found is not None and not any(counts.values()):
            return
    failure.exit_status = AFTER_WRITING
    said = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items() if count)
    stays = f"What was written before stays: {said}." if said else "How much was written before is not known."
    failure.hint = f"{failure.hint} {stays}".lstrip()


def load_result(root: Path, run_id: str | None) -> Mapping[str, Any] | None:
    """The counts of the run's load: empty if it did not begin, ``None`` if they cannot be read."""
    files = find_run(root, run_id) if run_id else None
    if files is None or not files.has(LOAD_BEGAN):
        return {}
    try:
        return files.read_json(LOAD_RESULT)
    except (OSError, LocalStorageError):
        return None
