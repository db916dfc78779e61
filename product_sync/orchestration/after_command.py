"""Tells of what a command did where no daemon does it (docs/decisions/0036).

Without DAGSTER_HOME a command records its run in a local instance that no daemon watches, so the command itself tells
of it at its end, with the ledger in the state folder. With DAGSTER_HOME the daemon's sensor tells of recorded runs;
what failed before a run was recorded is still the command's to tell.
"""

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import dagster as dg
from filelock import FileLock
from filelock import Timeout as FileLockTimeout

from product_sync.errors import ProductSyncError, SyncAlreadyRunning, SyncCancelled
from product_sync.notify.alerts import Level, StatusUpdate
from product_sync.notify.channels import Channels, resolve_channels
from product_sync.notify.dispatch import NotificationState, notify_of_runs
from product_sync.notify.events import FinishedRun
from product_sync.orchestration.dead_runs import process_tags
from product_sync.orchestration.instance import open_instance
from product_sync.orchestration.run_history import finished_runs
from product_sync.state.damaged_files import set_aside
from product_sync.state.store import write_text

LEDGER = "told.json"
#: Seconds to wait for another command that is sending. It is done within `delivery.DELIVERY_S`.
LOCK_S = 30.0
_LOG = logging.getLogger("product_sync.notify.dispatch")
#: Neither is a failure that a person has to mend: one was asked for, in the other a sync is at work.
_NO_NEWS = (SyncCancelled, SyncAlreadyRunning)
#: What a command leaves on an error about which it has sent alerts; it stands below the traceback.
_NOTE = "Alerts about this were sent, where any are set."


def notify_of_error(
    env: Mapping[str, str], root: Callable[[], Path], job: str, error: BaseException, started_at: datetime
) -> None:
    """Send alerts about an error that ends the command, once however often it is called.

    The text of an error that is not ours is left out: it may hold anything, a password too.
    """
    if isinstance(error, KeyboardInterrupt | GeneratorExit) or _NOTE in getattr(error, "__notes__", ()):
        return
    error.add_note(_NOTE)
    failure = error
    if not isinstance(failure, ProductSyncError):
        failure = ProductSyncError(
            f"The command ended with {type(error).__name__}: a bug, or a case that nobody thought of.",
            hint=f"The traceback is on its standard error, on {socket.gethostname()}.",
        )
    notify_of_command(env, root, job, failure, started_at)


def notify_of_command(
    env: Mapping[str, str],
    root: Path | Callable[[], Path],
    job: str,
    failure: ProductSyncError | None,
    started_at: datetime,
) -> None:
    """Send alerts, heartbeat and metrics at the end of a command that ran ``job``. Whatever goes wrong here is logged:
    the command has its own result.

    ``root`` is the state folder, or finds it; ``started_at`` is aware.
    """
    try:
        channels = resolve_channels(env)
        if env.get("DAGSTER_HOME"):
            # Monitors hear of recorded runs from the daemon.
            settings = replace(channels.settings, heartbeat_url="", metrics_file=None, metrics_push_url="")
            channels = replace(channels, settings=settings)
        _tell(env, _state_folder(root), channels, job, failure, started_at)
    except Exception as error:  # noqa: BLE001 - the result of the command must not be lost
        _LOG.error("Nobody could be notified of this run: %s.", _named(error))


def _tell(
    env: Mapping[str, str],
    root: Path | None,
    channels: Channels,
    job: str,
    failure: ProductSyncError | None,
    started_at: datetime,
) -> None:
    with _ledger(root) as ledger:
        runs = _runs(env, root, ledger, job, failure, started_at)
        changed = channels.news(ledger.book, time.time())
        news = [item for item in changed if item.level is Level.OK or not _is_said(item, failure)]
        told = notify_of_runs(ledger, runs, channels, _LOG, news=news)
    if told.waiting:
        _LOG.warning("%s The next command tries again.", told)


def _is_said(news: StatusUpdate, failure: ProductSyncError | None) -> bool:
    """Whether the failure of the command is the same mistake."""
    return failure is not None and news.subject.partition("/")[2] in failure.message


@contextmanager
def _ledger(root: Path | None) -> Iterator[NotificationState]:
    """What earlier commands have announced. Where it cannot be read or kept, alerts go out all the same, and may come
    again with the next command."""
    with ExitStack() as stack:
        path, text = None, None
        try:
            if root is not None:
                root.mkdir(parents=True, exist_ok=True)
                path = root / LEDGER
                stack.enter_context(FileLock(path.with_suffix(".lock"), timeout=LOCK_S))
                text = _read(path) if path.exists() else None
        except (OSError, FileLockTimeout) as error:
            _LOG.warning("What was announced before cannot be read: %s.", _named(error))
            path = None
        ledger = NotificationState.read(text, time.time())
        yield ledger
        if path is not None:
            try:
                write_text(path, ledger.write())
            except OSError as error:
                _LOG.warning("What was announced cannot be kept, and may come again: %s.", _named(error))


def _read(path: Path) -> str | None:
    """The file's text; ``None`` for a damaged one, which is set aside."""
    try:
        text = path.read_bytes().decode()
        json.loads(text)
    except ValueError:
        set_aside(path, "The record of alerts", "Alerts may come again, and the counters of the metrics begin anew.")
        return None
    return text


def _state_folder(root: Path | Callable[[], Path]) -> Path | None:
    if isinstance(root, Path):
        return root
    try:
        return root()
    except (ProductSyncError, OSError, RuntimeError) as error:
        _LOG.warning("There is no state folder: %s.", _named(error))
        return None


def _runs(
    env: Mapping[str, str],
    root: Path | None,
    ledger: NotificationState,
    job: str,
    failure: ProductSyncError | None,
    started_at: datetime,
) -> list[FinishedRun]:
    """The runs to announce."""
    runs: list[FinishedRun] = []
    recorded = False
    try:
        if root is not None:
            with open_instance(env, root) as instance:
                recorded = _is_recorded(instance, job, started_at)
                if not env.get("DAGSTER_HOME"):
                    runs += finished_runs(instance, ledger.told_until, ledger.seen)
                elif recorded and failure is not None:
                    _warn_without_daemon(instance)
    except Exception as error:  # noqa: BLE001 - a run history that cannot be read must not silence the failure
        _LOG.warning("The history of runs cannot be read: %s.", _named(error))
    now = time.time()
    if failure is not None and not recorded and not isinstance(failure, _NO_NEWS):
        runs.append(FinishedRun(None, job, succeeded=False, ended_at=now, failure=str(failure)))
    elif failure is None and env.get("DAGSTER_HOME"):
        runs.append(FinishedRun(None, job, succeeded=True, ended_at=now))
    return runs


def _named(error: Exception) -> str:
    """An error in a log line. Of one that is not ours only the name: its text may hold a password."""
    if isinstance(error, ProductSyncError):
        return str(error).rstrip(".")
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__


def _is_recorded(instance: dg.DagsterInstance, job: str, started_at: datetime) -> bool:
    """Whether this process has ended a run of the job since then."""
    mine = dg.RunsFilter(job_name=job, tags=process_tags())
    newest = instance.get_run_records(mine, limit=1)
    return bool(newest) and (newest[0].end_time or 0.0) >= started_at.timestamp()


def _warn_without_daemon(instance: dg.DagsterInstance) -> None:
    sensors = instance.get_daemon_statuses().get("SENSOR")
    if sensors is None or not sensors.healthy:
        _LOG.warning("No Dagster daemon watches this instance: alerts of this run wait until one does.")
