"""What a run tells while it is at work: its listener everything, the event log a line every 20 s, the UI a few points.

A line or an observation in the event log costs five to seventeen milliseconds, a batch may take two, so neither can
keep up with the batches. The line is what keeps a long run from being reaped; the observations are what a person looks
at, on the page of the asset that is being made. A stage that is over before the first of them is due makes none.
"""

from collections.abc import Callable

import dagster as dg

from product_sync.orchestration import names
from product_sync.runtime.progress import OnProgress, Progress

#: Seconds between two lines in the event log; reaping waits for fifteen times as long.
LINE_EVERY_S = 20.0
#: The same while something is waited for.
NOTE_EVERY_S = 25.0
#: Seconds between two observations of one stage, and before its first.
OBSERVATION_EVERY_S = 20.0

#: Which asset's page a stage is shown on.
_SHOWN_ON = {
    "read source": names.SOURCE_SNAPSHOT,
    "read target": names.TARGET_SNAPSHOT,
    "load": names.LOAD,
    "confirm differences": names.LOAD,
}


def signs_of_life(
    listener: OnProgress,
    log: Callable[[str], None],
    observe: Callable[[dg.AssetObservation], None],
    clock: Callable[[], float],
) -> OnProgress:
    """``clock`` gives seconds and never goes back."""
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
            if asset := _SHOWN_ON.get(progress.stage):
                observe(_observation(asset, progress))

    return report


def _observation(asset: str, progress: Progress) -> dg.AssetObservation:
    """Names of its own: the counts that a run ends with must not be taken from its middle."""
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
