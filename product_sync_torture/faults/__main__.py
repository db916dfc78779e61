"""``python -m product_sync_torture.faults``: all faults in turn, and a report. Ends with 1 on a violation."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import signal
import sys
import tempfile
import traceback
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Final

from product_sync_torture.faults.campaign import Round, make_history, play
from product_sync_torture.faults.kinds import FAULTS
from product_sync_torture.faults.machines import machines
from product_sync_torture.faults.report import report

#: (fault, seed) of a round that is to be played; ``None`` for no more.
_Tasks = Queue[tuple[int, int] | None]
#: A round, or that a worker has no more, or what it died of; and whether it had a disk to fill.
_Played = Queue[tuple[Round | str | None, bool]]
_SHOWN: Final = 5


def main() -> int:
    parser = argparse.ArgumentParser(prog="product_sync_torture.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=330, help="how many, the faults in turn")
    parser.add_argument("--workers", type=int, default=2, help="processes, each with servers of its own")
    parser.add_argument("--seed", type=int, default=1, help="of the first round of each fault; the next ones follow")
    parser.add_argument("--only", default="", help="faults whose name contains this")
    parser.add_argument("--report", type=Path, help="where to write the report, as Markdown; anew after each round")
    arguments = parser.parse_args()
    chosen = [number for number, fault in enumerate(FAULTS) if arguments.only in fault.name]
    if not chosen:
        parser.error(f"no fault has a name with {arguments.only!r} in it")
    tasks = [(chosen[n % len(chosen)], arguments.seed + n // len(chosen)) for n in range(arguments.rounds)]
    return _play_all(tasks, arguments.workers, arguments.report)


def _play_all(tasks: list[tuple[int, int]], workers: int, path: Path | None) -> int:
    # Not forked: the workers start servers and threads.
    context = multiprocessing.get_context("spawn")
    queue: _Tasks = context.Queue()
    played: _Played = context.Queue()
    for task in [*tasks, *[None] * workers]:
        queue.put(task)
    processes = [context.Process(target=_work, args=(queue, played), daemon=False) for _ in range(workers)]
    for process in processes:
        process.start()
    rounds: list[Round] = []
    crashes: list[str] = []
    text = ""
    at_work = workers
    while at_work:
        one, disk = played.get()
        if not isinstance(one, Round):
            at_work -= 1
            crashes += [one] if one else []
            continue
        rounds.append(one)
        _tell(one, len(rounds), len(tasks))
        text = report(rounds, asked=len(tasks), workers=workers, disk=disk)
        if path:
            path.write_text(text, encoding="utf-8")
    for process in processes:
        process.join()
    _say("\n".join([text, *crashes]))
    return int(bool(crashes) or any(one.violations for one in rounds))


def _work(tasks: _Tasks, played: _Played) -> None:
    """One worker: rounds until there are no more. A round that cannot be played ends the worker, and is told."""
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the servers are stopped
    told: str | None = None
    try:
        with machines() as own, tempfile.TemporaryDirectory(prefix="product_sync_torture_") as folder:
            home = make_history(Path(folder) / "home")
            while task := tasks.get():
                fault, seed = task
                played.put((play(own, home, FAULTS[fault], seed), own.disk is not None))
    except Exception:  # noqa: BLE001 - the campaign's own faults are told by the process that has the report
        told = traceback.format_exc()
    finally:
        played.put((told, False))


def _tell(one: Round, count: int, asked: int) -> None:
    _say(f"{count}/{asked} {one.fault}, seed {one.seed}: {one.ending}, {one.seconds:.0f} s")
    for violation in one.violations[:_SHOWN]:
        _say(f"  {violation}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
