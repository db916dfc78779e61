"""A file that outlives a run and is replaced whole, by one run at a time: in a folder by a lock, in a store by numbers.

In an object store each content is a new object with the next number, which the store creates only if there is none. The
highest number counts. A run that finds its number taken reads again, changes again, and tries the next number.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from filelock import FileLock

from product_sync.errors import StateStoreError
from product_sync.state.mirror import Mirror, mirror_of
from product_sync.state.object_store import Entry

#: Numbers that stay, and seconds for which every number stays: a slow run may not meet a number that was removed.
_KEPT: Final = 3
_KEPT_S: Final = 3_600.0
#: A run that takes longer than this to change the content reads it again.
_FRESH_S: Final = 1_200.0
_MOST_ATTEMPTS: Final = 30
#: How many damaged files or folders of one name are kept.
KEPT_DAMAGED: Final = 3

_T = TypeVar("_T")
_LOG = logging.getLogger("product_sync.state")


@dataclass(frozen=True, slots=True)
class Replaced:
    """``path`` is where the file is, or in the scratch folder its newest copy."""

    path: Path

    def read(self) -> Path:
        """Bring the newest content here. Returns `path`, where no file is if there is no content."""
        mirror = mirror_of(self.path)
        if mirror is not None and self.path not in mirror.changing:
            _Numbers(mirror, self.path).fetch_newest()
        return self.path

    def replace(self, change: Callable[[Path], _T]) -> _T:
        """Call ``change`` with `path`, alone: it may read the file, replace it and remove it. It is called again if
        another machine was faster."""
        with self.alone():
            return self.change(change)

    def alone(self, timeout_s: float = -1.0) -> FileLock:
        """A lock that no other process of this machine has; on a store it keeps the threads of this process apart."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_suffix(".lock"), timeout=timeout_s)

    def change(self, change: Callable[[Path], _T]) -> _T:
        """As `replace`, for a caller that holds the lock."""
        mirror = mirror_of(self.path)
        return change(self.path) if mirror is None else _Numbers(mirror, self.path).replace(change)

    def set_aside(self, what: str, lost: str) -> None:
        """Put a damaged file away, and log a warning. In a store its object keeps its number until the next ones."""
        if mirror := mirror_of(self.path):
            self.path.unlink(missing_ok=True)
            objects = mirror.url_of(self.path.with_suffix(""))
            _LOG.warning("%s was damaged: the newest object in %s. %s", what, objects, lost)
        else:
            set_aside(self.path, what, lost)


class _Numbers:
    """The numbered objects of one replaced file."""

    def __init__(self, mirror: Mirror, path: Path) -> None:
        self._mirror = mirror
        self._path = path
        self._prefix = mirror.name_of(path.with_suffix("")) + "/"

    def fetch_newest(self) -> tuple[int, list[Entry]]:
        """Bring the content with the highest number here. Returns the number, 0 if there is none, and all objects."""
        while True:
            found = self._mirror.objects.entries(self._prefix)
            entries = sorted((entry for entry in found if _stem(entry).isdecimal()), key=lambda entry: entry.name)
            number = int(_stem(entries[-1])) if entries else 0
            if number != self._mirror.numbers.get(self._path) or not self._path.exists():
                # An empty object says that there is no content. One that is gone was followed by three others.
                if not number or not entries[-1].size:
                    self._path.unlink(missing_ok=True)
                elif not self._mirror.objects.get(entries[-1].name, self._path):
                    continue
                self._mirror.numbers[self._path] = number
            return number, entries

    def replace(self, change: Callable[[Path], _T]) -> _T:
        timing = self._mirror.objects.timing
        for _ in range(_MOST_ATTEMPTS):
            began = timing.monotonic()
            number, entries = self.fetch_newest()
            before = self._stamp()
            result = self._change(change)
            if self._stamp() == before:
                self._mirror.numbers[self._path] = number
                return result
            if timing.monotonic() - began < _FRESH_S and self._create(number + 1):
                self._mirror.numbers[self._path] = number + 1
                self._remove_old(entries)
                return result
            timing.sleep(timing.random() * 0.2)
        raise StateStoreError(
            f"{self._mirror.url_of(self._path)} is replaced by other runs all the time.",
            hint="Let fewer runs of this sync run at once.",
        )

    def _change(self, change: Callable[[Path], _T]) -> _T:
        """The file may differ from every object until it is stored, and ``change`` reads it as it is."""
        self._mirror.numbers.pop(self._path, None)
        self._mirror.changing.add(self._path)
        try:
            return change(self._path)
        finally:
            self._mirror.changing.discard(self._path)

    def _create(self, number: int) -> bool:
        name = f"{self._prefix}{number:08d}{self._path.suffix}"
        content = self._path if self._path.exists() else self._mirror.empty
        return self._mirror.objects.create(name, content)

    def _remove_old(self, entries: list[Entry]) -> None:
        """``entries`` are those before the newest."""
        newest = max((entry.modified for entry in entries), default=0.0)
        old = [entry.name for entry in entries[: 1 - _KEPT] if entry.modified < newest - _KEPT_S]
        self._mirror.objects.remove(old)

    def _stamp(self) -> tuple[int, int, int] | None:
        """Replacing a file gives it another inode."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


def _stem(entry: Entry) -> str:
    """The number of a content, or the name of what somebody else has put there."""
    return Path(entry.name).stem


def set_aside(path: Path, what: str, lost: str) -> Path:
    """Rename a damaged file or folder, so that it can be examined, and log a warning; returns the new path. ``what``
    names the file, ``lost`` says what it costs."""
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    path.rename(aside)
    _LOG.warning("%s was damaged and has been set aside as %s. %s", what, aside, lost)
    for old in sorted(path.parent.glob(f"{path.name}.damaged-*"))[:-KEPT_DAMAGED]:
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)
    return aside
