"""Machines for the tests: processes that share no disk, and an executor that runs each step on a machine of its own.

As root a machine has an empty /tmp of its own, where its HOME, TMPDIR and DAGSTER_HOME are: what another one writes it
cannot see. For other users, and for a program below /tmp, a machine is three folders. The program is shared, as an
image would be.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import dagster as dg
import psutil
import yaml
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.step_delegating import (
    CheckStepHealthResult,
    StepDelegatingExecutor,
    StepHandler,
    StepHandlerContext,
)

BIN: Final = Path(sys.executable).parent
_HAS_OWN_TMP: Final = (
    os.geteuid() == 0 and shutil.which("unshare") is not None and not BIN.is_relative_to("/tmp")  # noqa: S108
)
#: What a machine has from the start: the addresses of the servers, and the config of its instance.
ADDRESSES, INSTANCE, EXECUTOR = "TEST_MACHINE_ADDRESSES", "TEST_MACHINE_INSTANCE", "TEST_MACHINE_EXECUTOR"
_BOOT: Final = """
[ "$0" = folders ] || { mount -t tmpfs none /tmp && mkdir "$HOME" "$TMPDIR" "$DAGSTER_HOME"; } &&
cd "$DAGSTER_HOME" && printf "%s" "$TEST_MACHINE_INSTANCE" > dagster.yaml &&
printf "%s" "$TEST_MACHINE_EXECUTOR" > executor.yaml && exec "$@"
"""


def start(command: list[str], known: Mapping[str, str], **options: Any) -> subprocess.Popen[Any]:
    """Start a process on a new machine. ``known`` are the variables that all machines have. The working directory holds
    dagster.yaml, and executor.yaml if there is one."""
    root = Path("/tmp") if _HAS_OWN_TMP else Path(tempfile.mkdtemp(prefix="product_sync_machine_"))  # noqa: S108
    places = {"HOME": root / "home", "TMPDIR": root / "scratch", "DAGSTER_HOME": root / "dagster"}
    booted = ["sh", "-c", _BOOT, "folders", *command]
    if _HAS_OWN_TMP:
        booted = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", _BOOT, "machine", *command]
    else:
        for place in places.values():
            place.mkdir()
    own = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **{name: str(place) for name, place in places.items()}}
    return subprocess.Popen(booted, env={**known, **own, ADDRESSES: " ".join(known)}, cwd="/", **options)


def instance_config(history_url: str) -> str:
    """The content of dagster.yaml: the history in a PostgreSQL database."""
    return yaml.safe_dump(
        {
            "storage": {"postgres": {"postgres_url": history_url.replace("postgresql://", "postgresql+psycopg2://")}},
            "telemetry": {"enabled": False},
            "python_logs": {"managed_python_loggers": ["product_sync"], "python_log_level": "INFO"},
        }
    )


@dataclass(frozen=True)
class Fleet:
    """Starts machines that know the same ``addresses`` and write one history."""

    addresses: Mapping[str, str]
    history_url: str
    executor: Mapping[str, Any] = field(default_factory=dict)

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[Any]:
        executor = yaml.safe_dump({"execution": {"config": dict(self.executor)}})
        known = {**self.addresses, INSTANCE: instance_config(self.history_url), EXECUTOR: executor}
        return start(command, known, **options)

    def execute(self, job: str, *arguments: str) -> subprocess.Popen[str]:
        """``dagster job execute`` on a machine of its own. Its output has everything that it says."""
        command = [str(BIN / "dagster"), "job", "execute", "-m", "product_sync.definitions", "-j", job, *arguments]
        return self.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class _OnMachines(StepHandler):
    """Starts each step on a new machine, as the executor for Kubernetes starts it in a new pod."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def name(self) -> str:
        return "on_machines"

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        arguments = step_handler_context.execute_step_args
        [step] = arguments.step_keys_to_execute or ()
        known = {name: os.environ[name] for name in os.environ[ADDRESSES].split()}
        self._processes[step] = start(list(arguments.get_command_args()), known)
        yield from ()

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        [step] = step_handler_context.execute_step_args.step_keys_to_execute or ()
        status = self._processes[step].poll()
        return (
            CheckStepHealthResult.unhealthy(f"Its machine is gone: {status}.")
            if status
            else (CheckStepHealthResult.healthy())
        )

    def terminate_step(self, step_handler_context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        [step] = step_handler_context.execute_step_args.step_keys_to_execute or ()
        self._processes[step].terminate()
        yield from ()


@dg.executor(name="on_machines", requirements=dg.multiple_process_executor_requirements())
def on_machines(_: dg.InitExecutorContext) -> dg.Executor:
    """Two steps at once, each on a machine of its own."""
    return StepDelegatingExecutor(
        _OnMachines(), RetryMode.ENABLED, sleep_seconds=0.1, check_step_health_interval_seconds=1, max_concurrent=2
    )


def kill_with_children(pid: int) -> None:
    """As if the machine had lost its power."""
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            process.send_signal(signal.SIGSTOP)  # so that none of them can start another one
        except psutil.NoSuchProcess:
            continue
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
