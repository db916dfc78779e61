"""What makes a process of our own start and end sooner, and stay smaller."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

#: Parameters of mallopt (malloc.h of the GNU C library).
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


@contextmanager
def no_garbage() -> Iterator[None]:
    """For imports: they make half a million objects that stay, and the collector would look at them again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def leave_pandas_out() -> None:
    """Let Arrow find out now, and for good, that there is no pandas in this process.

    Arrow imports pandas at the first value that it converts, to see whether that value is a Series: a quarter of a
    second and 30 MB. For processes that are ours alone: afterwards Arrow makes no DataFrame in them.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    absent = _Absent()
    sys.meta_path.insert(0, absent)
    try:
        pa.scalar(0)
    finally:
        sys.meta_path.remove(absent)


def stay_small() -> None:
    """Have Arrow leave pandas out, and take its memory from the system: its own pool keeps much of what was freed.

    To be called before Arrow is imported, in a process that is ours alone. Whoever has chosen a pool keeps it.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    _return_large_blocks()
    leave_pandas_out()


def _return_large_blocks() -> None:
    """Have the C library give every block of 4 MiB and more back to the system as soon as it is freed.

    Left alone it raises that limit up to 32 MiB, and wide rows then leave holes in the heap: twice the memory that is
    in use. Setting the one limit sets the other one low, so both are set (mallopt(3)). A system without mallopt, or a
    user who has set these limits, is left alone.
    """
    if {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & os.environ.keys():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 4 * 1024 * 1024)
        mallopt(_M_TRIM_THRESHOLD, 32 * 1024 * 1024)


def end_at_once(status: int) -> NoReturn:
    """End the process in order, but for taking apart what it has made (docs/decisions/0072).

    Importing Dagster alone makes half a million objects, for which Python would need up to a second. What was
    registered to be done at the end is done, and what is still to be written is written.
    """
    if monitor := sys.modules.get("pymongo.synchronous.monitor"):
        # It waits for threads of clients that are closed, until they wake up and see that.
        atexit.unregister(monitor._shutdown_resources)  # noqa: SLF001 - there is no public way
    atexit._run_exitfuncs()  # noqa: SLF001 - the same
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        sys.exit(status)  # nobody reads any more; Python has its own way to say so
    os._exit(status)


class _Absent:
    def find_spec(self, fullname: str, _path: object, _target: object = None, /) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(f"{fullname} is left out of this process", name=fullname)
