"""Makes the streams of a command unable to end it.

A sync may not fail because nobody reads what it prints: `product-sync sync 2>&1 | head -1` closes the pipe in the
middle of a load, a full disk refuses a log file, an ASCII terminal has no letter for a title. And where a standard
stream is closed, the next file that is opened gets its number, and lines of text go into a database. For a process of
our own.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, Final

_STANDARD: Final = (0, 1, 2)


class LenientFile(io.FileIO):
    """A file whose writes always succeed. ``failure`` is why the first of them did not."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes
        if self.failure is not None:
            return size
        try:
            written = super().write(data)
            while written is None:  # whoever started us has made the stream non-blocking
                select.select([], [self], [])
                written = super().write(data)
        except OSError as error:
            self.failure = error
            return size
        return written


_lenient: dict[str, LenientFile] = {}


def make_lenient() -> None:
    """Open closed standard streams on nothing, and let neither an error of writing nor an encoding end the process."""
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
    for name, number in (("stdout", 1), ("stderr", 2)):
        before = getattr(sys, name)
        if before is not None:
            with contextlib.suppress(OSError):
                before.flush()
        _lenient[name] = LenientFile(number, "w", closefd=False)
        encoding = getattr(before, "encoding", None) or "utf-8"
        stream = io.TextIOWrapper(
            io.BufferedWriter(_lenient[name]), encoding=encoding, errors="backslashreplace", line_buffering=True
        )
        setattr(sys, name, stream)


def warn_of_lost_output() -> None:
    """Say on standard error that standard output was lost, unless its reader has gone: then it is not wanted."""
    sys.stdout.flush()
    failure = _lenient["stdout"].failure if "stdout" in _lenient else None
    if failure is not None and failure.errno != errno.EPIPE:
        sys.stderr.write(f"WARNING: standard output could not be written: {failure.strerror}.\n")
