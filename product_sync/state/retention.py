"""Removes what the state no longer needs: files of old runs, old plans, and leftovers of killed processes."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from product_sync.state.files import TEMPORARY
from product_sync.state.mirror import Mirror, last_sign, runs_of
from product_sync.state.object_store import TRIAL, Entry

#: The folders of runs that read everything, and of those that read some products. They are apart: nobody may take a
#: snapshot of some products for one of everything, and many short runs may not remove the files of the last full one.
RUNS: Final = "runs"
PARTIAL_RUNS: Final = "partial_runs"
PLANS: Final = "plans"
#: How many runs of each kind keep their files.
KEPT_RUNS: Final = 5
#: A run that gave a sign of life within this time keeps its files in any case. Otherwise several dry runs during a long
#: sync would remove the snapshots of that sync.
KEPT_AT_LEAST: Final = timedelta(hours=1)
#: Plans of dry runs are kept apart from the runs, so that no number of runs removes a plan that a person is reading.
KEPT_PLANS: Final = timedelta(days=1)
#: How long the runs of other state keys are kept: their mapping may no longer be in use.
KEPT_UNUSED: Final = timedelta(days=30)
#: Drift reports are small, and people read them long after their run.
KEPT_REPORTS: Final = 100
_LEFT_BY_KILLED: Final = f".*{TEMPORARY}"


def remove_old_files(folder: Path, now: datetime) -> None:
    """Remove what is too old in the state folder ``folder`` of one sync, and in the folders of other syncs beside it.
    The run that asks for it has given a sign of life. ``now`` is aware."""
    _date_back(folder, now)
    root = folder.parent
    runs = [path for kind in (RUNS, PARTIAL_RUNS, PLANS) for path in root.glob(f"*/{kind}/*")]
    signs = {path.relative_to(root).as_posix(): changed_at(path) for path in runs}
    old = [root / name for name in _old_runs(signs, folder.name, now.timestamp())]
    left = (*folder.glob(_LEFT_BY_KILLED), *folder.glob(f"reports/{_LEFT_BY_KILLED}"))
    old += [path for path in left if changed_at(path) < (now - KEPT_AT_LEAST).timestamp()]
    for path in old:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _old_runs(signs: Mapping[str, float], own_key: str, now: float) -> Iterator[str]:
    """Those of the runs and plans that are too old. ``signs`` has all of them, of all syncs: the name of the folder,
    and the time of the last sign of life. ``own_key`` is the key of the sync that asks for it."""
    newer = Counter[str]()
    for run in sorted(signs, key=signs.__getitem__, reverse=True):
        key, kind = [*run.split("/"), ""][:2]
        age = timedelta(seconds=now - signs[run])
        if kind == PLANS:
            is_old = age > KEPT_PLANS
        elif kind not in (RUNS, PARTIAL_RUNS):
            is_old = key == TRIAL and age > KEPT_AT_LEAST
        elif key == own_key:
            newer[kind] += 1
            is_old = newer[kind] > KEPT_RUNS and age > KEPT_AT_LEAST
        else:
            is_old = age > KEPT_UNUSED
        if is_old:
            yield run


def _date_back(folder: Path, now: datetime) -> None:
    """Make runs that a wrong clock dated into the future the oldest ones. Otherwise they would be the newest for
    years."""
    oldest = (now - KEPT_UNUSED).timestamp() + 1
    for run in (*newest_runs(folder), *newest_runs(folder, PARTIAL_RUNS)):
        if changed_at(run) > (now + KEPT_AT_LEAST).timestamp():
            for path in (*run.iterdir(), run):
                os.utime(path, (oldest, oldest))


def make_room(root: Path, now: datetime) -> None:
    """Remove the old files of every sync below ``root``. A full disk would keep the next run from doing it."""
    for folder in {runs.parent for kind in (RUNS, PARTIAL_RUNS) for runs in root.glob(f"*/{kind}")}:
        with suppress(OSError):
            remove_old_files(folder, now)


def remove_old_objects(mirror: Mirror, own: Path) -> None:
    """As `remove_old_files`, in an object store and for all syncs. Ages are told by the clock of the store alone: the
    run ``own`` has just given a sign of life."""
    mirror.objects.remove(entry.name for entry in old_objects(mirror.objects.entries(), mirror.name_of(own)))


def old_objects(entries: list[Entry], own: str) -> Iterator[Entry]:
    """The objects to remove of ``entries``, which are all. ``own`` is the name of the run's folder."""
    runs, own_key = runs_of(entries), own.partition("/")[0]
    signs = {run: last_sign(found) for run, found in runs.items()}
    for run in _old_runs(signs, own_key, signs[own]):
        yield from runs[run]
    reports = [entry for entry in entries if Path(entry.name).match(f"{own_key}/reports/*.html")]
    yield from sorted(reports, key=lambda entry: entry.modified, reverse=True)[KEPT_REPORTS:]


def newest_runs(folder: Path, kind: str = RUNS) -> list[Path]:
    """The folders of the runs in the state folder of one sync, the newest first."""
    return sorted((entry for entry in folder.glob(f"{kind}/*") if entry.is_dir()), key=changed_at, reverse=True)


def changed_at(path: Path) -> float:
    """Seconds since 1970; 0 for a file that another run has just removed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
