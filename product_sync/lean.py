"""What makes the start of a short process shorter."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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


class _Absent:
    def find_spec(self, fullname: str, _path: object, _target: object = None, /) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(f"{fullname} is left out of this process", name=fullname)
