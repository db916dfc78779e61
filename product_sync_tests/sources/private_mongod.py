"""A MongoDB of the test's own, for what cannot be done to the shared one: access control, failures, a crash.

It is a standalone server, so these tests also prove that a source without a replica set can be read; with
``--replSet`` among the options, `make_primary` makes it the only member of its set.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from product_sync.embedded.mongod import find_mongod
from product_sync.embedded.process import LOOPBACK, ServerProcess, free_port


class PrivateMongod:
    """``client`` are the options with which a client has to come for an answer at all."""

    def __init__(self, folder: Path, *options: str, client: Mapping[str, Any]) -> None:
        self.port = free_port()
        self._folder = folder
        self._options = options
        self._client = {"host": LOOPBACK, **client}
        self._process = self._start()

    def url(self, database: str = "shop", *, login: str = "", options: str = "") -> str:
        return f"mongodb://{login}{LOOPBACK}:{self.port}/{database}{options}"

    def stop(self) -> None:
        self._process.stop()

    def make_primary(self, name: str) -> None:
        member = {"_id": 0, "host": f"{LOOPBACK}:{self.port}"}
        with MongoClient[dict[str, Any]](**self._client, port=self.port) as client:
            client.admin.command("replSetInitiate", {"_id": name, "members": [member]})
            for _ in self._process.waiting(60.0):
                if client.admin.command("hello")["isWritablePrimary"]:
                    break

    def restart_with(self, change: Callable[[Path], object]) -> None:
        """Stop it in order, let ``change`` do something with its data folder, and start it again."""
        self._process.stop()
        change(self._folder)
        self._process = self._start()

    def crash_and_restart(self) -> None:
        """As after a power cut: no connection is closed in order, and the data comes from the journal."""
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.stop()
        self._process = self._start()

    def _start(self) -> ServerProcess:
        process = ServerProcess(
            "MongoDB",
            [
                str(find_mongod()),
                *("--dbpath", str(self._folder), "--bind_ip", LOOPBACK, "--port", str(self.port), "--nounixsocket"),
                *("--wiredTigerCacheSizeGB", "0.25", "--setParameter", "diagnosticDataCollectionEnabled=false"),
                *self._options,
            ],
            log=self._folder / "mongod.log",
            stop_signal=signal.SIGTERM,
        )
        for _ in process.waiting(60.0):
            if _answers(self._client, self.port):
                return process
        raise AssertionError(f"mongod ended with {process.exit_status()}: {(self._folder / 'mongod.log').read_text()}")


@contextmanager
def private_mongod(*options: str, **client: Any) -> Iterator[PrivateMongod]:
    with tempfile.TemporaryDirectory(prefix="product_sync_mongod_") as folder:
        server = PrivateMongod(Path(folder), *options, client=client)
        try:
            yield server
        finally:
            server.stop()


def _answers(options: Mapping[str, Any], port: int) -> bool:
    with MongoClient[dict[str, Any]](**options, port=port, serverSelectionTimeoutMS=200) as client:
        try:
            client.admin.command("ping")
        except PyMongoError:
            return False
        return True
