"""Sends the alerts, heartbeat and metrics of a command if no daemon does it (docs/decisions/0036).

Without DAGSTER_HOME a command records its run in a local instance that no daemon watches. So the command sends them at
its end, with the notification state in the state folder. With DAGSTER_HOME the daemon's sensor does this for recorded
runs; the command only sends the alerts about what failed before its run was recorded.
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
from filelock import Timeout as FileLockTimeout

from product_sync.errors import ProductSyncError, SyncAlreadyRunning, SyncCancelled
from product_sync.notify.alerts import Level, write_state
from product_sync.notify.channels import resolve_channels
from product_sync.notify.dispatch import NotificationState, notify_of_runs
from product_sync.notify.events import FinishedRun
from product_sync.orchestration.dead_runs import process_tags
from product_sync.orchestration.instance import open_instance
from product_sync.orchestration.run_history import finished_runs
from product_sync.schema.definition import DEFAULT_NAME
from product_sync.settings import DAGSTER_HOME, history_root, state_root
from product_sync.state.replaced import Replaced
from product_sync.state.store import write_text

STATE_FILE = "notifications.json"
#: Seconds to wait for another command that is sending; it takes at most `delivery.DELIVERY_S`.
LOCK_S = 30.0
_Repeat = Callable[[NotificationState], None]
_LOG = logging.getLogger("product_sync.notify.dispatch")
#: Neither is a failure that a person has to mend: a person cancelled it, or another sync is running.
_NO_ALERT = (SyncCancelled, SyncAlreadyRunning)
#: Marks an error about which alerts were sent. Python shows it below the traceback.
_NOTE = "Alerts about this error were sent, if any are set."


def notify_of_command(
    env: Mapping[str, str],
    job: str,
    error: BaseException | None,
    started_at: datetime,
    sync: str = DEFAULT_NAME,
) -> None:
    """Send alerts, heartbeat and metrics at the end of a command that ran ``job`` of ``sync``, once for each error. The
    text of an error of another library is left out, because it may hold a password. Errors in here are logged and do
    not change the result of the command."""
    if error is None or isinstance(error, ProductSyncError):
        failure = error
    else:
        if isinstance(error, KeyboardInterrupt | GeneratorExit) or _NOTE in getattr(error, "__notes__", ()):
            return
        error.add_note(_NOTE)
        failure = ProductSyncError(
            f"The command ended with {type(error).__name__}. This is a bug.",
            hint=f"The traceback is on the standard error of the command, on {socket.gethostname()}.",
        )
    try:
        channels = resolve_channels(env)
        settings = channels.settings
        if env.get(DAGSTER_HOME):
            # The daemon calls the monitors for recorded runs.
            silent = {"heartbeat_url": "", "metrics_file": None, "metrics_push_url": ""}
            settings = settings.model_copy(update=silent)
        folder = _state_folder(env)
        with _stored_state(folder) as (state, repeats):
            command = FinishedRun(None, job, failure is None, time.time(), sync=sync)
            runs = _runs(env, folder, state, command, failure, started_at)
            changed = channels.updates(state.alerts, time.time())
            # The alert about the command's failure names a mistake in a setting already.
            said = failure.message if failure else ""
            updates = [each for each in changed if each.level is Level.OK or each.subject.partition("/")[2] not in said]
            result = notify_of_runs(state, runs, settings, _LOG, updates=updates)
            repeats.append(lambda newer: newer.repeat(state, runs, updates, settings))
        if result.waiting:
            _LOG.warning("%s The next command tries again.", result)
    except Exception as problem:  # noqa: BLE001 - the result of the command must not be lost
        _LOG.error("Nobody could be notified of this run: %s.", _shown(problem))


@contextmanager
def _stored_state(root: Path | None) -> Iterator[tuple[NotificationState, list[_Repeat]]]:
    """The notification state of earlier commands, written back at the end. If it cannot be read or written, alerts are
    sent anyway, and may come again with the next command. If a command on another machine has replaced it meanwhile,
    the caller's repeats are called with its state, and that is written."""
    with ExitStack() as stack:
        file, text = None, None
        try:
            if root is not None:
                file = Replaced(root / STATE_FILE)
                stack.enter_context(file.alone(LOCK_S))
                text = _read(file) if file.read().exists() else None
        except (OSError, FileLockTimeout, ProductSyncError) as error:
            _LOG.warning("The record of earlier alerts cannot be read: %s.", _shown(error))
            file = None
        state = NotificationState.read(text, time.time())
        repeats: list[_Repeat] = []
        yield state, repeats

        def write(path: Path) -> None:
            newest = path.read_bytes().decode(errors="replace") if path.exists() else None
            written = state
            if newest != text:
                written = NotificationState.read(newest, time.time())
                for repeat in repeats:
                    repeat(written)
            write_text(path, write_state(written))

        if file is not None:
            try:
                file.change(write)
            except (OSError, ProductSyncError) as error:
                _LOG.warning("The record of alerts cannot be written, so alerts may come again: %s.", _shown(error))


def _read(file: Replaced) -> str | None:
    """The file's text. A damaged file is set aside and gives ``None``."""
    try:
        text = file.path.read_bytes().decode()
        json.loads(text)
    except ValueError:
        file.set_aside("The record of alerts", "Alerts may come again, and the counters of the metrics restart.")
        return None
    return text


def _state_folder(env: Mapping[str, str]) -> Path | None:
    try:
        return state_root(env)
    except (ProductSyncError, OSError) as error:
        _LOG.warning("There is no state folder: %s.", _shown(error))
        return None


def _runs(
    env: Mapping[str, str],
    root: Path | None,
    state: NotificationState,
    command: FinishedRun,
    failure: ProductSyncError | None,
    started_at: datetime,
) -> list[FinishedRun]:
    """The runs to notify of: those that are recorded, and ``command`` if its run was not."""
    runs: list[FinishedRun] = []
    recorded = False
    try:
        if root is not None:
            with open_instance(env, history_root(env)) as instance:
                recorded = _is_recorded(instance, command.job, started_at)
                if not env.get(DAGSTER_HOME):
                    runs += finished_runs(instance, state.notified_until, state.seen)
                elif recorded and failure is not None:
                    _warn_without_daemon(instance)
    except Exception as error:  # noqa: BLE001 - an unreadable run history must not hide the failure
        _LOG.warning("The run history cannot be read: %s.", _shown(error))
    if failure is not None and not recorded and not isinstance(failure, _NO_ALERT):
        runs.append(replace(command, failure=str(failure)))
    elif failure is None and env.get(DAGSTER_HOME):
        runs.append(command)
    return runs


def _shown(error: Exception) -> str:
    """An error in a log line. Of another library's error only the name is shown: its text may hold a password."""
    if isinstance(error, ProductSyncError):
        return str(error).rstrip(".")
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__


def _is_recorded(instance: dg.DagsterInstance, job: str, started_at: datetime) -> bool:
    newest = instance.get_run_records(dg.RunsFilter(job_name=job, tags=process_tags()), limit=1)
    return bool(newest) and (newest[0].end_time or 0.0) >= started_at.timestamp()


def _warn_without_daemon(instance: dg.DagsterInstance) -> None:
    sensors = instance.get_daemon_statuses().get("SENSOR")
    if sensors is None or not sensors.healthy:
        _LOG.warning("No Dagster daemon is running for this instance: alerts about this run wait until one starts.")
