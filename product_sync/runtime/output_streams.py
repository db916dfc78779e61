"""Keeps errors of standard output and standard error from ending the command.

A sync must not fail because its output cannot be written: `product-sync sync 2>&1 | head -1` closes the pipe during the
load, a disk is full, an ASCII terminal lacks a letter of a title. And if a standard stream is closed, the next opened
file gets its number, and log lines would be written into a database file. Only for a process that is ours alone.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any


class LenientFile(io.FileIO):
    """A file whose writes never fail. ``failure`` is the first error; after it nothing more is written."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes
        if self.failure is not None:
            return size
        try:
            while (written := super().write(data)) is None:  # the stream is non-blocking and its buffer is full
                select.select([], [self], [])
        except OSError as error:
            self.failure = error
            return size
        return written


_lenient: dict[str, LenientFile] = {}


def make_lenient() -> None:
    """Open closed standard streams on the null device, and ignore errors of writing and of encoding."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            null_device = os.open(os.devnull, os.O_RDWR)
            if null_device != number:
                os.dup2(null_device, number)
                os.close(null_device)
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
    """Report on standard error that standard output was lost. A closed pipe is no loss: its reader has gone."""
    sys.stdout.flush()
    failure = _lenient["stdout"].failure if "stdout" in _lenient else None
    if failure is not None and failure.errno != errno.EPIPE:
        sys.stderr.write(f"WARNING: standard output could not be written: {failure.strerror}.\n")
