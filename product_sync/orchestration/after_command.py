"""Tells of what a command did where no daemon does it (docs/decisions/0036).

Without DAGSTER_HOME a command records its run in a local instance that no daemon watches, so the command itself tells
of it at its end, with the ledger in the state folder. With DAGSTER_HOME the daemon's sensor tells of recorded runs;
what failed before a run was recorded is still the command's to tell.
"""

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import dagster as dg
from filelock import FileLock

from product_sync.core.errors import ProductSyncError, SyncAlreadyRunning, SyncCancelled
from product_sync.core.outcomes import FinishedRun
from product_sync.orchestration.finished import finished_runs
from product_sync.orchestration.instance import open_instance
from product_sync.orchestration.reaping import process_tags
from product_sync.settings import TellingSettings
from product_sync.telling import Ledger, tell_runs

LEDGER = "told.json"
_LOG = logging.getLogger("product_sync.telling")
#: Neither is a failure that a person has to mend: one was asked for, in the other a sync is at work.
_NO_NEWS = (SyncCancelled, SyncAlreadyRunning)


def tell_of_command(
    env: Mapping[str, str], root: Path, job: str, failure: ProductSyncError | None, started_at: datetime
) -> None:
    """Tell how a command ended that ran ``job``. Whatever goes wrong here is logged: the command has its own result.

    ``root`` is the state folder, ``started_at`` is aware.
    """
    try:
        settings = TellingSettings.from_environment(env)
        if env.get("DAGSTER_HOME"):
            # Monitors hear of recorded runs from the daemon.
            settings = replace(settings, heartbeat_url="", metrics_file=None, metrics_push_url="")
        _tell(env, root, settings, job, failure, started_at)
    except (ProductSyncError, OSError) as error:
        _LOG.error("Nobody could be told of this run: %s", error)


def _tell(
    env: Mapping[str, str],
    root: Path,
    settings: TellingSettings,
    job: str,
    failure: ProductSyncError | None,
    started_at: datetime,
) -> None:
    root.mkdir(parents=True, exist_ok=True)
    path = root / LEDGER
    with FileLock(path.with_suffix(".lock")):
        ledger = Ledger.read(path.read_text(encoding="utf-8") if path.exists() else None, time.time())
        told = tell_runs(ledger, _runs(env, root, ledger, job, failure, started_at), settings, _LOG)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(ledger.write(), encoding="utf-8")
        temporary.replace(path)
    if told.waiting:
        _LOG.warning("%s The next command tries again.", told)


def _runs(
    env: Mapping[str, str],
    root: Path,
    ledger: Ledger,
    job: str,
    failure: ProductSyncError | None,
    started_at: datetime,
) -> list[FinishedRun]:
    """What is to be told."""
    runs: list[FinishedRun] = []
    recorded = False
    try:
        with open_instance(env, root) as instance:
            recorded = _is_recorded(instance, job, started_at)
            if not env.get("DAGSTER_HOME"):
                runs += finished_runs(instance, ledger.told_until, ledger.seen)
            elif recorded and failure is not None:
                _warn_without_daemon(instance)
    except ProductSyncError:
        pass  # the command has failed for the same reason: that is the news
    now = time.time()
    if failure is not None and not recorded and not isinstance(failure, _NO_NEWS):
        runs.append(FinishedRun(None, job, succeeded=False, ended_at=now, failure=str(failure)))
    elif failure is None and env.get("DAGSTER_HOME"):
        runs.append(FinishedRun(None, job, succeeded=True, ended_at=now))
    return runs


def _is_recorded(instance: dg.DagsterInstance, job: str, started_at: datetime) -> bool:
    """Whether this process has ended a run of the job since then."""
    mine = dg.RunsFilter(job_name=job, tags=process_tags())
    newest = instance.get_run_records(mine, limit=1)
    return bool(newest) and (newest[0].end_time or 0.0) >= started_at.timestamp()


def _warn_without_daemon(instance: dg.DagsterInstance) -> None:
    sensors = instance.get_daemon_statuses().get("SENSOR")
    if sensors is None or not sensors.healthy:
        _LOG.warning("No Dagster daemon watches this instance: alerts of this run wait until one does.")
