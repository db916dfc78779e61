"""The state folder, which outlives a run: snapshots, diffs, the quarantine, the source baseline.

Each sync has a folder named by its state key (`RowSchema.state_key`), so that another target or another mapping never
meets the state of the first: a run would compare a shop with the wrong past, and could take all of its rows for extra.
Files appear whole or not at all (temporary file and rename).

    <root>/<state key>/quarantine.arrow
    <root>/<state key>/baseline.json
    <root>/<state key>/runs/<run id>/{source,rejects,target,diff,...}.arrow, load.json
    <root>/<state key>/runs/<run id>/shards/<number>/...    the tables that those of the run consist of
    <root>/<state key>/partial_runs/<run id>/...    runs that read only some products
    <root>/<state key>/plans/<run id>/{diff.arrow,diff.json,plan.json}
    <root>/<state key>/reports/{history.json,<run id>.html}

With a URL in PRODUCT_SYNC_STATE, ``root`` is the scratch folder of this process (`state.mirror`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from product_sync.errors import LocalStorageError, ProductSyncError
from product_sync.state.access import refused, require_usable
from product_sync.state.files import check_table, replaced_durably
from product_sync.state.mirror import group_of, here, is_there, mirror_of
from product_sync.state.replaced import Replaced
from product_sync.state.retention import (
    KEPT_REPORTS,
    PARTIAL_RUNS,
    PLANS,
    RUNS,
    changed_at,
    newest_runs,
    remove_old_files,
    remove_old_objects,
)
from product_sync.state.storage_errors import damaged

#: The ranges of ids of a run with shards. Each shard has a folder of its own below `SHARDS`.
CUT, SHARDS = "cut.json", "shards"
SOURCE_ROWS = "source.arrow"
SOURCE_COUNT = "source.json"
REJECTS = "rejects.arrow"
TARGET_ROWS = "target.arrow"
#: The rows of the source and of the target that are still to be compared.
UNMATCHED_ROWS = ("unmatched_source.arrow", "unmatched_target.arrow")
DIFF = "diff.arrow"
DIFF_COUNTS = "diff.json"
LOAD_REJECTS = "load_rejects.arrow"
LOAD_RESULT = "load.json"
#: Rows of a shard that wait for other rows, perhaps of other shards.
WAITING = "waiting.arrow"
#: Written before the first batch: a load that finds it is repeated.
LOAD_BEGAN = "load_began.json"
#: The same of a step that loads one shard, and may be repeated.
ATTEMPTED = "attempted.json"
#: The position in the source's changes that a full run took, and the changes that a pass has read.
CHANGE_POSITION = "change_position.json"
CHANGED_IDS = "changed_ids.json"
VERIFIED_TARGET_ROWS = "verified_target.arrow"
VERIFIED_DIFF = "verified_diff.arrow"
VERIFIED_COUNTS = "verified.json"
APPROVED_DIFF = "approved_diff.arrow"
PLAN = "plan.json"
QUARANTINE = "quarantine.arrow"
BASELINE = "baseline.json"


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of one run. Names that begin with ``verified_`` are those of the reading that proves the result. With a
    store (`state.mirror`) a file is fetched when it is first read, and other processes see the files of a step once it
    has published them."""

    folder: Path

    @property
    def run_id(self) -> str:
        return self.whole.folder.name

    @property
    def whole(self) -> RunFiles:
        """The files of the run; of a shard, those of its run."""
        return RunFiles(self.folder.parent.parent) if self.folder.parent.name == SHARDS else self

    def shard(self, number: int) -> RunFiles:
        """The files of a shard. Its folder exists once it has written one."""
        return RunFiles(self.folder / SHARDS / str(number))

    def path(self, name: str) -> Path:
        """Where the file is, or will be. What reads it fetches it (`mirror.here`)."""
        return self.folder / name

    def has(self, name: str) -> bool:
        return is_there(self.path(name))

    def size(self, name: str) -> int:
        """The bytes of a file, with those of the same name of shards."""
        if mirror := mirror_of(self.folder):
            found = [entry.size for path, entry in mirror.view(self.folder).items() if Path(path).name == name]
        else:
            found = [path.stat().st_size for path in self.folder.rglob(name)]
        return sum(found)

    def to_fetch(self, name: str) -> int:
        """The bytes to fetch from the store before all of the file can be read."""
        return 0 if mirror_of(self.folder) is None or self.path(name).exists() else self.size(name)

    def age_rank(self, name: str) -> tuple[float, str]:
        """Larger for a newer file: its time, and within a second of the store's clock the order of the groups."""
        mirror = mirror_of(self.folder)
        entry = mirror.entry(self.folder / name) if mirror else None
        return (entry.modified, group_of(entry)) if entry else (changed_at(self.folder / name), "")

    def publish(self, *only: str) -> None:
        """Let other processes see the new files, or those of them named ``only``: all at once. Without a store they see
        them anyway. Raises `StateStoreError`."""
        if mirror := mirror_of(self.folder):
            mirror.publish(self.folder, only)

    def touch(self, now: datetime) -> None:
        """Give a sign of life. ``now`` is aware."""
        os.utime(self.folder, (now.timestamp(), now.timestamp()))
        if mirror := mirror_of(self.folder):
            # A store that is away for a while neither ends nor delays a run that does not need it now.
            with suppress(ProductSyncError):
                mirror.give_sign_of_life(self.folder, retry_s=0)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other step of this run is in this block. With one process for each step, two checks may run at
        once."""
        with FileLock(self.path(".lock")):
            yield

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        write_json(self.path(name), content)

    def read_json(self, name: str) -> dict[str, Any] | None:
        return read_json(here(self.path(name)))


@dataclass(frozen=True, slots=True)
class StateFolder:
    """State of one state key below ``root``."""

    root: Path
    key: str

    @property
    def folder(self) -> Path:
        return self.root / self.key

    def replaced(self, name: str) -> Replaced:
        """A file that outlives a run."""
        return Replaced(self.folder / name)

    @property
    def quarantine(self) -> Path:
        """The newest quarantine, which may not exist."""
        return self.replaced(QUARANTINE).read()

    def sound_quarantine(self) -> Path | None:
        """The file of the quarantine, after it was read once to its end; ``None`` if there is none or it is damaged."""
        path = self.quarantine
        try:
            if path.exists():
                check_table(path)
                return path
        except LocalStorageError:
            lost = "Every document is tried again, and `first_seen` and `attempts` count from the next sync."
            self.replaced(QUARANTINE).set_aside("The quarantine", lost)
        return None

    def run(self, run_id: str) -> RunFiles:
        """The files of this run, which may have been removed."""
        partial = self.folder / PARTIAL_RUNS / run_id
        return RunFiles(partial if partial.exists() else self.folder / RUNS / run_id)

    def plan(self, plan_id: str) -> RunFiles:
        """The files of a plan, which may not exist. `PLAN` is written last."""
        folder = self.folder / PLANS / plan_id
        if mirror := mirror_of(folder):
            mirror.view(folder, afresh=True)
        return RunFiles(folder)

    def begin(self, run_id: str, now: datetime, *, partial: bool = False) -> RunFiles:
        """Make the folder of this run and remove the files of old runs. ``now`` is aware. A ``partial`` run reads only
        some products: no other run uses its files. Raises `ConfigurationError` for a folder that this user cannot use,
        `LocalStorageError` where there is no room."""
        files = RunFiles(self.folder / (PARTIAL_RUNS if partial else RUNS) / run_id)
        try:
            if not files.folder.exists():
                self._require_usable(now)
            files.folder.mkdir(parents=True, exist_ok=True)
            if mirror := mirror_of(self.root):
                is_new = mirror.is_new(files.folder)
                # What earlier steps of the run have stored. The first step removes the objects of old runs.
                if not mirror.view(files.folder, afresh=True) and is_new:
                    mirror.give_sign_of_life(files.folder)
                    remove_old_objects(mirror, files.folder)
            files.touch(now)
            remove_old_files(self.folder, now)
        except OSError as error:
            raise refused(error, self.root) from error
        return files

    def _require_usable(self, now: datetime) -> None:
        try:
            require_usable(self.root, key=self.key, run_history=False, needed_bytes=self._needed_bytes())
        except LocalStorageError:
            remove_old_files(self.folder, now)
            require_usable(self.root, key=self.key, run_history=False, needed_bytes=self._needed_bytes())

    def report(self, run_id: str) -> Path:
        """The drift report of a run, which may not exist."""
        path = self.folder / "reports" / f"{run_id}.html"
        if (mirror := mirror_of(path)) and not path.exists():
            mirror.objects.get(mirror.name_of(path), path)
        return path

    def write_report(self, run_id: str, page: str) -> Path:
        """Write the drift report of a run, and remove the oldest reports beyond `KEPT_REPORTS`."""
        path = self.folder / "reports" / f"{run_id}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page)
        if mirror := mirror_of(path):
            mirror.objects.put(mirror.name_of(path), path)
        for old in sorted(path.parent.glob("*.html"), key=changed_at, reverse=True)[KEPT_REPORTS:]:
            old.unlink(missing_ok=True)
        return path

    def runs(self) -> list[RunFiles]:
        """The runs that read everything and still have files, the newest first."""
        mirror = mirror_of(self.folder)
        return [RunFiles(run) for run in (mirror.runs(self.folder / RUNS) if mirror else newest_runs(self.folder))]

    def newest(self, name: str, runs: Iterable[RunFiles] | None = None) -> RunFiles | None:
        """The newest of ``runs``, by default those that read everything, that has this file."""
        having = [run for run in (self.runs() if runs is None else runs) if run.has(name)]
        return max(having, key=lambda run: run.age_rank(name), default=None)

    def newest_file(self, name: str) -> Path | None:
        """The newest file of this name: that of the state key itself, or that of the newest run that has one."""
        if name == QUARANTINE:
            return own if (own := self.quarantine).exists() else None
        return run.path(name) if (run := self.newest(name)) else None

    def read_baseline(self) -> int | None:
        """How many documents the source had when the target was last proven to match it; ``None`` before that. If the
        file is damaged, the largest count of the runs that still have files takes its place. Without a baseline, a
        source that has lost half of its documents would look complete."""
        replaced = self.replaced(BASELINE)
        path = replaced.read()
        try:
            content = read_json(path)
            return None if content is None else int(content["source_count"])
        except (LocalStorageError, TypeError, KeyError, ValueError):
            counts = dict(self._source_counts())
            largest = max(counts, key=counts.__getitem__, default=None)
        if largest is None:
            lost = "Until a sync has succeeded, source_looks_complete cannot see that the source has shrunk."
            replaced.set_aside("The baseline", lost)
            return None
        replaced.set_aside("The baseline", f"The largest count of the last runs takes its place: {counts[largest]}.")
        self.write_baseline(counts[largest], largest)
        return counts[largest]

    def _source_counts(self) -> Iterator[tuple[str, int]]:
        """How many documents each run has read from the source, if it read the source to its end."""
        for run in self.runs():
            try:
                if content := run.read_json(SOURCE_COUNT):
                    yield run.run_id, int(content["documents"])
            except (LocalStorageError, TypeError, KeyError, ValueError):
                continue

    def write_baseline(self, source_count: int, run_id: str) -> None:
        content = {"source_count": source_count, "run_id": run_id}
        self.replaced(BASELINE).replace(lambda path: write_json(path, content))

    def _needed_bytes(self) -> int:
        """The size of the newest two snapshots. Each run writes both sides again."""
        runs = self.runs()
        return sum(run.size(name) for name in (SOURCE_ROWS, TARGET_ROWS) if (run := self.newest(name, runs)))


def keys_with(root: Path, name: str) -> list[str]:
    """The state keys below ``root`` that have a file of this name, in a run or outside of the runs."""
    if mirror := mirror_of(root):
        replaced = Path(name)
        found = mirror.found(f"*/{RUNS}/*/*/{name}", f"*/{replaced.stem}/*{replaced.suffix}")
    else:
        found = [*root.glob(f"*/{RUNS}/*/{name}"), *root.glob(f"*/{name}")]
    return sorted({path.relative_to(root).parts[0] for path in found})


def has_plan(root: Path, plan_id: str) -> bool:
    """Whether there is a plan of this id below ``root``, under any state key."""
    if mirror := mirror_of(root):
        return bool(mirror.found(f"*/{PLANS}/{plan_id}/*/{PLAN}"))
    return any(root.glob(f"*/{PLANS}/{plan_id}/{PLAN}"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1))


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``, whole or not at all. See `replaced_durably`."""
    with replaced_durably(path) as file:
        file.write(text.encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """``None`` where there is no such file. Raises `LocalStorageError` for a damaged one."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise damaged(path) from error
    if not isinstance(content, dict):
        raise damaged(path)
    return content
