"""What people see on a terminal: the progress bar on standard error, the summaries on standard output.

Standard output stays free for the answer, so that it can be piped; where standard error is no terminal, the bar
becomes a line every few seconds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from product_sync.core.progress import OnProgress, Progress
from product_sync.reports import (
    DefectReport,
    DoctorReport,
    ErrorInfo,
    ProductReport,
    StatsReport,
    SyncReport,
    ValidationReport,
)

#: Seconds between two progress lines where there is no terminal to draw a bar on.
_LINE_EVERY_S = 2.0
_WIDTH_WITHOUT_TERMINAL = 120
_SHORT_CELL, _CELL_WIDTH = 16, 40
_SHOWN_PER_KIND = 3


@contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """A listener that draws one bar a stage while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        TextColumn("{task.description:>28}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    bar = Bar(*columns, console=console)
    tasks: dict[str, TaskID] = {}

    def draw(progress: Progress) -> None:
        # Not before there is something to draw: it draws in a thread, and `head_start` forks before there are any.
        bar.start()
        if progress.stage not in tasks:
            tasks[progress.stage] = bar.add_task(progress.stage, rate="")
        bar.update(
            tasks[progress.stage],
            completed=progress.done,
            total=progress.total,
            rate=progress.note or f"{progress.rate:,.0f} rows/s",
        )

    try:
        yield draw
    finally:
        bar.stop()


def _lines(console: Console) -> OnProgress:
    last: dict[str, float] = {}

    def report(progress: Progress) -> None:
        ended = progress.total is not None and progress.done >= progress.total
        if ended or time.monotonic() - last.get(progress.stage, -_LINE_EVERY_S) >= _LINE_EVERY_S:
            last[progress.stage] = time.monotonic()
            console.print(str(progress), highlight=False, markup=False, soft_wrap=True)

    return report


def show_sync(report: SyncReport) -> None:
    """The counts of a run, and what they say."""
    if report.source_count is None and report.target_count is None:
        return
    table = _table("Dry run: nothing was written" if report.dry_run else "Sync", report.run_id or "")
    _row(table, "products in MongoDB", report.source_count)
    _row(table, "products in PostgreSQL before", report.target_count)
    _row(table, "missing", report.missing, "inserted", report.inserted)
    _row(table, "changed", report.changed, "updated", report.updated)
    _row(table, "only in PostgreSQL", report.extra, "deleted", report.deleted)
    _row(table, "quarantined", report.quarantined)
    if not report.dry_run:
        _row(table, "changed by others meanwhile", report.conflicts, "still on their way", report.in_flight)
        if report.plan_id:
            _row(table, "changed since the plan", report.skipped_since_plan)
        _row(table, "taken back", report.taken_back, "kept for a cart", report.kept_referenced)
        if report.excluded:
            _row(table, "kept out by other rows", report.excluded)
        _row(table, "batches", report.batches, "failed", report.failed_batches)
        _row(table, "", None, "not attempted", report.not_attempted_batches)
    _row(table, "seconds", report.duration_s, *(("estimated", report.estimated_s) if report.dry_run else ()))
    _output().print(table)
    if report.dry_run:
        _rows("First differences", report.first_differences, "op")
        _rows("First documents that cannot be copied", report.first_quarantined, "reasons")
        if report.plan_id:
            _output().print(f"To do exactly this: product-sync sync --plan {report.plan_id}")
    _verdict(report.valid)


def show_validation(report: ValidationReport) -> None:
    """What differs, with the first ids of each kind."""
    if report.source_count is None:
        return
    table = _table("Validation", "")
    _row(table, "products in MongoDB", report.source_count)
    _row(table, "products in PostgreSQL", report.target_count)
    _row(table, "missing", report.missing_in_target, ", ".join(report.missing_ids or ()))
    _row(table, "changed", report.changed, ", ".join(report.changed_ids or ()))
    _row(table, "only in PostgreSQL", report.extra_in_target, ", ".join(report.extra_ids or ()))
    _row(table, "quarantined", report.quarantined)
    _output().print(table)
    _verdict(report.valid)


def show_stats(report: StatsReport) -> None:
    """The counts of both sides and the last sync."""
    if report.source_count is None:
        return
    table = _table("Statistics", "")
    _row(table, "products in MongoDB", report.source_count)
    _row(table, "products in PostgreSQL", report.target_count)
    _row(table, "last sync that succeeded", None, report.last_sync_at or "none yet")
    _row(table, "its run", None, report.last_sync_run_id or "none yet")
    _output().print(table)


def show_doctor(report: DoctorReport) -> None:
    """What each server says of itself, and who gets the alerts; what is not known is left out."""
    for name, connection in (("MongoDB", report.mongodb), ("PostgreSQL", report.postgres)):
        table = Table(title=name, title_justify="left", show_header=False)
        for item in fields(connection):
            if (value := getattr(connection, item.name)) is not None:
                table.add_row(item.name.replace("_", " "), escape(_words(value)))
        _output().print(table)
    table = Table(title="Alerts", title_justify="left", show_header=False)
    table.add_row("go to", escape(_words(report.alerts)))
    for problem in report.alert_problems:
        table.add_row("problem", escape(problem))
    _output().print(table)


_STATES = {
    "equal": "[green]Both sides have it and agree.[/]",
    "missing": "[red]The target does not have it; the next sync inserts it.[/]",
    "changed": "[red]The target has other values; the next sync updates it.[/]",
    "extra": "[red]Only the target has it.[/]",
    "quarantined": "[red]It cannot be copied as it is; see why above.[/]",
    "nowhere": "[red]Neither side has it.[/]",
}


def show_product(report: ProductReport) -> None:
    """A product from its documents to its row, and what is remembered of it."""
    if report.state is None:
        return
    for document in report.documents or ():
        kind = f" ({document.id_type})" if document.id_type else ""
        _pairs(f"Document {document.source_key}{kind}", document.fields, absent="absent")
        if document.row:
            _pairs("Converted", document.row)
        _defects("Cannot be copied", document.defects)
    if report.target_row:
        _pairs("Row of the target", report.target_row)
    for line in report.differences or ():
        said = f"{line.column}: {_value(line.target)} in the target, {_value(line.source)} in the source"
        _output().print(escape(said), highlight=False)
    for entry in report.quarantine or ():
        seen = f"since {entry.first_seen}, last {entry.last_seen}, {entry.attempts} runs, the last {entry.run_id}"
        _defects(f"In quarantine {seen}: {entry.source_key}", entry.defects)
    _earlier(report)
    _output().print(_STATES[report.state])


def _earlier(report: ProductReport) -> None:
    if not report.earlier:
        return
    table = Table(title="Earlier snapshots", title_justify="left", show_header=False)
    for look in report.earlier:
        values = ", ".join(f"{name}: {_value(value)}" for name, value in (look.row or {}).items())
        found = f"in quarantine: {', '.join(look.reasons)}" if look.reasons else values or "not there"
        table.add_row(look.at[:19], look.side, escape(_printable(found)))
    _output().print(table)


def _pairs(title: str, values: dict[str, str | None], absent: str = "NULL") -> None:
    table = Table(title=escape(_printable(title)), title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(escape(_printable(name)), escape(_value(value, absent)))
    _output().print(table)


def _defects(title: str, defects: list[DefectReport]) -> None:
    if not defects:
        return
    table = Table(title=escape(_printable(title)), title_justify="left", show_header=False)
    for defect in defects:
        table.add_row(escape(_printable(defect.column)), defect.reason, escape(_value(defect.value)))
    _output().print(table)


def _value(value: str | None, absent: str = "NULL") -> str:
    return absent if value is None else _printable(value)


def _printable(text: str) -> str:
    """Products may hold what moves a terminal's cursor, or worse: that is shown, not sent to it."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _rows(title: str, rows: list[dict[str, str]], kind: str) -> None:
    """The first few rows of each ``kind``, one line each; the UI has more of them, and whole."""
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        needed = max(len(row[name]) for row in rows)
        fixed = needed if needed <= _SHORT_CELL else None
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=_CELL_WIDTH, min_width=fixed)
    shown: Counter[str] = Counter()
    for row in rows:
        shown[row[kind]] += 1
        if shown[row[kind]] <= _SHOWN_PER_KIND:
            table.add_row(*map(escape, row.values()))
    _output().print(table)


def _output() -> Console:
    """Standard output; wide enough to be read where nobody says how wide it is, as in a log."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_WITHOUT_TERMINAL)


def _table(title: str, caption: str) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_column(justify="left")
    table.add_column(justify="right")
    return table


def _row(table: Table, name: str, value: float | None, follow: str = "", then: float | None = None) -> None:
    table.add_row(name, _number(value), escape(follow), _number(then))


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def _words(value: object) -> str:
    if isinstance(value, ErrorInfo):
        return f"{value.message}\n{value.hint}".rstrip()
    if isinstance(value, dict):
        return "\n".join(f"{name}: {text}" for name, text in value.items())
    if isinstance(value, list):
        return "\n".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _verdict(valid: bool | None) -> None:
    if valid is not None:
        _output().print(
            "[green]The copy agrees with the source, apart from the quarantined products.[/]"
            if valid
            else "[red]The copy does not agree with the source.[/]"
        )
