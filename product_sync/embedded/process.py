"""Server processes that end with this process.

A demo must not leave a MongoDB and a PostgreSQL behind. There are two safeguards:

- A *watcher*, a shell, reads from a pipe whose other end only this process holds. When the pipe closes, also after a
  SIGKILL, the watcher stops the server. (Linux's parent-death signal fires when the *thread* that started the server
  ends, and is lost when the server changes its user.)
- The next start on the same folder stops a server that is still running there. This also covers a killed watcher.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from product_sync.errors import NotAttempted

LOOPBACK = "127.0.0.1"
STOP_TIMEOUT_S = 30.0
_POLL_S = 0.01
#: The watcher. Once it is dismissed it sends no signal: the process id may belong to another process by then.
_WATCH = 'read -r server || exit; read -r dismissed || kill -s "$1" "$server"'


class EmbeddedServerError(NotAttempted):
    """An embedded server cannot be found, started or reached. Nothing was synced."""

    code = "embedded_server"


class PortInUseError(EmbeddedServerError):
    """Another process uses the port, or took it just before the server could bind it."""

    code = "port_in_use"


class FolderInUseError(EmbeddedServerError):
    """Another process runs its servers on this data folder."""

    code = "folder_in_use"


@dataclass(frozen=True, slots=True)
class Account:
    """The user that runs a server, if it is not our own."""

    name: str
    uid: int
    gid: int


def as_user(account: Account | None) -> dict[str, Any]:
    """Keyword arguments of `subprocess.Popen` that start a child as this user without our groups."""
    return {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}


def run(command: Sequence[str | Path], account: Account | None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as the server will run."""
    return subprocess.run(  # noqa: S603 - a list, no shell; the executable was looked up by us
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd="/", check=False, **as_user(account)
    )


class ServerProcess:
    """One running server. It has a session of its own, so a Ctrl-C in the terminal does not reach it. ``stop_signal``
    lets the server close its files and its clients' connections."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        stop_signal: signal.Signals,
        account: Account | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        # Started before the server, so that the server is never without it.
        self._watcher = subprocess.Popen(  # noqa: S603 - a constant script
            ["/bin/sh", "-c", _WATCH, "watcher", stop_signal.name.removeprefix("SIG")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            text=True,
        )
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(  # noqa: S603 - a list, no shell; the executable was looked up by us
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd="/",
                    start_new_session=True,
                    **as_user(account),
                )
        except OSError:
            self._watcher.communicate()
            raise
        # A watcher may be killed. The next start on the folder is the second safeguard.
        with contextlib.suppress(BrokenPipeError):
            print(self._process.pid, file=self._watcher.stdin, flush=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_status(self) -> int | None:
        """``None`` while it runs."""
        return self._process.poll()

    def waiting(self, timeout_s: float) -> Iterator[None]:
        """Yield every few milliseconds until the server ends. Raises `EmbeddedServerError` after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while self.exit_status() is None:
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"{self.name} did not become ready within {timeout_s:g} seconds.",
                    hint=f"Its log is {self.log}. The machine may be very busy, or its disk full.",
                )
            yield
            time.sleep(_POLL_S)

    def ask_to_stop(self) -> None:
        if self.exit_status() is None:
            self._process.send_signal(self._stop_signal)

    def stop(self) -> None:
        """Stop the server, and kill it if it has not ended after `STOP_TIMEOUT_S`. Safe to call twice."""
        self.ask_to_stop()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._watcher.returncode is None:
            self._watcher.communicate("dismissed\n")


def stop_server(pid: int, *, executable: str, folder: Path, stop_signal: signal.Signals) -> None:
    """Stop the server ``pid`` that a killed run left on ``folder``, if there is one. Process ids are reused, so the
    process must have that name (``mongod`` may be ``mongod-8.0``) and that data folder in its command line."""
    try:
        process = psutil.Process(pid)
        command = process.cmdline()
        if not command or executable not in Path(command[0]).name or str(folder) not in command:
            return
        process.send_signal(stop_signal)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        # It is not our child. In a container whose first process reaps no children it stays a zombie.
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(_POLL_S)
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as error:
        raise EmbeddedServerError(
            f"The process {pid}, perhaps a server left on {folder}, belongs to another user.",
            hint=f"Stop the process {pid} as that user or as root, then start again.",
        ) from error


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: a port with connections in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def port_in_use(server: str, port: int) -> PortInUseError:
    return PortInUseError(
        f"{server} cannot listen on {LOOPBACK}:{port}: the port is in use.",
        hint="Stop that process, or choose another port.",
    )
