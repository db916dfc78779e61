"""Ends a step whose run has ended: in a process of its own it would go on, and write.

The process of a run may be killed, or be on another machine when somebody terminates the run. Dagster's multiprocess
executor ends its steps when it can; those of Celery and those of a killed process go on by themselves.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import dagster as dg

from product_sync.errors import SyncCancelled
from product_sync.orchestration.dead_runs import process_tags
from product_sync.runtime.signals import interrupt_main_thread

#: Seconds between two looks at the run. Its step is interrupted at the second one that finds it ended, because Dagster
#: may interrupt it too, and the second interrupt of a step does not wait for a COMMIT.
_LOOK_EVERY_S: Final = 5.0


@contextmanager
def ends_with_its_run(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Within the block, interrupt the main thread when the run has ended. Does nothing in the process of the run.

    Raises `SyncCancelled` if the run has ended before the step begins, as a queue may give it to a worker late."""
    run = instance.get_run_by_id(run_id)
    if run is None or process_tags().items() <= run.tags.items():
        yield
        return
    if _has_ended(run):
        raise SyncCancelled("This run has ended, so its step is not executed.", hint="Start another run.")
    done = threading.Event()
    threading.Thread(target=_watch, args=(instance, run_id, done), name="product_sync run", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _watch(instance: dg.DagsterInstance, run_id: str, done: threading.Event) -> None:
    looks = 0
    while looks < 2 and not done.wait(_LOOK_EVERY_S):
        run = instance.get_run_by_id(run_id)
        looks += run is None or _has_ended(run)
    if not done.is_set():
        interrupt_main_thread()


def _has_ended(run: dg.DagsterRun) -> bool:
    return run.is_finished or run.status is dg.DagsterRunStatus.CANCELING
