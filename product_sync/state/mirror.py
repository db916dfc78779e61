"""A scratch folder of this process that mirrors the state in an object store. `mirror_of` finds it by a path.

The code works on local files. With a URL in PRODUCT_SYNC_STATE they lie in a scratch folder, and this module exchanges
whole files with the store (docs/decisions/0190). Every object but two small kinds is only ever created:

    <state key>/runs/<run id>/<group>/<file>    what a step has published at once; partial_runs and plans alike
    <state key>/runs/<run id>/<group>/.complete the last object of a group; without it nobody reads the group
    <state key>/quarantine/00000042.arrow     a file that is replaced is a new number (`replaced`)
    <state key>/runs/<run id>/.alive            replaced: the sign of life of a run
    <state key>/reports/<run id>.html           replaced by the later checks of its run

A step that is killed leaves a group without an end. Two attempts of one step leave two groups: a reader takes all files
of a step from one of them.
"""

import atexit
import os
import secrets
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final

from filelock import BaseFileLock, FileLock, Timeout

from product_sync.errors import ConfigurationError
from product_sync.state.object_store import Entry, ObjectStore

COMPLETE: Final = ".complete"
ALIVE: Final = ".alive"
#: Seconds between two signs of life of a run.
_ALIVE_EVERY_S: Final = 600.0
_PREFIX: Final = "product_sync_scratch_"
_LOCK: Final = ".lock"
#: Files up to this size are fetched whole. Of larger ones the metadata is read alone.
_SMALL_BYTES: Final = 1024 * 1024
#: The parts of a path below the root that name a run or a plan: state key, folder of runs, id.
_RUN_PARTS: Final = 3

#: The files of one run, by their path below its folder.
View = Mapping[str, Entry]


class Mirror:
    """Exchanges files below ``root``, a local folder, with objects of the same place below the store's URL."""

    def __init__(self, root: Path, objects: ObjectStore, lock: BaseFileLock | None = None) -> None:
        self.root = root
        #: A lock that nobody refers to is freed.
        self._lock = lock
        self.objects = objects
        #: What each run had when a step of this process began, or later asked for the first time.
        self._views: dict[Path, dict[str, Entry]] = {}
        #: Local files that are in the store as they are, by path.
        self._same: dict[Path, tuple[int, int]] = {}
        self._is_usable = False
        self._alive_at: dict[Path, float] = {}
        #: The number of the content that lies in each file of `replaced`, and the files that are being replaced.
        self.numbers: dict[Path, int] = {}
        self.changing: set[Path] = set()

    def name_of(self, path: Path) -> str:
        """The name of the object that stands in the place of ``path``."""
        return path.relative_to(self.root).as_posix()

    def url_of(self, path: Path) -> str:
        return f"{self.objects.url}/{self.name_of(path)}"

    def require_usable(self) -> None:
        """As `ObjectStore.require_usable`, once for all runs of this process."""
        if not self._is_usable:
            self.objects.require_usable()
            self._is_usable = True

    # The files of runs and plans. ``path`` is below the folder of one.

    def view(self, path: Path, *, afresh: bool = False) -> View:
        """The published files of the run or plan of ``path``."""
        run = self._run(path)
        if afresh or run not in self._views:
            self._views[run] = dict(_view(self.objects.entries(f"{self.name_of(run)}/"), f"{self.name_of(run)}/"))
        return self._views[run]

    def runs(self, folder: Path) -> list[Path]:
        """The runs below ``folder`` that have published something, the newest first."""
        by_run = runs_of(self.objects.entries(f"{self.name_of(folder)}/"))
        for run, entries in by_run.items():
            # A step of this process sees its own run as it was when the step began.
            if self.is_new(self.root / run) or self.root / run not in self._views:
                self._views[self.root / run] = dict(_view(entries, f"{run}/"))
        newest_first = sorted(by_run, key=lambda run: last_sign(by_run[run]), reverse=True)
        return [run for run in map(self.root.joinpath, newest_first) if self._views[run]]

    def found(self, *patterns: str) -> list[Path]:
        """The places of the objects that match one of the ``patterns`` (`PurePath.match`)."""
        names = [PurePosixPath(entry.name) for entry in self.objects.entries()]
        return [self.root / name for name in names if any(map(name.match, patterns))]

    def entry(self, path: Path) -> Entry | None:
        """The object of a file of a run; ``None`` if no step has published it."""
        return self.view(path).get(path.relative_to(self._run(path)).as_posix())

    def fetch(self, path: Path) -> None:
        """Bring a published file here, unless there is one already."""
        if not path.exists() and (entry := self.entry(path)) and self.objects.get(entry.name, path):
            self._same[path] = _stamp(path)

    def is_large(self, path: Path) -> bool:
        """Whether a file is not here and costs more to fetch than to look into."""
        entry = None if path.exists() else self.entry(path)
        return entry is not None and entry.size > _SMALL_BYTES

    def publish(self, folder: Path, only: Collection[str] = ()) -> None:
        """Make one group of the new files below ``folder``, a run or a part of one; of those named ``only``, if any."""
        run = self._run(folder)
        new = [
            path for path in folder.rglob("*")
            if path.is_file() and self._same.get(path) != _stamp(path)
            and not any(part.startswith(".") for part in path.relative_to(run).parts)
            and (not only or path.name in only)
        ]  # fmt: skip
        if not new:
            return
        group = f"{self.name_of(run)}/{time.time_ns():016x}{secrets.token_hex(4)}"
        stamps = {path: _stamp(path) for path in new}
        for path in new:
            self.objects.create(f"{group}/{path.relative_to(run).as_posix()}", path)
        self.objects.put(f"{group}/{COMPLETE}", self.empty)
        self._same |= stamps
        view = self._views.setdefault(run, {})
        for path, (size, _) in stamps.items():
            name = path.relative_to(run).as_posix()
            view[name] = Entry(f"{group}/{name}", size, time.time())

    def is_new(self, folder: Path) -> bool:
        """Whether this process has given no sign of life of the run of ``folder``."""
        return self._run(folder) not in self._alive_at

    def give_sign_of_life(self, folder: Path, retry_s: float | None = None) -> None:
        """Keep the files of a run that works for hours and publishes nothing."""
        run, now = self._run(folder), self.objects.timing.monotonic()
        if now - self._alive_at.get(run, -_ALIVE_EVERY_S) >= _ALIVE_EVERY_S:
            self._alive_at[run] = now
            self.objects.put(f"{self.name_of(run)}/{ALIVE}", self.empty, retry_s)

    @cached_property
    def empty(self) -> Path:
        path = self.root / ".empty"
        path.touch()
        return path

    def _run(self, path: Path) -> Path:
        """The folder of the run or plan that ``path`` belongs to."""
        return self.root.joinpath(*path.relative_to(self.root).parts[:_RUN_PARTS])


def runs_of(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """The objects of each run and plan, by the name of its folder."""
    by_run: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        run = entry.name.split("/")[:_RUN_PARTS]
        by_run["/".join(run)].append(entry)
    return by_run


def group_of(entry: Entry) -> str:
    """The group of a published file. Groups of one process are in order."""
    return entry.name.split("/")[_RUN_PARTS]


def last_sign(entries: Iterable[Entry]) -> float:
    """When a run has last written something, by the clock of the store."""
    return max(entry.modified for entry in entries)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _view(entries: Iterable[Entry], prefix: str) -> Iterable[tuple[str, Entry]]:
    """The files of the complete groups, those of later groups last."""
    groups: dict[str, list[tuple[str, Entry]]] = defaultdict(list)
    complete: dict[str, float] = {}
    for entry in entries:
        group, _, name = entry.name.removeprefix(prefix).partition("/")
        if name == COMPLETE:
            complete[group] = entry.modified
        elif name:
            groups[group].append((name, entry))
    for group in sorted(complete, key=lambda each: (complete[each], each)):
        yield from groups[group]


_MIRRORS: dict[tuple[str, Path | None], Mirror] = {}


def mirror_of(path: Path) -> Mirror | None:
    """The mirror that ``path`` belongs to; ``None`` for a file of a local state folder."""
    return next((mirror for mirror in _MIRRORS.values() if path.is_relative_to(mirror.root)), None)


def is_there(path: Path) -> bool:
    """Whether the file of a run exists, here or in the store."""
    return path.exists() or bool((mirror := mirror_of(path)) and mirror.entry(path))


def here(path: Path) -> Path:
    """``path``, after its file was fetched from the store if it is a published one of a run."""
    if mirror := mirror_of(path):
        mirror.fetch(path)
    return path


def open_mirror(url: str, scratch: Path | None = None) -> Path:
    """The root of the mirror of ``url``, which this process keeps until it ends. Its folder is made in ``scratch``, by
    default where temporary files are."""
    if opened := _MIRRORS.get((url, scratch)):
        return opened.root
    objects = ObjectStore(url)
    try:
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=scratch))
        lock = FileLock(new / _LOCK, is_singleton=True)
        lock.acquire()
        # Only now it has a name like those that other processes look for: not locked yet, it would look left behind.
        root = new.rename(new.with_name(new.name[1:]))
    except OSError as error:
        raise ConfigurationError(
            f"No scratch folder can be made in {scratch or tempfile.gettempdir()}: {error.strerror}.",
            hint="Set PRODUCT_SYNC_SCRATCH to a folder with room that this user can write to.",
        ) from error
    _remove_left_by_killed(root)
    atexit.register(_remove, root, os.getpid())
    _MIRRORS[url, scratch] = Mirror(root, objects, lock)
    return root


def _remove(root: Path, owner: int) -> None:
    """A forked process leaves the folder of its parent alone."""
    if os.getpid() == owner:
        shutil.rmtree(root, ignore_errors=True)


def _remove_left_by_killed(own: Path) -> None:
    """Remove scratch folders whose lock nobody holds: their processes were killed."""
    for other in own.parent.glob(f"{_PREFIX}*"):
        if other != own and (other / _LOCK).exists():
            # One that works, or that belongs to another user, stays.
            with suppress(OSError, Timeout), FileLock(other / _LOCK, timeout=0):
                shutil.rmtree(other, ignore_errors=True)
