"""Makes a process of our own start sooner, end sooner and use less memory."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import sys
from typing import Final, NoReturn

#: Parameters of mallopt (malloc.h of the GNU C library).
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
#: How many new objects start a search for unused ones: Python's default, and that of `collect_seldom`.
_USUAL, _SELDOM = gc.get_threshold()[0], 50_000


def leave_pandas_out() -> None:
    """Keep Arrow from importing pandas for its own checks, which takes a quarter of a second and 30 MB. `to_pandas` and
    `from_pandas` still import pandas. Until one of them is called, `pa.array` reads a Series as a list."""
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    absent = _Absent()
    sys.meta_path.insert(0, absent)
    try:
        pa.scalar(0)  # Arrow looks for pandas when it converts its first value
    finally:
        sys.meta_path.remove(absent)


class _Absent:
    def find_spec(self, fullname: str, _path: object, _target: object = None, /) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(f"{fullname} is left out of this process", name=fullname)


def stay_small() -> None:
    """Keep pandas out and let Arrow use the system's memory allocator: Arrow's own pool keeps much of the freed memory.
    Keep NumPy from starting a thread for each processor: for what nobody uses here, they take 0.1 s of processor time.
    Call it before Arrow and NumPy are imported, in a process that is ours alone. What the user has chosen stays."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _return_large_blocks()
    leave_pandas_out()


def _return_large_blocks() -> None:
    """Let the C library return freed blocks of 4 MiB and more to the system at once.

    By default it raises this limit up to 32 MiB, and wide rows then leave holes in the heap: twice the memory in use.
    Setting one of the two limits lowers the other, so both are set (mallopt(3)). All threads share one heap: with one
    for each, what one thread frees cannot serve another (docs/decisions/0180). Limits that the user has set stay.
    """
    if {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX"} & os.environ.keys():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 4 * 1024 * 1024)
        mallopt(_M_TRIM_THRESHOLD, 32 * 1024 * 1024)
        mallopt(_M_ARENA_MAX, 1)


def collect_seldom() -> None:
    """Let Python search for unused objects less often (docs/decisions/0201). Importing Dagster makes a quarter of a
    million objects that all stay. With Python's own limit of 700 new ones they are searched so often that this takes a
    fifth of the start. `collect_again` ends it when a run begins."""
    gc.set_threshold(_SELDOM)


def collect_again() -> None:
    """End `collect_seldom`, and leave everything that is imported by now out of all searches. A document of megabytes
    can be part of a cycle. If such cycles are found late, a run takes 90 MB more."""
    if gc.get_threshold()[0] == _SELDOM:
        gc.freeze()
        gc.set_threshold(_USUAL)


def end_sooner() -> None:
    """Let Python end without two things that take up to a second: searching for unused objects, because Dagster leaves
    half a million, and waiting for the sleeping threads of closed MongoDB clients. Call it after the driver is
    imported: exit functions run in the reverse order."""
    atexit.register(gc.freeze)
    atexit.register(_skip_wait_for_clients)


def _skip_wait_for_clients() -> None:
    if monitor := sys.modules.get("pymongo.synchronous.monitor"):
        # It would wait until the threads of closed clients wake up.
        atexit.unregister(monitor._shutdown_resources)  # noqa: SLF001 - there is no public way


def end_at_once(status: int) -> NoReturn:
    """Exit cleanly, but skip the interpreter's teardown (docs/decisions/0072). The teardown of the half a million
    objects that importing Dagster makes takes up to a second. Exit functions run, and the standard streams are
    flushed."""
    _skip_wait_for_clients()
    atexit._run_exitfuncs()  # noqa: SLF001 - there is no public way
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        sys.exit(status)  # the reader has gone; Python reports that in its own way
    os._exit(status)
