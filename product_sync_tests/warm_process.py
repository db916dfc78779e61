"""`python -m` of a module, in a process of its own that has imported everything when it starts.

A server imports the package once for each process of the tests and forks the commands: importing Dagster and the
drivers takes two seconds (docs/decisions/0207, which names the tests that start commands as users do).
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["product_sync_tests.preloaded"])


class WarmProcess:
    """What the tests need of `subprocess.Popen`. ``output`` are the files or terminals that get what it prints."""

    def __init__(self, module: str, *arguments: str, env: Mapping[str, str], output: tuple[Path, Path]) -> None:
        self._command, self._output = [module, *arguments], output
        given = (self._command, dict(env), Path.cwd(), output)
        self._process = _FORKS.Process(target=_run_module, args=given)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self._command, timeout or 0.0)
        return status

    def completed(self, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """The status and the output of the process, when it has ended."""
        status = self.wait(timeout)
        stdout, stderr = (path.read_text() for path in self._output)
        return subprocess.CompletedProcess(self._command, status, stdout, stderr)

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self._process.kill()


@contextmanager
def started(module: str, *arguments: str, env: Mapping[str, str]) -> Iterator[WarmProcess]:
    """A process under way, killed at the end of the block if it still runs then."""
    with TemporaryDirectory(prefix="product_sync_command_") as folder:
        process = WarmProcess(module, *arguments, env=env, output=(Path(folder, "stdout"), Path(folder, "stderr")))
        try:
            yield process
        finally:
            process.kill()
            process.wait(60.0)


def _run_module(command: list[str], env: dict[str, str], cwd: Path, output: tuple[Path, Path]) -> None:
    for number, path in enumerate((Path(os.devnull), *output)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY), number)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    os.chdir(cwd)
    sys.argv[1:] = command[1:]
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
