"""Keeps a run from looking dead while a step says nothing: a long comparison, a merge, a slow server.

Silence is how a run on another host is taken for dead (`reaping`). Not every long stretch of work can report by itself:
a COPY, a page of MongoDB. So a thread looks every few seconds whether anything was reported, and repeats where
the run stands if not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from product_sync.runtime.progress import OnProgress, Progress, waiting

#: Seconds of silence after which the heartbeat speaks.
SILENT_FOR_S = 30.0
_LOOK_EVERY_S = 5.0


class Heartbeat:
    """One for each process of a run. ``clock`` gives seconds and never goes back."""

    def __init__(self, *, silent_for_s: float = SILENT_FOR_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._silent_for_s = silent_for_s
        self._clock = clock
        self._stopped = threading.Event()
        self._heard_at = self._began_at = clock()
        self._last: tuple[OnProgress, Progress] | None = None

    def start(self) -> None:
        """Look from now on, in a thread that keeps no process from ending."""
        threading.Thread(target=self._run, name="product_sync heartbeat", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def of_step(self, step: str, on_progress: OnProgress) -> OnProgress:
        """A listener that passes progress on to ``on_progress``; the heartbeat speaks for ``step`` from now on."""
        self._note(on_progress, waiting(step, ""))

        def report(progress: Progress) -> None:
            self._note(on_progress, progress)
            on_progress(progress)

        return report

    def beat(self) -> None:
        """Repeat the last progress if nothing was heard for too long."""
        now = self._clock()
        if self._last is None or now - self._heard_at < self._silent_for_s:
            return
        on_progress, last = self._last
        self._heard_at = now
        note = f"still at work, {now - self._began_at:.0f} s without progress"
        on_progress(Progress(last.stage, last.done, last.total, 0.0, None, note))

    def _note(self, on_progress: OnProgress, progress: Progress) -> None:
        self._heard_at = self._began_at = self._clock()
        self._last = on_progress, progress

    def _run(self) -> None:
        while not self._stopped.wait(min(_LOOK_EVERY_S, self._silent_for_s)):
            self.beat()
