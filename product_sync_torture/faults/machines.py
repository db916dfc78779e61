"""Both servers of one worker, which can be killed and come back at their addresses, behind gates.

PostgreSQL flushes to disk here: what it has committed must be there after SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from product_sync.embedded import mongod, postgres
from product_sync.embedded.errors import EmbeddedServerError
from product_sync.embedded.placement import server_account
from product_sync.embedded.process import free_port
from product_sync.embedded.servers import remove
from product_sync_torture.faults.gates import Gate
from product_sync_torture.faults.wire import MongoRequests, PostgresRequests

_RESTART_S: Final = 60.0
_PAUSE_S: Final = 0.1
_DISK_BYTES: Final = 8 * 1024 * 1024


class Machines:
    """``source_gate`` and ``target_gate`` stand before the servers for as long as this does, also while one is down.
    ``disk`` is a small file system that the target may fill, where one can be mounted."""

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
        """With ``gated``, as the sync is to use it: it must not learn the server's own address from the replica set."""
        port = self.source_gate.port if gated else self._mongod_port
        return f"mongodb://127.0.0.1:{port}/{database}?directConnection=true&socketTimeoutMS=3000"

    def target_url(self, database: str, *, gated: bool) -> str:
        url = self._postgres.url(database)
        return url.replace(f":{self._postgres_port}/", f":{self.target_gate.port}/") if gated else url

    def kill_mongod(self) -> None:
        os.kill(self._mongod.process.pid, signal.SIGKILL)
        self._mongod.process.stop()

    def kill_postgres(self) -> None:
        """The postmaster; its children end when they notice."""
        os.kill(self._postgres.process.pid, signal.SIGKILL)
        self._postgres.process.stop()

    def start_again(self) -> None:
        """Whichever has been killed."""
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
                # The memory of the killed server is in use until its last child is gone.
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
            self._folder, port=self._postgres_port, log=self._folder / "postgres.log", durable=True, tell=_nobody
        )
        try:
            self._postgres.wait_until_ready()
        except BaseException:
            self._postgres.process.stop()
            raise


@contextmanager
def machines() -> Iterator[Machines]:
    """Own servers in a folder that is gone afterwards."""
    base = Path(tempfile.mkdtemp(prefix="product_sync_torture_"))
    # The folder is ours, made a line above: as root, the servers' user has to get through it.
    base.chmod(0o711)
    try:
        with _small_disk(base / "disk") as disk:
            (base / "data").mkdir(mode=0o711)
            started = Machines(base / "data", disk)
            try:
                yield started
            finally:
                started.close()
    finally:
        remove(base / "data")
        shutil.rmtree(base, ignore_errors=True)


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of a few megabytes that the database server may write to; ``None`` without the right to mount."""
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


def _nobody(_sentence: str) -> None:
    """Where the data is, nobody needs to know."""
