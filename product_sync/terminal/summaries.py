"""What people see on a terminal: the progress bar on standard error, the summaries on standard output.

Standard output stays free for the answer, so that it can be piped; where standard error is no terminal, the bar
becomes a line every few seconds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from product_sync.results import (
    DefectReport,
    DoctorReport,
    ErrorInfo,
    PredictedCheck,
    ProductReport,
    StatsReport,
    SyncReport,
    ValidationReport,
)
from product_sync.runtime import hints
from product_sync.runtime.progress import OnProgress, Progress
from product_sync.terminal.text import (
    command,
    counts,
    heading,
    line,
    moment,
    number,
    pasted,
    show_command,
    table,
)

#: Seconds between two progress lines where there is no terminal to draw a bar on.
_LINE_EVERY_S = 2.0
#: On a narrower terminal the rate is left out of the bar.
_WIDE_ENOUGH_FOR_RATE = 78
_SHOWN_PER_KIND = 3
_NUMBERS = (1, 3)


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


def show_sync(report: SyncReport, again: Sequence[str] = (), mapping: Sequence[str] = ()) -> None:
    """The counts of a run, and what they say. ``again`` are the options that the run of its plan has to repeat,
    ``mapping`` those that every further command has to."""
    if report.source_count is None and report.target_count is None:
        return
    heading("Dry run: nothing was written" if report.dry_run else "Sync")
    if report.run_id:
        line(f"Run: {report.run_id}")
    table(_rows_of(report), _NUMBERS)
    _quarantined(report.quarantined, report.quarantined_by_reason)
    if report.exclusions:
        heading("First rows that other rows keep out")
        for exclusion in report.exclusions[:_SHOWN_PER_KIND]:
            line(f"  {exclusion.message}")
    if report.dry_run:
        _first_differences(report.first_differences)
        _first_quarantined(report.first_quarantined)
    if report.drift_report:
        line("Drift report:")
        command(report.drift_report)
    if report.dry_run:
        _prediction(report, again)
    _verdict(report.valid, report.quarantined, mapping)


def _rows_of(report: SyncReport) -> Iterator[tuple[str, str, str, str]]:
    yield _row("products in MongoDB", report.source_count)
    yield _row("products in PostgreSQL before", report.target_count)
    yield _row("missing", report.missing, "inserted", report.inserted)
    yield _row("changed", report.changed, "updated", report.updated)
    yield _row("only in PostgreSQL", report.extra, "deleted", report.deleted)
    yield _row("quarantined", report.quarantined)
    if not report.dry_run:
        yield _row("changed by others meanwhile", report.conflicts, "still on their way", report.in_flight)
        if report.plan_id:
            yield _row("changed since the plan", report.skipped_since_plan)
        yield _row("taken back", report.taken_back, "kept for a cart", report.kept_referenced)
        if report.excluded:
            yield _row("kept out by other rows", report.excluded)
        yield _row("batches", report.batches, "failed", report.failed_batches)
        yield _row("", None, "not attempted", report.not_attempted_batches)
    yield _row("seconds", report.duration_s, *(("estimated", report.estimated_s) if report.dry_run else ()))


def _quarantined(quarantined: int | None, by_reason: Mapping[str, int] | None) -> None:
    if quarantined and by_reason:
        line(f"Quarantined by reason: {counts(by_reason)}")


def _first_differences(lines: list[dict[str, str]]) -> None:
    """The first products of each kind; the UI has more of them."""
    if not lines:
        return
    heading("First differences")
    shown: dict[str, list[str]] = {}
    for each in lines:
        ids = shown.setdefault(each["op"], [])
        if each["id"] not in ids and len(ids) == _SHOWN_PER_KIND:
            continue
        if each["id"] not in ids:
            ids.append(each["id"])
            line(f"  {each['op']}  {pasted(each['id'])}")
        line(f"      {_difference(each)}")


def _difference(each: Mapping[str, str]) -> str:
    if each["column"]:
        return f"{each['column']}: {each['old'] or 'NULL'} → {each['new'] or 'NULL'}"
    return each["new"] or each["old"]


def _first_quarantined(entries: list[dict[str, str]]) -> None:
    if not entries:
        return
    heading("First documents that cannot be copied")
    shown: Counter[str] = Counter()
    for entry in entries:
        shown[entry["reasons"]] += 1
        if shown[entry["reasons"]] <= _SHOWN_PER_KIND:
            line(f"  {pasted(entry['source_key'])}")
            line(f"      {entry['columns']}: {entry['reasons']} ({entry['values']})")


def _prediction(report: SyncReport, again: Sequence[str]) -> None:
    """What a sync would come to, and how to have it."""
    if report.no_estimate_because:
        line(f"There is no estimate: {report.no_estimate_because}", "yellow")
    if report.lacking:
        line(f"Privileges that this load needs and the role lacks: {', '.join(report.lacking)}", "red")
    if report.prediction:
        failed = [check for check in report.predicted_checks or () if check.would_fail]
        warned = [check for check in report.predicted_checks or () if not check.passed and not check.would_fail]
        _predicted("A sync would fail:", failed, "red")
        _predicted("A sync would warn:" if failed else "A sync would pass, with a warning:", warned, "yellow")
        if not failed and not warned:
            line(report.prediction, "green")
    if report.plan_id:
        line("To do exactly this:")
        command(hints.shell("product-sync", "sync", *again, "--plan", report.plan_id))


def _predicted(title: str, checks: Sequence[PredictedCheck], style: str) -> None:
    """What each of these checks would say; a command in it keeps its own line."""
    if checks:
        line(title, style)
    for check in checks:
        for part in f"{check.check}: {check.description}".split("\n"):
            line(f"  {part}")


def show_validation(report: ValidationReport, mapping: Sequence[str] = ()) -> None:
    """What differs, with the first ids of each kind. ``mapping`` are the options that further commands repeat."""
    if report.source_count is None:
        return
    heading("Validation")
    table(
        [
            ("products in MongoDB", number(report.source_count)),
            ("products in PostgreSQL", number(report.target_count)),
            ("missing", number(report.missing_in_target)),
            ("changed", number(report.changed)),
            ("only in PostgreSQL", number(report.extra_in_target)),
            ("quarantined", number(report.quarantined)),
        ],
        _NUMBERS,
    )
    for kind, ids in (
        ("missing", report.missing_ids),
        ("changed", report.changed_ids),
        ("that only PostgreSQL has", report.extra_ids),
    ):
        if ids:
            line(f"First products {kind}:")
            for each in ids:
                command(show_command(each, mapping))
    _quarantined(report.quarantined, report.quarantined_by_reason)
    _verdict(report.valid, report.quarantined, mapping)


def show_stats(report: StatsReport) -> None:
    """The counts of both sides and the last sync."""
    if report.source_count is None:
        return
    heading("Statistics")
    table(
        [
            ("products in MongoDB", number(report.source_count)),
            ("products in PostgreSQL", number(report.target_count)),
        ],
        _NUMBERS,
    )
    last = report.last_sync_at
    line(f"Last sync that succeeded: {moment(last) if last else 'none yet'}")
    if report.last_sync_run_id:
        line(f"Its run: {report.last_sync_run_id}")


def show_doctor(report: DoctorReport) -> None:
    """What each server says of itself, what is wrong with the settings, and who gets the alerts; what is not known is
    left out."""
    for name, connection in (("MongoDB", report.mongodb), ("PostgreSQL", report.postgres)):
        heading(name)
        found = {item.name: getattr(connection, item.name) for item in fields(connection)}
        error: ErrorInfo | None = found.pop("error")
        known = [(key.replace("_", " "), _words(value)) for key, value in found.items() if value is not None]
        if known:
            table(known)
        if error:
            line(f"Problem: {error.message}", "red")
            if error.hint:
                command(error.hint)
    if report.settings_problems:
        heading("Settings")
        for problem in report.settings_problems:
            line(f"Problem: {problem}", "red")
    heading("Alerts")
    table([("go to", _words(report.alerts))])
    for problem in report.alert_problems:
        line(f"Problem: {problem}", "red")


_STATES = {
    "equal": ("Both sides have it and agree.", "green"),
    "missing": ("The target does not have it; the next sync inserts it.", "red"),
    "changed": ("The target has other values; the next sync updates it.", "red"),
    "extra": ("Only the target has it.", "red"),
    "quarantined": ("It cannot be copied as it is; see why above.", "red"),
    "nowhere": ("Neither side has it.", "red"),
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
    for each in report.differences or ():
        line(f"{each.column}: {_value(each.target)} in the target, {_value(each.source)} in the source")
    for exclusion in report.exclusions or ():
        line(f"In its way now: {exclusion.message} A sync writes it after that row, if that row makes way.")
    for entry in report.quarantine or ():
        _defects(f"In quarantine: {entry.source_key}", entry.defects)
        line(
            f"First seen {moment(entry.first_seen)}, last seen {moment(entry.last_seen)}, in {entry.attempts} runs,"
            f" last in run {entry.run_id}"
        )
    _earlier(report)
    line(*_STATES[report.state])


def _earlier(report: ProductReport) -> None:
    if not report.earlier:
        return
    heading("Earlier snapshots")
    rows = []
    for look in report.earlier:
        values = ", ".join(f"{name}: {_value(value)}" for name, value in (look.row or {}).items())
        found = f"in quarantine: {', '.join(look.reasons)}" if look.reasons else values or "not there"
        rows.append((moment(look.at), look.side, found))
    table(rows)


def _pairs(title: str, values: Mapping[str, str | None], absent: str = "NULL") -> None:
    heading(title)
    table([(name, _value(value, absent)) for name, value in values.items()])


def _defects(title: str, defects: list[DefectReport]) -> None:
    if defects:
        heading(title)
        table([(defect.column, defect.reason, defect.value) for defect in defects])


def _value(value: str | None, absent: str = "NULL") -> str:
    return absent if value is None else value.replace("\n", "\\n")


def _row(name: str, value: float | None, follow: str = "", then: float | None = None) -> tuple[str, str, str, str]:
    return name, number(value), follow, number(then)


def _words(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {text}" for name, text in value.items())
    if isinstance(value, list):
        return "\n".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _verdict(valid: bool | None, quarantined: int | None, mapping: Sequence[str]) -> None:
    if valid:
        apart = ", apart from the quarantined products" if quarantined else ""
        line(f"The copy agrees with the source{apart}.", "green")
        if quarantined:
            line("To see each of them, why, and what to do:")
            command(hints.shell("product-sync", "quarantine", *mapping))
    elif valid is not None:
        line("The copy does not agree with the source.", "red")
