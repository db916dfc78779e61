"""Passes a run's progress on: all of it to the listener, a line every 20 s to the event log, some points to the UI.

A line or an observation in the event log takes 5 to 17 ms and a batch may take 2 ms, so not every batch can have one.
The lines show that a long run is alive; the observations are plotted on the asset's page. A stage that ends within 20 s
has no observation.
"""

from collections.abc import Callable

import dagster as dg

from product_sync.orchestration.names import PRODUCT, SyncNames
from product_sync.runtime.progress import OnProgress, Progress

#: Seconds between two lines in the event log. A run counts as dead after fifteen times as long.
LINE_EVERY_S = 20.0
#: The same while a stage waits.
NOTE_EVERY_S = 25.0
#: Seconds between two observations of one stage, and before its first.
OBSERVATION_EVERY_S = 20.0


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
