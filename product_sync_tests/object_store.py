"""A real S3 server for the tests: SeaweedFS, one for all tests of a process, with a folder for each test.

`s3_server` and `store_url` are fixtures; a test module imports them by name.
"""

from __future__ import annotations

import json
import shutil
import signal
import sysconfig
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from product_sync.embedded.process import LOOPBACK, ServerProcess, free_port

_START_S, _ATTEMPTS = 30.0, 3
BUCKET = "tests"
_KEY, _SECRET = "tests", "the-secret-of-the-tests"
_READER, _READER_SECRET = "reader", "the-secret-of-the-reader"
#: The beginning of the names of the server's counters.
_TRAFFIC = "SeaweedFS_s3_bucket_traffic"
_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
    "s3.port.iceberg",
    "s3.port.lance",
    "metricsPort",
)


def _free_ports() -> dict[str, int]:
    return {name: free_port() for name in _PORTS}


@dataclass
class S3Server:
    """A server that can be stopped and started again with its data. ``env`` is what a client's process needs."""

    folder: Path
    ports: dict[str, int] = field(default_factory=_free_ports)
    process: ServerProcess | None = None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports['s3.port']}"

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def reader_env(self) -> dict[str, str]:
        """As `env`, for a user who may only read."""
        return {**self.env, "AWS_ACCESS_KEY_ID": _READER, "AWS_SECRET_ACCESS_KEY": _READER_SECRET}

    def start(self) -> None:
        """Start it, with other ports if another process has taken one of them meanwhile."""
        for _ in range(_ATTEMPTS):
            self._launch()
            if self._becomes_ready():
                return
            self.stop()
            self.ports = _free_ports()
        raise AssertionError((self.folder / "weed.log").read_text()[-2_000:])

    def _becomes_ready(self) -> bool:
        assert self.process is not None
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self.process.exit_status() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def _launch(self) -> None:
        config = self.folder / "s3.json"
        config.write_text(
            json.dumps(
                {
                    "identities": [
                        _identity(_KEY, _SECRET, ["Admin", "Read", "Write", "List"]),
                        _identity(_READER, _READER_SECRET, ["Read", "List"]),
                    ]
                }
            )
        )
        ports = [f"-{name}={port}" for name, port in self.ports.items()]
        self.process = ServerProcess(
            "weed",
            [
                str(Path(sysconfig.get_path("scripts")) / "weed"),
                "server",
                f"-dir={self.folder}",
                f"-ip={LOOPBACK}",
                f"-ip.bind={LOOPBACK}",
                "-s3",
                f"-s3.config={config}",
                "-s3.autoCreateBucket=false",
                f"-s3.localSocket={self.folder / 's3.sock'}",
                f"-filer.localSocket={self.folder / 'filer.sock'}",
                "-master.telemetry=false",
                "-master.volumeSizeLimitMB=1024",
                "-volume.max=100",
                "-volume.preStopSeconds=0",
                *ports,
            ],
            log=self.folder / "weed.log",
            stop_signal=signal.SIGKILL,
        )

    def _answers(self) -> bool:
        """Whether an object can be written: the volume server is ready a little later than the others."""
        try:
            files = self.files()
            if not files.exists(BUCKET):
                files.mkdir(BUCKET)
            files.pipe_file(f"{BUCKET}/ready", b"1")
        except Exception:  # noqa: BLE001 - it is not ready yet
            return False
        return True

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def traffic(self) -> tuple[int, int]:
        """The bytes that clients have sent to the bucket, and that they have got from it."""
        url, received, sent = f"http://{LOOPBACK}:{self.ports['metricsPort']}/metrics", 0.0, 0.0
        with urllib.request.urlopen(url) as answer:
            for line in answer.read().decode().splitlines():
                received += float(line.split()[-1]) if line.startswith(f"{_TRAFFIC}_received_bytes_total{{") else 0.0
                sent += float(line.split()[-1]) if line.startswith(f"{_TRAFFIC}_sent_bytes_total{{") else 0.0
        return int(received), int(sent)

    def stop(self) -> None:
        assert self.process is not None
        self.process.stop()

    def files(self) -> Any:
        """The server as a file system of fsspec, for the eyes of a test."""
        import s3fs

        return s3fs.S3FileSystem(
            key=_KEY,
            secret=_SECRET,
            endpoint_url=self.url,
            client_kwargs={"region_name": "us-east-1"},
            config_kwargs={"retries": {"total_max_attempts": 1}, "connect_timeout": 2},
            use_listings_cache=False,
            skip_instance_cache=True,
        )


def _identity(key: str, secret: str, actions: list[str]) -> dict[str, Any]:
    return {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The server, for all tests of this process."""
    server = S3Server(Path(tempfile.mkdtemp(prefix="product_sync_s3_")))
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def store_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a folder of this test alone. This process has the variables of its client."""
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"
