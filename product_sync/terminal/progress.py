"""The progress bar on standard error; lines every few seconds if standard error is not a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from product_sync.runtime.progress import OnProgress, Progress

#: Seconds between two lines of a stage.
_LINE_EVERY_S = 2.0
#: A narrower terminal shows no rate.
_WIDE_ENOUGH_FOR_RATE = 78


@contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """A listener that draws one bar a stage while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    bar = Bar(*columns, console=console, expand=True)
    tasks: dict[str, TaskID] = {}

    def draw(progress: Progress) -> None:
        bar.start()
        if progress.stage not in tasks:
            tasks[progress.stage] = bar.add_task(progress.stage, rate="")
        task = tasks[progress.stage]
        rate = f"{progress.rate:,.0f} rows/s" if console.width >= _WIDE_ENOUGH_FOR_RATE else ""
        bar.update(task, completed=progress.done, rate=progress.note or rate)
        # An `update` of Rich's keeps the old total where the new one is None.
        bar.tasks[bar.task_ids.index(task)].total = progress.total

    try:
        yield draw
    finally:
        bar.stop()


def _lines(console: Console) -> OnProgress:
    last: dict[str, float] = {}
    ended: set[str] = set()

    def report(progress: Progress) -> None:
        if progress.ended and progress.stage in ended and not progress.note:
            return
        if progress.ended or time.monotonic() - last.get(progress.stage, -_LINE_EVERY_S) >= _LINE_EVERY_S:
            last[progress.stage] = time.monotonic()
            ended.update({progress.stage} if progress.ended else ())
            console.print(str(progress), highlight=False, markup=False, soft_wrap=True)

    return report
