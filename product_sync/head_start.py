"""Reads both sides in a process of its own while this one is still importing Dagster, which takes as long.

    python -m product_sync.head_start RUN_ID TARGET_FILE

It writes the same files as the steps of the run, into the run's folder, and tells on its standard output what it has
read. It is nothing but a start: where it fails, a step reads by itself, and fails by itself if that is how it ends
(docs/decisions/0071). It ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from product_sync.core.progress import OnProgress, Progress

if TYPE_CHECKING:
    from product_sync.core.snapshot import SourceSnapshot, TargetSnapshot

    Snapshot = SourceSnapshot | TargetSnapshot

#: Seconds between two words about the progress of a stage: whoever should listen may be busy for a while.
_TELL_EVERY_S: Final = 0.25
_END_S: Final = 5.0
#: Arrow's own pool and glibc's arenas keep much of what has been freed, and here two processes share a pod's memory.
_FRUGAL: Final = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2"}


class HeadStart:
    """The process, from the side of the one that started it. Made by `head_start`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._read: dict[Path, Snapshot] = {}

    def snapshot(self, path: Path, on_progress: OnProgress) -> Snapshot | None:
        """What was read into ``path``, once, as soon as it is complete; ``None`` if that does not come."""
        while path not in self._read:
            if (message := self._next()) is None:
                return None
            if isinstance(message, tuple):
                read, snapshot = message
                self._read[read] = snapshot
            else:
                on_progress(message)
        return self._read.pop(path)

    def end(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(_END_S)

    def _next(self) -> tuple[Path, Snapshot] | Progress | None:
        """A complete reading and its file, or how far one has come; ``None`` when the process has ended."""
        if self._process.stdout is None:
            return None
        try:
            message: tuple[Path, Snapshot] | Progress = pickle.load(self._process.stdout)  # noqa: S301 - our own process
        except (EOFError, pickle.UnpicklingError):
            return None
        return message


@contextmanager
def head_start(run_id: str, target_file: str) -> Iterator[HeadStart | None]:
    """Begin the readings of this run; ``target_file`` is the name that the target's gets in the run's folder.

    ``None`` on a single processor, where nothing can be done at once.
    """
    if _processors() < 2:
        yield None
        return
    command = [sys.executable, "-m", "product_sync.head_start", run_id, target_file]
    process = subprocess.Popen(  # noqa: S603 - ourselves
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_FRUGAL | os.environ,
    )
    begun = HeadStart(process)
    try:
        yield begun
    finally:
        begun.end()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(run_id: str, target_file: str) -> None:
    """What the process does. Nobody is told of an error: the step that finds nothing meets it too."""
    # Ctrl-C is for the process that started this one, and so is whatever a library prints.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    threading.Thread(target=_end_with_the_other, daemon=True).start()
    with contextlib.suppress(Exception):
        _read_both(run_id, target_file, _Teller(answer))
    # All is written and closed; an orderly end would cost a tenth of a second.
    os._exit(0)


def _end_with_the_other() -> None:
    """End when the process that started this one does, however that comes: its end of the pipe is then closed."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _read_both(run_id: str, target_file: str, tell: _Teller) -> None:
    from product_sync.lean import leave_pandas_out, no_garbage

    with no_garbage():
        from product_sync.adapters.state import SOURCE_ROWS
        from product_sync.core import ahead
        from product_sync.session import open_session, reflect_layout
        from product_sync.settings import SourceAddress, SyncSettings, TargetAddress, mapping_path, state_root

    leave_pandas_out()
    target = TargetAddress.from_environment(os.environ)
    session = open_session(
        SourceAddress.from_environment(os.environ),
        target,
        SyncSettings(),
        reflect_layout(target, mapping_path(os.environ)),
        state_root=state_root(os.environ),
        run_id=run_id,
        on_progress=tell.progress,
    )

    def read_target() -> None:
        tell.read(session.files.path(target_file), session.snapshot_target(target_file))

    reading_target = ahead.begin(read_target)
    tell.read(session.files.path(SOURCE_ROWS), session.snapshot_source())
    reading_target.result()


class _Teller:
    """Writes messages, whole and one after the other, from whichever thread."""

    def __init__(self, pipe: IO[bytes], clock: Callable[[], float] = time.monotonic) -> None:
        self._pipe = pipe
        self._clock = clock
        self._alone = threading.Lock()
        self._told: dict[str, float] = {}

    def progress(self, progress: Progress) -> None:
        now = self._clock()
        if now - self._told.get(progress.stage, -_TELL_EVERY_S) >= _TELL_EVERY_S:
            self._told[progress.stage] = now
            self._write(progress)

    def read(self, path: Path, snapshot: Snapshot) -> None:
        self._write((path, snapshot))

    def _write(self, message: Any) -> None:
        with self._alone:
            pickle.dump(message, self._pipe)
            self._pipe.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
