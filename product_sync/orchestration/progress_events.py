"""Passes a run's progress on: all of it to the listener, a line every 20 s to the event log, some points to the UI.

A line or an observation in the event log takes 5 to 17 ms and a batch may take 2 ms, so not every batch can have one.
The lines show that a long run is alive; the observations are plotted on the asset's page. A stage that ends within 20 s
has no observation.

A run on another host that records nothing counts as dead (`dead_runs`), and a long comparison, a COPY or a MongoDB page
reports no progress. So a thread repeats the last progress after half a minute without a report.
"""

import threading
import time
from collections.abc import Callable

import dagster as dg

from product_sync.orchestration.names import PRODUCT, SyncNames
from product_sync.runtime.progress import OnProgress, Progress, waiting

#: Seconds between two lines in the event log. A run counts as dead after fifteen times as long.
LINE_EVERY_S = 20.0
#: The same while a stage waits.
NOTE_EVERY_S = 25.0
#: Seconds between two observations of one stage, and before its first.
OBSERVATION_EVERY_S = 20.0
#: Seconds without a report after which the heartbeat repeats the last one.
SILENT_FOR_S = 30.0
_CHECK_EVERY_S = 5.0


def record_progress(
    listener: OnProgress,
    log: Callable[[str], None],
    observe: Callable[[dg.AssetObservation], None],
    clock: Callable[[], float],
    names: SyncNames = PRODUCT,
) -> OnProgress:
    """``clock`` gives monotonic seconds."""
    # The asset on whose page a stage is shown.
    shown_on = {
        "read source": names.source_snapshot,
        "read target": names.target_snapshot,
        "load": names.load,
        "confirm differences": names.load,
    }
    last_line = clock()
    last_observation: dict[str, float] = {}

    def report(progress: Progress) -> None:
        nonlocal last_line
        listener(progress)
        now = clock()
        if now - last_line >= (NOTE_EVERY_S if progress.note else LINE_EVERY_S):
            last_line = now
            log(str(progress))
        if not progress.note and now - last_observation.setdefault(progress.stage, now) >= OBSERVATION_EVERY_S:
            last_observation[progress.stage] = now
            if asset := shown_on.get(progress.stage):
                observe(_observation(asset, progress))

    return report


def _observation(asset: str, progress: Progress) -> dg.AssetObservation:
    """The metadata has names of its own, so that nobody takes it for the counts at the end of the run."""
    metadata: dict[str, str | int | float] = {
        "progress": str(progress),
        "progress_rows": progress.done,
        "progress_rows_per_second": round(progress.rate, 1),
    }
    if progress.percent is not None:
        metadata["progress_percent"] = round(progress.percent, 1)
    if progress.seconds_left is not None:
        metadata["progress_seconds_left"] = round(progress.seconds_left, 1)
    return dg.AssetObservation(asset_key=asset, metadata=metadata)


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
