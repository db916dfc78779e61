"""Reads both sides in a process of its own while this one is still importing Dagster, which takes as long.

It writes the same files as the steps of the run, into the run's folder, and tells through a pipe what it has read. It
is nothing but a start: where it fails, a step reads by itself, and fails by itself if that is how it ends
(docs/decisions/0071). It ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

from product_sync.errors import ProductSyncError, TargetLocked
from product_sync.runtime.process import no_garbage
from product_sync.runtime.progress import OnProgress, Progress, no_progress

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess

    from product_sync.compare.snapshot import SourceSnapshot, TargetSnapshot
    from product_sync.pipeline.databases import Databases
    from product_sync.schema.definition import SyncDefinition
    from product_sync.schema.row_schema import RowSchema

    Snapshot = SourceSnapshot | TargetSnapshot
    #: How far a reading has come; a complete one and its file; the layout, before all of these, or why there is none.
    Message = Progress | tuple[Path, Snapshot] | RowSchema | ProductSyncError

#: Seconds between two words about the progress of a stage: whoever should listen may be busy for a while.
_TELL_EVERY_S: Final = 0.25
_END_S: Final = 5.0


class HeadStart:
    """The process, from the side of the one that started it. Made by `head_start`."""

    def __init__(self, process: ForkProcess, answers: Connection) -> None:
        self._process = process
        self._answers = answers
        self._layout: RowSchema | None = None
        self._read: dict[Path, Snapshot] = {}

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def give_row_schema(self, databases: Databases) -> None:
        """Give ``databases`` the columns that the process has found, as soon as it has, if that comes.

        Raises as `Databases.row_schema`: a server that does not answer is not waited for twice."""
        while self._layout is None and self._hear(no_progress):
            pass
        if self._layout:
            vars(databases)["row_schema"] = self._layout

    def snapshot(self, path: Path, on_progress: OnProgress) -> Snapshot | None:
        """What was read into ``path``, once, as soon as it is complete; ``None`` if that does not come."""
        while path not in self._read and self._hear(on_progress):
            pass
        return self._read.pop(path, None)

    def end(self) -> None:
        """Ask the process to cancel its statements and end; kill it where that takes too long."""
        self._process.terminate()
        self._process.join(_END_S)
        self._process.kill()
        self._process.join(_END_S)
        self._answers.close()

    def _hear(self, on_progress: OnProgress) -> bool:
        """Wait for the next message and keep it; false when the process has ended."""
        try:
            message: Message = self._answers.recv()
        except (EOFError, OSError):
            return False
        if isinstance(message, ProductSyncError):
            raise message
        if isinstance(message, Progress):
            on_progress(message)
        elif isinstance(message, tuple):
            read, snapshot = message
            self._read[read] = snapshot
        else:
            self._layout = message
        return True


@contextmanager
def head_start(definition: SyncDefinition, run_id: str, target_file: str) -> Iterator[HeadStart | None]:
    """Begin the readings of this run; ``target_file`` is the name that the target's gets in the run's folder.

    ``None`` on a single processor, where nothing can be done at once, on systems other than Linux, where a process
    cannot be forked safely, and where the system has no process left. It must not be called while other threads of
    this process are at work.
    """
    if not _is_worth_it():
        yield None
        return
    with no_garbage():
        # What both processes need; and what is imported now, the new one has already.
        import multiprocessing as mp

        import product_sync.pipeline.sync_run  # noqa: F401

    forking = mp.get_context("fork")
    begun: HeadStart | None = None
    # With no process or no descriptor left there is no head start, and the steps read by themselves.
    with contextlib.suppress(OSError):
        answers, answer = forking.Pipe(duplex=False)
        process = forking.Process(target=_read_ahead, args=(definition, run_id, target_file, answer), daemon=True)
        process.start()
        # This end is the other process's alone: when that ends, the answers do.
        answer.close()
        begun = HeadStart(process, answers)
    try:
        yield begun
    finally:
        if begun is not None:
            begun.end()


def _is_worth_it() -> bool:
    return sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1


def _read_ahead(definition: SyncDefinition, run_id: str, target_file: str, answer: Connection) -> None:
    """What the process does. Errors while reading are not passed on: the step that finds nothing meets them too."""
    # Ctrl-C is for the process that started this one, and so is whatever a library prints.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    threading.Thread(target=_end_with_the_other, daemon=True).start()
    with contextlib.suppress(Exception, KeyboardInterrupt):
        _read_both(definition, run_id, target_file, _Teller(answer))
    # All is written and closed; an orderly end would cost a tenth of a second.
    os._exit(0)


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    """What is being read is cancelled at the server: its sessions would wait on for a locked table."""
    raise KeyboardInterrupt


def _end_with_the_other() -> None:
    """End when the process that started this one does, however that comes."""
    import multiprocessing as mp

    if parent := mp.parent_process():
        parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_END_S)
    os._exit(1)


def _read_both(definition: SyncDefinition, run_id: str, target_file: str, tell: _Teller) -> None:
    from product_sync.pipeline.databases import Databases
    from product_sync.pipeline.sync_run import open_sync_run
    from product_sync.settings import RunOptions, state_root
    from product_sync.state.store import SOURCE_ROWS

    databases = Databases.of(definition, os.environ)
    try:
        row_schema = databases.row_schema
    except ProductSyncError as error:
        tell.failed(error)
        return
    tell.row_schema(row_schema)
    sync_run = open_sync_run(
        databases,
        RunOptions(),
        state_root=state_root(os.environ),
        run_id=run_id,
        on_progress=tell.progress,
    )

    try:
        source, rows = sync_run.snapshot_both(target_file)
    except TargetLocked as error:
        # The step would wait as long again, and fail as well.
        tell.failed(error)
        return
    tell.read(sync_run.files.path(SOURCE_ROWS), source)
    tell.read(sync_run.files.path(target_file), rows)


class _Teller:
    """Writes messages, whole and one after the other, from whichever thread."""

    def __init__(self, answer: Connection, clock: Callable[[], float] = time.monotonic) -> None:
        self._answer = answer
        self._clock = clock
        self._alone = threading.Lock()
        self._told: dict[str, float] = {}

    def progress(self, progress: Progress) -> None:
        now = self._clock()
        if progress.ended or now - self._told.get(progress.stage, -_TELL_EVERY_S) >= _TELL_EVERY_S:
            self._told[progress.stage] = now
            self._write(progress)

    def row_schema(self, row_schema: RowSchema) -> None:
        self._write(row_schema)

    def failed(self, error: ProductSyncError) -> None:
        self._write(error)

    def read(self, path: Path, snapshot: Snapshot) -> None:
        self._write((path, snapshot))

    def _write(self, message: Message) -> None:
        with self._alone:
            self._answer.send(message)
