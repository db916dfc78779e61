"""Checks that this user can use the state folder, before anything is read or written.

Otherwise a sync would fail after it has written rows. So the folder is checked at the start, with each file that a sync
replaces or appends to. `doctor` makes the same check, perhaps as another user: so nothing is created but a small file
that is removed at once, and only in a folder that exists.
"""

from __future__ import annotations

import errno
import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

from product_sync.errors import ConfigurationError, LocalStorageError, ProductSyncError
from product_sync.state.mirror import mirror_of
from product_sync.state.storage_errors import no_room, storage_error, what_is

#: Bytes for the run history and the small files of one run.
MIN_FREE_BYTES = 2 * 1024 * 1024
#: Written and removed, to find quotas, read-only file systems and full disks that report free space.
_TRIAL_BYTES = 64 * 1024
ANOTHER_FOLDER = "Set PRODUCT_SYNC_STATE to a folder that this user can write to."
#: Files below the state folder that every run writes to: the record of alerts, the notes of whose state is where, and
#: the local run history.
_SHARED = ("notifications.*", "sides", "sides/*")
_RUN_HISTORY = (
    "dagster.lock",
    "dagster",
    "dagster/*",
    "dagster/history/*",
    "dagster/history/runs/index.db*",
    "dagster/schedules/*",
)
#: Files below the folder of a state key that every run of this sync writes to.
_OF_ONE_SYNC = ("", "*", "reports/history.*")


def require_usable(root: Path, *, key: str | None = None, run_history: bool = True, needed_bytes: int = 0) -> None:
    """Check that this user can read and write everything that a sync uses in the state folder ``root``.

    ``key`` is a state key whose files are checked too. ``run_history`` says that runs are recorded in ``root``, as they
    are without DAGSTER_HOME. ``needed_bytes`` are to be written.

    Raises `ConfigurationError` for a folder that this user cannot use, `LocalStorageError` if there is no room.
    """
    _require_usable_path(root, run_history=run_history)
    try:
        _require_usable(root, key, run_history=run_history, needed_bytes=needed_bytes)
    except OSError as error:
        raise refused(error, root) from error
    if mirror := mirror_of(root):
        mirror.require_usable()


def _require_usable(root: Path, key: str | None, *, run_history: bool, needed_bytes: int) -> None:
    existing = next(path for path in (root, *root.parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise ConfigurationError(f"The state folder {root} cannot be used: {existing} is not a directory.",
                                 hint=ANOTHER_FOLDER)  # fmt: skip
    _require_access(root, existing)
    for path in _entries(root, key, run_history=run_history):
        _require_access(root, path)
        _require_same_owner(root, path)
    _require_room(root, existing, needed_bytes)
    if existing == root:
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(bytes(_TRIAL_BYTES))
            file.flush()
            os.fsync(file.fileno())


def _require_usable_path(root: Path, *, run_history: bool) -> None:
    """SQLite reads every path as UTF-8, and Dagster makes a URL of the path of the run history."""
    if run_history and (found := set("?%").intersection(str(root))):
        raise ConfigurationError(
            f"The path of the state folder, {str(root)!r}, has a {found.pop()!r}, which the run history cannot have.",
            hint="Set PRODUCT_SYNC_STATE to a path without it.",
        )
    try:
        is_same = os.fsencode(root) == str(root).encode()
    except UnicodeEncodeError:
        is_same = False
    if not is_same:
        raise ConfigurationError(
            f"The path of the state folder, {str(root)!r}, is not valid UTF-8 in this locale.",
            hint="Set PRODUCT_SYNC_STATE to a path of ASCII characters, or LC_ALL to C.UTF-8.",
        )


def _entries(root: Path, key: str | None, *, run_history: bool) -> Iterator[Path]:
    patterns = [*_SHARED, *(_RUN_HISTORY if run_history else ())]
    patterns += [f"{key}/{pattern}".rstrip("/") for pattern in _OF_ONE_SYNC] if key else []
    for pattern in patterns:
        yield from root.glob(pattern)


def _require_access(root: Path, path: Path) -> None:
    wanted = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
    if os.access(path, wanted, effective_ids=os.access in os.supports_effective_ids):
        return
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise ConfigurationError(f"The state folder {root} is on a read-only file system.", hint=ANOTHER_FOLDER)
    what = "" if path == root else f": {path} belongs to {_owner(path)}"
    raise ConfigurationError(
        f"{_user(os.geteuid())} cannot read and write the state folder {root}{what}.",
        hint="Run it as the user who owns the folder, or set PRODUCT_SYNC_STATE to a folder of this user.",
    )


def _require_same_owner(root: Path, path: Path) -> None:
    """Refuse root in the folder of another user, who could not use the files that root leaves there."""
    if os.geteuid() == 0 and path.lstat().st_uid != 0:
        raise ConfigurationError(
            f"The state folder {root} holds files of {_owner(path)}, who could not use what root writes there.",
            hint="Run it as that user, or set PRODUCT_SYNC_STATE to another folder.",
        )


def _require_room(root: Path, existing: Path, needed_bytes: int) -> None:
    found = os.statvfs(existing)
    free, needed = found.f_bavail * found.f_frsize, MIN_FREE_BYTES + needed_bytes
    if free < needed:
        raise LocalStorageError(
            f"The disk of the {what_is(root)} has {_size(free)} of free space, and a run needs {_size(needed)}.",
            hint=no_room(root),
        )


def refused(error: OSError, root: Path) -> ProductSyncError:
    """The error for a state folder that this user cannot write to. A wrong setting ends with another exit status than a
    full or broken disk."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ELOOP):
        return ConfigurationError(f"Cannot write to the state folder {root}: {error.strerror}.", hint=ANOTHER_FOLDER)
    return storage_error(error, root) or LocalStorageError(f"Cannot write to the state folder {root}: {error}.")


def _owner(path: Path) -> str:
    return _user(path.lstat().st_uid)


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
