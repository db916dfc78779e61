"""The counts of drift of the last runs, which every drift report shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from product_sync.errors import LocalStorageError
from product_sync.state.replaced import Replaced
from product_sync.state.store import StateFolder, read_json, write_json

#: How many runs the history of drift holds.
KEPT_HISTORY: Final = 30
HISTORY: Final = "reports/history.json"


@dataclass(frozen=True, slots=True)
class PastDrift:
    """What a run found. ``conflicts`` were settled by others before they were written; ``None`` if nothing was to be
    written. ``at`` is ISO 8601."""

    run_id: str
    at: str
    missing: int
    changed: int
    extra: int
    quarantined: int
    conflicts: int | None


def add_to_history(folder: StateFolder, drift: PastDrift) -> list[PastDrift]:
    """The drift of the last `KEPT_HISTORY` runs. This run is the last one."""
    file = folder.replaced(HISTORY)

    def add(path: Path) -> list[PastDrift]:
        earlier = [run for run in _read(file) if run.run_id != drift.run_id]
        history = [*earlier, drift][-KEPT_HISTORY:]
        write_json(path, {"runs": [asdict(run) for run in history]})
        return history

    return file.replace(add)


def _read(file: Replaced) -> list[PastDrift]:
    try:
        content = read_json(file.path)
        return [] if content is None else [PastDrift(**run) for run in content["runs"]]
    except (LocalStorageError, TypeError, KeyError):
        file.set_aside("The history of drift", "The drift report shows the runs from now on.")
        return []
