"""Runs whose process was killed stay "started" in Dagster for ever, and the queue and the schedule wait for them.

The default launcher cannot see a dead worker (docs/decisions/0007), so a run records its host and process, and a sensor
or the next command marks it as failed: when its process is gone from this host, or, where its process cannot be seen
from here, when it has been silent for five minutes while nobody holds the sync's lock. A run whose process lives on
this host is never marked, however silent it is: it would go on and write.
"""

import os
import socket
import time
from collections.abc import Callable
from enum import Enum

import dagster as dg
import psutil

from product_sync.orchestration.names import HOST_TAG, PROCESS_TAG
from product_sync.orchestration.schedules import unfinished_runs

#: Every run logs a sign of life at least once a minute (`signs_of_life`).
SILENCE_S = 300.0


class _Process(Enum):
    ALIVE = "alive"
    GONE = "gone"
    UNSEEN = "it ran on another host, or did not say where"


def process_tags() -> dict[str, str]:
    """Where this process runs: its host, its pid, and when it started (pids are used again)."""
    return {HOST_TAG: socket.gethostname(), PROCESS_TAG: process_tag(os.getpid())}


def process_tag(pid: int) -> str:
    """The pid and when the process started, in seconds since the machine did: the times of day of all processes move
    when somebody sets the clock. Raises `psutil.NoSuchProcess`."""
    return f"{pid}@{psutil.Process(pid).create_time() - psutil.boot_time():.2f}"


def reap_dead_runs(
    instance: dg.DagsterInstance, *, lock_is_free: Callable[[], bool], clock: Callable[[], float] = time.time
) -> list[str]:
    """Mark runs that cannot go on as failed; returns their ids. ``clock`` gives seconds since 1970.

    Dry runs and validations too: they stand in the same queue. Runs that wait there are left alone.
    """
    reaped = []
    for record in unfinished_runs(instance):
        run = record.dagster_run
        if run.status is dg.DagsterRunStatus.QUEUED:
            continue
        process = _process_of(run)
        if process is _Process.ALIVE:
            continue
        if process is _Process.GONE:
            cause = f"its process {run.tags[PROCESS_TAG].partition('@')[0]} is gone"
        elif _silent_for(instance, record, clock()) > SILENCE_S and lock_is_free():
            cause = f"it has been silent for {SILENCE_S:.0f} seconds and holds no lock"
        else:
            continue
        instance.report_run_failed(run, f"This run was ended from outside: {cause}.")
        reaped.append(run.run_id)
    return reaped


def _process_of(run: dg.DagsterRun) -> _Process:
    if run.tags.get(HOST_TAG) != socket.gethostname() or PROCESS_TAG not in run.tags:
        return _Process.UNSEEN
    tag = run.tags[PROCESS_TAG]
    pid = int(tag.partition("@")[0])
    try:
        is_it = process_tag(pid) == tag and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return _Process.GONE
    return _Process.ALIVE if is_it else _Process.GONE


def _silent_for(instance: dg.DagsterInstance, record: dg.RunRecord, now: float) -> float:
    last = instance.get_records_for_run(record.dagster_run.run_id, limit=1, ascending=False).records
    return now - (last[0].event_log_entry.timestamp if last else record.create_timestamp.timestamp())
