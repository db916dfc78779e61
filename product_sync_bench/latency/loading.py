"""One load in a process of its own, which tells when it began, how far it came when, and what it logged."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from product_sync.runtime.progress import Progress


@dataclass(slots=True)
class Load:
    """Times are seconds of the machine's monotonic clock. ``steps`` are times and the rows that were done by then;
    ``said`` times and what the pacing logged."""

    began: float = 0.0
    steps: list[tuple[float, int]] = field(default_factory=list)
    said: list[tuple[float, str]] = field(default_factory=list)

    @property
    def ended(self) -> float:
        return self.steps[-1][0]

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def rows(self) -> int:
        return self.steps[-1][1]

    def rows_per_second(self, begin: float, end: float) -> float:
        """Between two moments of the load."""
        done = [rows for at, rows in self.steps if begin < at <= end]
        before = max((rows for at, rows in self.steps if at <= begin), default=0)
        return (done[-1] - before) / (end - begin) if done else 0.0


def run(
    environment: Mapping[str, str], switches: Mapping[str, object], on_step: Callable[[Load], None] = lambda _: None
) -> Load:
    """Run a sync with ``switches`` (those of `product_sync.sync`); ``on_step`` hears of each batch at once."""
    command = [sys.executable, "-m", __name__, json.dumps(switches)]
    load = Load()
    with subprocess.Popen(command, env=dict(environment), stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own module
        for line in process.stdout or ():
            told = json.loads(line)
            if "said" in told:
                load.said.append((told["at"], told["said"]))
                continue
            load.began = load.began or told["began"]
            load.steps.append((told["at"], told["done"]))
            on_step(load)
    if process.returncode or not load.steps:
        raise RuntimeError(f"The load ended with status {process.returncode}.")
    return load


class _Said(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _tell(said=record.getMessage())


def _tell(**what: Any) -> None:
    sys.stdout.write(json.dumps({"at": time.monotonic(), **what}) + "\n")
    sys.stdout.flush()


def _on_progress(progress: Progress) -> None:
    if progress.stage == "load":
        now = time.monotonic()
        _tell(done=progress.done, began=now - progress.done / progress.rate)


def main() -> None:
    from product_sync import sync

    switches = json.loads(sys.argv[1])
    logger = logging.getLogger("product_sync.load.pacing")
    logger.setLevel(logging.INFO)
    logger.addHandler(_Said())
    sync(on_progress=_on_progress, settle_seconds=0.0, **switches).raise_for_error()


if __name__ == "__main__":
    main()
