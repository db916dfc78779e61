"""Plays rounds in several processes, each with its own servers, so that a killed server disturbs no other round."""

from __future__ import annotations

import logging
import multiprocessing
import queue
import signal
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from typing import TYPE_CHECKING, Final

from product_sync_torture.faults.campaign import Round, make_history, play
from product_sync_torture.faults.kinds import FAULTS
from product_sync_torture.faults.machines import machines

# Names only: the class takes no parameters at run time.
if TYPE_CHECKING:
    #: The index of a fault in `FAULTS` and the seed of a round; ``None`` ends a worker.
    _Tasks = Queue[tuple[int, int] | None]
    #: A round and whether its worker has a disk to fill; or the traceback of a failed worker.
    _Played = Queue[tuple[Round, bool] | str]

_POLL_S: Final = 1.0


class WorkerDied(Exception):
    """A worker failed, because of the campaign or the machine."""


def play_all(tasks: Sequence[tuple[int, int]], workers: int) -> Iterator[tuple[Round, bool]]:
    """Yield each played round, and whether its worker has a disk to fill. Raises `WorkerDied`."""
    # Do not fork: the workers start servers and threads.
    context = multiprocessing.get_context("spawn")
    to_play: _Tasks = context.Queue()
    played: _Played = context.Queue()
    for task in [*tasks, *[None] * workers]:
        to_play.put(task)
    processes = [context.Process(target=_work, args=(to_play, played)) for _ in range(workers)]
    for process in processes:
        process.start()
    try:
        for _ in tasks:
            yield _next(played, processes)
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join()


def _next(played: _Played, processes: Sequence[multiprocessing.process.BaseProcess]) -> tuple[Round, bool]:
    while True:
        # Checked before the queue, so that the last result of an ended process is found.
        ended = not any(process.is_alive() for process in processes)
        try:
            found = played.get(timeout=_POLL_S)
        except queue.Empty:
            if ended:
                raise WorkerDied("All workers have ended before the last round.") from None
            continue
        if isinstance(found, str):
            raise WorkerDied(found)
        return found


def _work(tasks: _Tasks, played: _Played) -> None:
    logging.disable(logging.CRITICAL)
    # These stop the servers. Dagster gives SIGTERM the handler of SIGINT, which a background job ignores.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with machines() as own, tempfile.TemporaryDirectory(prefix="product_sync_torture_") as folder:
            home = make_history(Path(folder) / "home")
            while task := tasks.get():
                fault, seed = task
                played.put((play(own, home, FAULTS[fault], seed), own.disk is not None))
    except KeyboardInterrupt:
        pass
    except Exception:  # noqa: BLE001 - the parent raises it
        played.put(traceback.format_exc())
