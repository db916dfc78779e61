"""Both servers of one worker, behind gates. They can be killed and started again on the same ports.

PostgreSQL flushes to disk here, because commits must survive a SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from product_sync.embedded import mongod, postgres
from product_sync.embedded.placement import server_account
from product_sync.embedded.process import EmbeddedServerError, free_port
from product_sync_torture.faults.gates import Gate
from product_sync_torture.faults.wire import MongoRequests, PostgresRequests
from product_sync_torture.surroundings import temporary_folder

_RESTART_S: Final = 60.0
_PAUSE_S: Final = 0.1
_DISK_BYTES: Final = 8 * 1024 * 1024


class Machines:
    """``source_gate`` and ``target_gate`` forward to the servers and stay open while a server is down. ``disk`` is a
    small file system for the target, if one can be mounted."""

    def __init__(self, folder: Path, disk: Path | None) -> None:
        self._folder = folder
        self.disk = disk
        self._mongod_port, self._postgres_port = free_port(), free_port()
        self._start_mongod()
        try:
            self._start_postgres()
            self.source_gate = Gate(self._mongod_port, MongoRequests)
            self.target_gate = Gate(self._postgres_port, PostgresRequests)
        except BaseException:
            self._mongod.process.stop()
            raise

    def source_url(self, database: str, *, gated: bool) -> str:
        """With ``gated`` the URL for the sync, which must not learn the server's own address from the replica set."""
        port = self.source_gate.port if gated else self._mongod_port
        return f"mongodb://127.0.0.1:{port}/{database}?directConnection=true&socketTimeoutMS=3000"

    def target_url(self, database: str, *, gated: bool) -> str:
        url = self._postgres.url(database)
        return url.replace(f":{self._postgres_port}/", f":{self.target_gate.port}/") if gated else url

    def kill_mongod(self) -> None:
        os.kill(self._mongod.process.pid, signal.SIGKILL)
        self._mongod.process.stop()

    def kill_postgres(self) -> None:
        """Kill the postmaster. Its children end when they notice."""
        os.kill(self._postgres.process.pid, signal.SIGKILL)
        self._postgres.process.stop()

    def start_again(self) -> None:
        """Start the servers that were killed."""
        if self._mongod.process.exit_status() is not None:
            self._start_mongod()
        if self._postgres.process.exit_status() is not None:
            self._start_postgres_again()

    def _start_postgres_again(self) -> None:
        deadline = time.monotonic() + _RESTART_S
        while True:
            try:
                self._start_postgres()
            except EmbeddedServerError:
                # The shared memory of the killed server is in use until its last child has ended.
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return

    def close(self) -> None:
        self.source_gate.close()
        self.target_gate.close()
        self._mongod.process.ask_to_stop()
        self._postgres.process.stop()
        self._mongod.process.stop()

    def _start_mongod(self) -> None:
        self._mongod = mongod.launch(self._folder / "mongodb", port=self._mongod_port, executable=mongod.find_mongod())
        try:
            self._mongod.wait_until_writable()
        except BaseException:
            self._mongod.process.stop()
            raise

    def _start_postgres(self) -> None:
        self._postgres = postgres.launch(
            self._folder, port=self._postgres_port, log=self._folder / "postgres.log", durable=True, say=_ignore
        )
        try:
            self._postgres.wait_until_ready()
        except BaseException:
            self._postgres.process.stop()
            raise


@contextmanager
def machines() -> Iterator[Machines]:
    """Servers in a temporary folder."""
    with temporary_folder() as base, _small_disk(base / "disk") as disk:
        (base / "data").mkdir(mode=0o711)
        started = Machines(base / "data", disk)
        try:
            yield started
        finally:
            started.close()


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """A small file system that the database server can write to; ``None`` without the right to mount."""
    folder.mkdir()
    account = server_account()
    owner = f",uid={account.uid},gid={account.gid},mode=0700" if account else ""
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}{owner}", "tmpfs", str(folder)]
    mounted = False
    with contextlib.suppress(OSError):  # no such command
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0  # noqa: S603 - ours
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=False, capture_output=True)  # noqa: S603, S607 - ours


def _ignore(_sentence: str) -> None:
    """The place of the data does not matter."""
