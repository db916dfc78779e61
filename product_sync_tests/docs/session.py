"""One reader of one page: what stands behind `$ ` is typed, in order, against the servers of the tests."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from product_sync import cli
from product_sync_tests.docs.pages import Fence
from product_sync_tests.market import Market

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
#: Addresses of a page, which are nobody's, stand for those of the test.
_ADDRESSES = ("PRODUCT_SERVICE_MONGODB_URL", "CART_DB_URL", "DAGSTER_PG_URL", "DAGSTER_HOME", "PRODUCT_SYNC_STATE")


@dataclass
class Session:
    """``folder`` stands for the reader's own, and for ``/etc/product_sync``."""

    market: Market
    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def __post_init__(self) -> None:
        self.market.env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.market.env['PATH']}"
        self.market.enter(self.monkeypatch)
        self.monkeypatch.chdir(self.folder)

    def follow(self, fence: Fence) -> None:
        """Do what the block says; fails where a command fails, or prints something else than stands there."""
        if fence.language == "console":
            for line, shown in _typed(fence.text):
                printed = self.type(line.replace("/etc/product_sync", str(self.folder)))
                assert not shown or re.fullmatch(_pattern(shown), _plain(printed)), f"$ {line}\n{printed}"
        elif fence.language == "sql":
            self.market.sql(fence.text)
        elif fence.language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(fence.text, "the page", "exec"), {})  # noqa: S102 - our own page

    def type(self, line: str) -> str:
        """Type one line; returns what it prints on standard output."""
        if match := re.fullmatch(r"(\w+)=\$\((.*)\)", line):
            self.export(match[1], self._shell(match[2]).strip())
            return ""
        words = shlex.split(os.path.expandvars(line), comments=True)
        if words[0] == "export":
            for word in words[1:]:
                self._export(word)
            return ""
        with self.monkeypatch.context() as patch:
            while assigned := _ASSIGNMENT.fullmatch(words[0]):
                patch.setenv(assigned[1], assigned[2])
                words.pop(0)
            if words[0] != "product-sync":
                return self._shell(line)
            printed = _in_process([word for word in words[1:] if not word.startswith(">")])
            for into in words:
                if into.startswith(">"):
                    (self.folder / into[1:]).write_text(printed)
                    return ""
            return printed

    def _export(self, word: str) -> None:
        assigned = _ASSIGNMENT.fullmatch(word)
        assert assigned, word
        if assigned[1] in _ADDRESSES:
            assert assigned[1] in self.market.env, f"the test has nothing that stands for {word}"
        else:
            self.export(assigned[1], assigned[2])

    def export(self, name: str, value: str) -> None:
        self.market.env[name] = value
        self.monkeypatch.setenv(name, value)

    def _shell(self, line: str) -> str:
        ended = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", line],
            env=os.environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 0, f"$ {line}\n{ended.stdout}{ended.stderr}"
        return ended.stdout


def _typed(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a fence, with the output shown below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, shown = part.partition("\n")
        yield line, shown.strip()


def _pattern(shown: str) -> str:
    """``…`` stands for anything, and where it is a line of its own also for no line."""
    return re.escape(shown).replace("…", "(?s:.*)")


def _plain(printed: str) -> str:
    return "\n".join(line.rstrip() for line in printed.strip().splitlines())


def _in_process(arguments: list[str]) -> str:
    """`product-sync` without the second that a process of its own takes to start."""
    printed, logger = io.StringIO(), logging.getLogger("product_sync")
    errors, handlers = io.StringIO(), list(logger.handlers)
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(errors),
            pytest.raises(SystemExit) as ended,
        ):
            cli.main(arguments)
    finally:
        logger.handlers[:] = handlers
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert ended.value.code == 0, f"$ product-sync {' '.join(arguments)}\n{printed.getvalue()}{errors.getvalue()}"
    return printed.getvalue()
