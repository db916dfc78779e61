"""Marks runs whose process was killed as failed. Otherwise Dagster keeps them as started, and the queue waits for them.

Dagster's default launcher does not notice a dead process (docs/decisions/0007). So a run records its host and process,
and a sensor or the next command marks it as failed if its process is gone from this host. If the process cannot be seen
from here, the run is marked as failed after five minutes without an event while nobody holds the sync's lock. A run
whose process lives on this host is never marked, because it would go on and write. A job of somebody else that
contains our assets records no process, and its other steps may be silent for hours: it is not judged by its silence.

A step in a process of its own also goes on when its run has ended: when the process of the run was killed, or when
somebody terminates a run that is on another machine. Such a step is interrupted.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import dagster as dg
import psutil

from product_sync.errors import SyncCancelled
from product_sync.orchestration.names import HOST_TAG, PROCESS_TAG, SyncNames, selected_assets
from product_sync.orchestration.run_history import last_event_at
from product_sync.orchestration.schedules import unfinished_runs
from product_sync.runtime.signals import interrupt_main_thread

_LOGGER = logging.getLogger(__name__)
#: Every run records an event at least once a minute (`progress_events`).
SILENCE_S = 300.0
#: Seconds between two looks at the run. Its step is interrupted at the second one that finds it ended, because Dagster
#: may interrupt it too, and the second interrupt of a step does not wait for a COMMIT.
_LOOK_EVERY_S: Final = 5.0


def process_tags() -> dict[str, str]:
    return {HOST_TAG: socket.gethostname(), PROCESS_TAG: process_tag(os.getpid())}


def process_tag(pid: int) -> str:
    """The pid and the start of the process, because pids are reused. The start is in seconds since the machine's boot,
    because setting the clock changes the time of day of all processes. Raises `psutil.NoSuchProcess`."""
    return f"{pid}@{psutil.Process(pid).create_time() - psutil.boot_time():.2f}"


def reap_dead_runs(
    instance: dg.DagsterInstance,
    names: SyncNames,
    *,
    lock_is_free: Callable[[], bool],
    clock: Callable[[], float] = time.time,
) -> list[str]:
    """Mark dead runs of one sync as failed and return their ids. ``clock`` gives seconds since 1970. This includes dry
    runs and validations, because they use the same queue. Queued runs have no process yet."""
    reaped = []
    for record in unfinished_runs(instance, [names]):
        run = record.dagster_run
        if run.status is dg.DagsterRunStatus.QUEUED:
            continue
        is_alive = _is_alive(instance, run)
        if is_alive is False:
            cause = f"its process {run.tags[PROCESS_TAG].partition('@')[0]} is gone"
        elif (
            is_alive is None
            and _speaks(run, names)
            and _silence(instance, record, clock()) > SILENCE_S
            and lock_is_free()
        ):
            cause = f"it has recorded nothing for {SILENCE_S:.0f} seconds and holds no lock"
        else:
            continue
        instance.report_run_failed(run, f"This run was ended from outside: {cause}.")
        reaped.append(run.run_id)
    return reaped


def _is_alive(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool | None:
    """Whether the run's process lives; ``None`` if it runs on another host or recorded no process. A re-execution
    begins with the tags of its parent, so these say nothing about it."""
    if run.tags.get(HOST_TAG) != socket.gethostname() or PROCESS_TAG not in run.tags:
        return None
    tag = run.tags[PROCESS_TAG]
    pid = int(tag.partition("@")[0])
    try:
        if process_tag(pid) == tag and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            return True
    except psutil.NoSuchProcess:
        pass
    parent = instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    return None if parent and parent.tags.get(PROCESS_TAG) == tag else False


def _speaks(run: dg.DagsterRun, names: SyncNames) -> bool:
    """Whether the run would record something if it lived: its executor does so, or it has steps of this sync only."""
    selected = selected_assets(run)
    has_only_ours = run.job_name in names.jobs or (bool(selected) and selected <= names.assets)
    return PROCESS_TAG in run.tags or has_only_ours


def _silence(instance: dg.DagsterInstance, record: dg.RunRecord, now: float) -> float:
    return now - (last_event_at(instance, record.dagster_run.run_id) or record.create_timestamp.timestamp())


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
        try:
            run = instance.get_run_by_id(run_id)
        except Exception as error:  # noqa: BLE001 - of any storage; it may be back at the next look
            _LOGGER.warning("Whether the run has ended could not be read: %s", error)
        else:
            looks += run is None or _has_ended(run)
    if not done.is_set():
        interrupt_main_thread()


def _has_ended(run: dg.DagsterRun) -> bool:
    return run.is_finished or run.status is dg.DagsterRunStatus.CANCELING
