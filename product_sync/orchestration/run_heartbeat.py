"""Reports progress for a step that reports none for a while: during a long comparison, or with a slow server.

A run on another host that records nothing counts as dead (`dead_runs`), and a COPY or a MongoDB page cannot report
progress. So a thread repeats the last progress after half a minute without a report.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from product_sync.runtime.progress import OnProgress, Progress, waiting

#: Seconds without a report after which the heartbeat repeats the last one.
SILENT_FOR_S = 30.0
_CHECK_EVERY_S = 5.0


class Heartbeat:
    """One for each process of a run. ``clock`` gives monotonic seconds."""

    def __init__(self, *, silent_for_s: float = SILENT_FOR_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._silent_for_s = silent_for_s
        self._clock = clock
        self._stopped = threading.Event()
        self._reported_at = self._progress_at = clock()
        self._last: tuple[OnProgress, Progress] | None = None

    def start(self) -> None:
        """Start the thread. It does not keep the process alive."""
        threading.Thread(target=self._run, name="product_sync heartbeat", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def of_step(self, step: str, on_progress: OnProgress) -> OnProgress:
        """A listener that passes progress on to ``on_progress``. From now on the heartbeat reports for ``step``."""
        self._note(on_progress, waiting(step, ""))

        def report(progress: Progress) -> None:
            self._note(on_progress, progress)
            on_progress(progress)

        return report

    def beat(self) -> None:
        """Repeat the last progress if there was no report for too long."""
        now = self._clock()
        if self._last is None or now - self._reported_at < self._silent_for_s:
            return
        on_progress, last = self._last
        self._reported_at = now
        note = f"still running, {now - self._progress_at:.0f} s without progress"
        on_progress(Progress(last.stage, last.done, last.total, 0.0, None, note))

    def _note(self, on_progress: OnProgress, progress: Progress) -> None:
        self._reported_at = self._progress_at = self._clock()
        self._last = on_progress, progress

    def _run(self) -> None:
        while not self._stopped.wait(min(_CHECK_EVERY_S, self._silent_for_s)):
            self.beat()
