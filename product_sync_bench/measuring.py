"""Measures a process and its children from outside: wall time, processor time, peak memory. Linux only.

What a program says about itself does not include its start.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Seconds between two readings of the memory. Growth after the last reading is missed.
_LOOK_S: Final = 0.05
_KIB = 1024


@dataclass(frozen=True, slots=True)
class Cost:
    """``wall_s`` and ``cpu_s`` (user and system, children included) in seconds, ``peak_bytes`` of the process tree.

    ``status`` is the exit status, negative for a signal.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    status: int


def measure(command: Sequence[str], *, env: Mapping[str, str], folder: Path, log: Path, limit_s: float) -> Cost:
    """Run ``command`` in ``folder``, its output into ``log``, and say what it cost. It is killed after ``limit_s``."""
    with log.open("wb") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - a list, no shell; the contestants are named by us
            command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        memory = MemoryWatch(process.pid)
        killer = threading.Timer(limit_s, _kill_group, [process.pid])
        killer.daemon = True
        memory.start()
        killer.start()
        try:
            # wait4 and not Popen.wait: it gives the processor time of this process and of the children it waited for.
            _, wait_status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - begun
        except BaseException:
            _kill_group(process.pid)
            raise
        finally:
            killer.cancel()
            memory.finish()
        process.returncode = os.waitstatus_to_exitcode(wait_status)
    return Cost(wall, usage.ru_utime + usage.ru_stime, memory.peak_bytes, process.returncode)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


class MemoryWatch(threading.Thread):
    """The largest memory that a process tree held at once.

    A single process: the peak that the kernel keeps of its resident memory, which no look can miss. Several: the sum
    of their proportional shares, because forked processes share most of their pages. Of these a process counts from
    the second look on: until it executes its program, a new one *is* its parent's memory, which would count twice.
    """

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._root = root
        self._seen: set[int] = set()
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(_LOOK_S):
            processes = set(_tree(self._root))
            self._note(max((peak_resident(pid) for pid in processes), default=0))
            self._note(sum(_proportional(pid) for pid in processes & self._seen))
            self._seen = processes

    def finish(self) -> None:
        self._end.set()
        self.join()

    def _note(self, held: int) -> None:
        self.peak_bytes = max(self.peak_bytes, held)


def _tree(root: int) -> Iterator[int]:
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    waiting += [int(child) for child in (task / "children").read_text().split()]


def peak_resident(pid: int) -> int:
    """The largest resident memory that a process has had, in bytes; 0 for one that has ended."""
    return _kibibytes(Path(f"/proc/{pid}/status"), "VmHWM:")


def _proportional(pid: int) -> int:
    return _kibibytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")


def _kibibytes(file: Path, name: str) -> int:
    """The value of a line such as ``VmHWM:  1234 kB``, in bytes; 0 for a process that has ended."""
    try:
        for line in file.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * _KIB
    except OSError:
        pass
    return 0
