"""Translates errors of the file system and of Arrow in the state folder into `LocalStorageError`.

A full disk can appear at any write of a run, in Python or in Arrow. Without this module it would be a traceback that
looks like a bug.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from product_sync.errors import LocalStorageError
from product_sync.state.mirror import mirror_of

_NO_ROOM = "Free some space there, or set {variable} to a folder on a larger disk."
_NOT_ALLOWED = "Run it as the user who owns the folder, or set PRODUCT_SYNC_STATE to a folder of this user."

#: What happened, and what to do. ``{root}`` is the state folder or the scratch folder, ``{variable}`` sets it.
_BY_ERRNO: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("The disk of the {root} is full: no space is left on it.", _NO_ROOM),
    errno.EDQUOT: ("The disk quota of the {root} is used up: no space is left.", _NO_ROOM),
    errno.EFBIG: ("The {root} may not hold a file that large.", "Raise the limit: ulimit -f."),
    errno.EROFS: ("The {root} has become read-only.", "Check the disk: the kernel's log says why."),
    errno.EIO: ("The disk of the {root} has failed.", "Check the disk: the kernel's log says why."),
    errno.EACCES: ("{place} cannot be read and written by this user.", _NOT_ALLOWED),
    errno.EPERM: ("{place} cannot be changed by this user.", _NOT_ALLOWED),
    errno.EMFILE: ("This process has too many files open.", "Raise the limit of open files to 256: ulimit -n 256."),
    errno.ENFILE: ("This machine has too many files open.", "Raise the kernel's limit: fs.file-max."),
    errno.ENOENT: ("{place} is gone: another process removed it during the run.", "Run it again."),
}
#: Subclasses of OSError that are not about files.
_OF_THE_NETWORK = (ConnectionError, TimeoutError, socket.gaierror)
#: Arrow's message has the text of the errno and not its number.
_ERRNO_BY_TEXT = {os.strerror(number): number for number in _BY_ERRNO}


@contextmanager
def local_storage(root: Path) -> Iterator[None]:
    """Turn errors of local storage in the block into a `LocalStorageError` that names the state folder ``root``."""
    try:
        yield
    except OSError as error:
        if translated := storage_error(error, root):
            raise translated from error
        raise


#: A damaged length asks for more memory than any machine has.
_ABSURD_SIZE = re.compile(r"size \d{14,}")
#: Python and Arrow put quotation marks around a path.
_QUOTED_PATH = re.compile(r"""['"](/[^'"]+)['"]""")


def storage_error(error: OSError, root: Path) -> LocalStorageError | None:
    """The error in words; ``None`` for an error that is not about files, such as one of the network."""
    if isinstance(error, _OF_THE_NETWORK):
        return None
    number = error.errno
    if number is None:
        number = next((number for text, number in _ERRNO_BY_TEXT.items() if text in str(error)), None)
    message, hint = _BY_ERRNO.get(number or 0, ("", ""))
    if not message:
        said = os.strerror(number) if number else str(error).partition("\n")[0]
        message, hint = f"The {{root}} could not be read or written: {said}.", "Check its disk."
    place = _place(error) or f"A file of the {what_is(root)}"
    return LocalStorageError(
        message.format(root=what_is(root), place=place), hint=hint.format(variable=_variable(root))
    )


def what_is(root: Path) -> str:
    """The root of the state, by its name."""
    return f"scratch folder {root}" if mirror_of(root) else f"state folder {root}"


def no_room(root: Path) -> str:
    """What to do about a full disk."""
    return _NO_ROOM.format(variable=_variable(root))


def _variable(root: Path) -> str:
    return "PRODUCT_SYNC_SCRATCH" if mirror_of(root) else "PRODUCT_SYNC_STATE"


def _place(error: Exception) -> str:
    quoted = _QUOTED_PATH.search(str(error))
    return quoted[1] if quoted else ""


def damaged(path: Path) -> LocalStorageError:
    """The error for a file that exists and cannot be decoded."""
    return LocalStorageError(f"{path} is damaged.", hint="Remove that file, or set it aside, and run it again.")


@contextmanager
def opening_table(path: Path) -> Iterator[None]:
    """Turn Arrow's errors for a cut or overwritten file in the block into the error of `damaged`."""
    try:
        yield
    except pa.ArrowException as error:
        if isinstance(error, MemoryError) and not _ABSURD_SIZE.search(str(error)):
            raise
        raise damaged(path) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise damaged(path) from error
