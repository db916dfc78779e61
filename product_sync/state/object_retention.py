"""Removes from an object store what the state no longer needs, by the rules of `retention`.

Ages are told by the clock of the store alone: this run has just given a sign of life.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from product_sync.state.mirror import Mirror, last_sign, runs_of
from product_sync.state.object_store import TRIAL, Entry
from product_sync.state.retention import (
    KEPT_AT_LEAST,
    KEPT_PLANS,
    KEPT_REPORTS,
    KEPT_RUNS,
    KEPT_UNUSED,
    PARTIAL_RUNS,
    PLANS,
    RUNS,
)


def remove_old_objects(mirror: Mirror, own: Path) -> None:
    """Remove what is too old of all syncs. ``own`` is the folder of the run that asks for it."""
    mirror.objects.remove(entry.name for entry in old_objects(mirror.objects.entries(), mirror.name_of(own)))


def old_objects(entries: list[Entry], own: str) -> Iterator[Entry]:
    """The objects to remove of ``entries``, which are all. ``own`` is the name of the run's folder."""
    runs = runs_of(entries)
    at = {run: last_sign(found) for run, found in runs.items()}
    own_key, newer = own.partition("/")[0], Counter[str]()
    for run in sorted(runs, key=at.__getitem__, reverse=True):
        key, kind = [*run.split("/"), ""][:2]
        age = at[own] - at[run]
        if kind == PLANS:
            is_old = age > KEPT_PLANS.total_seconds()
        elif kind not in (RUNS, PARTIAL_RUNS):
            is_old = key == TRIAL and age > KEPT_AT_LEAST.total_seconds()
        elif key == own_key:
            newer[kind] += 1
            is_old = newer[kind] > KEPT_RUNS and age > KEPT_AT_LEAST.total_seconds()
        else:
            is_old = age > KEPT_UNUSED.total_seconds()
        if is_old:
            yield from runs[run]
    reports = [entry for entry in entries if Path(entry.name).match(f"{own_key}/reports/*.html")]
    yield from sorted(reports, key=lambda entry: entry.modified, reverse=True)[KEPT_REPORTS:]
