"""A command on a terminal: a pseudo-terminal of so many columns for standard output, and another one for the bars."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from product_sync_tests.warm_process import WarmProcess

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Shown:
    """What a person sees in the end: lines without colours, as the terminal was sent them."""

    status: int
    output: str
    bars: str

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()


@dataclass
class _Screen:
    columns: int
    ours: int = field(init=False)
    theirs: int = field(init=False)
    _parts: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, self.columns, 0, 0))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self.ours, 65_536)
            except OSError:  # the end of a pseudo-terminal
                return
            if not part:
                return
            self._parts.append(part)

    def text(self) -> str:
        """All that was written, once the process has ended."""
        os.close(self.theirs)
        self._reader.join(_TIMEOUT_S)
        os.close(self.ours)
        return _CONTROL.sub("", b"".join(self._parts).decode()).replace("\r\n", "\n")


def on_terminal(module: str, *arguments: str, env: Mapping[str, str], columns: int = 80) -> Shown:
    """Run a module to its end on a terminal of so many columns."""
    output, bars = _Screen(columns), _Screen(columns)
    variables = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    screens = Path(os.ttyname(output.theirs)), Path(os.ttyname(bars.theirs))
    process = WarmProcess(module, *arguments, env=variables | {"TERM": "xterm-256color"}, output=screens)
    return Shown(process.wait(_TIMEOUT_S), output.text(), bars.text())
