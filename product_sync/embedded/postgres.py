"""A real PostgreSQL from a wheel, for the demo and the tests.

This module runs ``initdb`` and ``postgres`` of the wheel itself. The wheel's own ``get_server`` opens the permissions
of every folder above its data, listens on no TCP port, and leaves servers behind. `placement` chooses the user and the
folders.

Access is by password (SCRAM) on the loopback address. There is no Unix socket, because its path is limited to 107
bytes.
"""

import os
import secrets
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from product_sync.embedded.placement import DISTRIBUTION, places, server_account
from product_sync.embedded.process import (
    LOOPBACK,
    Account,
    EmbeddedServerError,
    ServerProcess,
    port_in_use,
    run,
    stop_server,
)

SUPERUSER = "postgres"
_NAME = "PostgreSQL"
_READY_TIMEOUT_S = 60.0


@dataclass
class Postgres:
    """One server on one data folder. `launch` starts it; `wait_until_ready` waits for it."""

    process: ServerProcess
    port: int
    home: Path
    password: str = field(repr=False)

    def url(self, database: str, *, driver: str = "postgresql") -> str:
        return f"{driver}://{SUPERUSER}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def wait_until_ready(self) -> None:
        """Wait until the last line of the server's pid file says that it is ready (`src/include/utils/pidfile.h`)."""
        for _ in self.process.waiting(_READY_TIMEOUT_S):
            lines = _pid_file(self.home / "data")
            if len(lines) >= 8 and lines[0] == str(self.process.pid) and lines[7].strip() == "ready":
                return
        raise self._died()

    def _died(self) -> EmbeddedServerError:
        log = self.process.log.read_text(errors="replace")
        if "could not bind" in log:
            return port_in_use(_NAME, self.port)
        return EmbeddedServerError(
            f"PostgreSQL ended with status {self.process.exit_status()} while it started: {_last_error(log)}",
            hint=f"Its log is {self.process.log}. If the data is damaged or of another version, delete {self.home}.",
        )


def launch(folder: Path, *, port: int, log: Path, durable: bool, say: Callable[[str], None]) -> Postgres:
    """Start a server with its data in ``folder``, or outside it if the server's user cannot enter ``folder``. The data
    is created if needed (0.5 s). A server that a killed run left on it is stopped first. ``say`` gets a sentence if a
    folder outside is used. With ``durable=False`` (tests) nothing is flushed to disk."""
    account = server_account()
    binaries, home = places(folder, account, say)
    data = home / "data"
    _check_owner(data, account)
    stop_leftover(home)
    if not data.exists():
        _initialise(binaries, home, account)
    executable = binaries / "bin" / "postgres"
    settings = {"listen_addresses": LOOPBACK, "port": str(port), "unix_socket_directories": ""}
    if not durable:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    command = [str(executable), "-D", str(data)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    try:
        # SIGINT is a fast shutdown; SIGTERM waits for the clients.
        process = ServerProcess(_NAME, command, log=log, stop_signal=signal.SIGINT, account=account)
    except OSError as error:
        raise _cannot_start(executable, error) from error
    return Postgres(process, port, home, (home / "password").read_text().strip())


def _initialise(binaries: Path, home: Path, account: Account | None) -> None:
    """Create the data folder, and beside it the file ``password`` with a random password of the superuser. The folder
    gets its name only when it is complete, so a kill leaves no broken data."""
    unfinished = home / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    password = home / "password"
    password.unlink(missing_ok=True)
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(18) + "\n")
    if account:
        os.chown(unfinished, account.uid, account.gid)
        os.chown(password, -1, account.gid)
        password.chmod(0o640)
    command = [
        str(binaries / "bin" / "initdb"),
        *("--pgdata", str(unfinished), "--username", SUPERUSER, "--pwfile", str(password)),
        *("--auth", "scram-sha-256", "--encoding", "UTF8", "--no-sync", "--no-instructions"),
        # This needs no locale of the system and keeps the server's messages in English.
        *("--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
    ]
    try:
        done = run(command, account)
    except OSError as error:
        raise _cannot_start(binaries, error) from error
    if done.returncode != 0:
        raise EmbeddedServerError(
            f"PostgreSQL cannot make its data folder in {home}: {_last_error(done.stderr)}",
            hint="Check that the disk is not full and that the folder belongs to this user. If libraries are missing,"
            f" `ldd {binaries}/bin/postgres` names them.",
        )
    unfinished.rename(home / "data")


def _cannot_start(executable: Path, error: OSError) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"{executable} cannot be started: {error.strerror}.",
        hint=f"The wheel {DISTRIBUTION} may be built for another system. Use your own servers (CART_DB_URL).",
    )


def _check_owner(data: Path, account: Account | None) -> None:
    """PostgreSQL refuses the data of another user. Its own message does not say what to do."""
    try:
        owner = data.stat().st_uid
    except FileNotFoundError:
        return
    except PermissionError:
        owner = None
    if owner != (account.uid if account else os.geteuid()):
        raise EmbeddedServerError(
            f"The data folder {data} was created by another user (as root, or not as root).",
            hint="Start again as that user, or delete the folder, which holds sample data, as that user.",
        )


def stop_leftover(home: Path) -> None:
    """Stop the server that a killed run left on ``home`` (`Postgres.home`), if there is one."""
    data = home / "data"
    lines = _pid_file(data)
    if not lines or not lines[0].strip().isdigit():
        return
    stop_server(int(lines[0]), executable="postgres", folder=data, stop_signal=signal.SIGINT)
    # PostgreSQL refuses to start if *any* process has that id, which is common in a container.
    (data / "postmaster.pid").unlink(missing_ok=True)


def _pid_file(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _last_error(text: str) -> str:
    """The last error of a log, or its last line."""
    lines = [line for line in text.splitlines() if line.strip()] or ["no reason given."]
    return next(
        (line for line in reversed(lines) if "error:" in line or "FATAL:" in line or "PANIC:" in line), lines[-1]
    )
