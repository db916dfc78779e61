"""What sync, validate, stats and doctor print on standard output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from product_sync.results import (
    DoctorReport,
    ErrorInfo,
    PredictedCheck,
    SampleValue,
    StatsReport,
    SyncReport,
    ValidationReport,
)
from product_sync.runtime import hints
from product_sync.terminal.text import command, counts, heading, line, moment, number, pasted, show_command, table

_SHOWN_PER_KIND = 3
_NUMBERS = (1, 3)


def show_sync(report: SyncReport, again: Sequence[str] = (), mapping: Sequence[str] = ()) -> None:
    """The counts of a run and its result. The command for the plan repeats the options ``again``; all other commands
    repeat those in ``mapping``."""
    if report.source_count is None and report.target_count is None:
        return
    if report.dry_run:
        heading("Dry run: nothing was written")
    if report.run_id:
        line(f"Run: {report.run_id}")
    table(_rows_of(report), _NUMBERS)
    _quarantined(report)
    if report.exclusions:
        heading("First rows that other rows keep out")
        for exclusion in report.exclusions[:_SHOWN_PER_KIND]:
            line(f"  {exclusion.message}")
    if report.dry_run:
        _sample(report.sample_product)
        _first_differences(report.first_differences)
        _first_quarantined(report.first_quarantined)
    if report.drift_report:
        line("Drift report:")
        command(report.drift_report)
    if report.dry_run:
        _prediction(report, again)
    _result(report, mapping)


def _rows_of(report: SyncReport) -> Iterator[tuple[str, str, str, str]]:
    of_scope = "" if report.scope == "everything" else " (of these)"
    yield _row(f"documents in MongoDB{of_scope}", report.source_count)
    if report.filtered_out is not None:
        yield _row("left out by the filter", report.filtered_out)
    if report.filtered_out_about is not None:
        yield _row("left out by the filter, about", report.filtered_out_about)
    yield _row(f"rows in PostgreSQL before{of_scope}", report.target_count)
    if report.scope == "changes":
        yield _row("events of changes", report.events, "seconds behind", report.lag_s)
    yield _row("missing", report.missing, "inserted", report.inserted)
    yield _row("changed", report.changed, "updated", report.updated)
    yield _row("only in PostgreSQL", report.extra, "deleted", report.deleted)
    yield _row("quarantined", report.quarantined)
    if not report.dry_run:
        yield _row("changed by others meanwhile", report.conflicts, "still on their way", report.in_flight)
        if report.plan_id:
            yield _row("changed since the plan", report.skipped_since_plan)
        yield _row("taken back", report.taken_back, "kept, as referenced", report.kept_referenced)
        if report.excluded:
            yield _row("kept out by other rows", report.excluded)
        yield _row("batches", report.batches, "failed", report.failed_batches)
        yield _row("", None, "not attempted", report.not_attempted_batches)
    yield _row("seconds", report.duration_s, *(("estimated", report.estimated_s) if report.dry_run else ()))


def _row(name: str, value: float | None, second: str = "", then: float | None = None) -> tuple[str, str, str, str]:
    return name, number(value), second, number(then)


def _sample(product: Sequence[SampleValue] | None) -> None:
    """One product: for each column its source, the value there, and the value of the row."""
    if product:
        heading("A sample product")
        table([("column", "source", "value in MongoDB", "value in PostgreSQL"), *map(_becomes, product)])


def _becomes(value: SampleValue) -> tuple[str, str, str, str]:
    target = "NULL" if value.target is None else value.target or '""'
    return value.column, value.source, value.given, f"not copied: {value.reason}" if value.reason else target


def _first_differences(lines: list[dict[str, str]]) -> None:
    if not lines:
        return
    heading("First differences")
    shown: dict[str, list[str]] = {}
    for each in lines:
        ids = shown.setdefault(each["op"], [])
        if each["id"] not in ids:
            if len(ids) == _SHOWN_PER_KIND:
                continue
            ids.append(each["id"])
            line(f"  {each['op']}  {pasted(each['id'])}")
        if each["column"]:
            line(f"      {each['column']}: {each['old']} → {each['new']}")
        else:
            line(f"      {each['new'] or each['old']}")


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
    """Which checks a sync would fail, and the command that executes the plan."""
    if report.no_estimate_because:
        line(f"There is no estimate: {report.no_estimate_because}", "yellow")
    if report.prediction:
        failed = [check for check in report.predicted_checks or () if check.would_fail]
        warned = [check for check in report.predicted_checks or () if not check.passed and not check.would_fail]
        _predicted("A sync would fail:", failed, "red")
        _predicted("A sync would warn:" if failed else "A sync would pass, with a warning:", warned, "yellow")
        if not failed and not warned:
            line(report.prediction, "green")
    if report.plan_id:
        line("When that is corrected, to do exactly this:" if report.would_pass is False else "To do exactly this:")
        command(hints.shell("product-sync", "sync", *again, "--plan", report.plan_id))


def _predicted(title: str, checks: Sequence[PredictedCheck], style: str) -> None:
    """What each of these checks would say. A command in it keeps its own line."""
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
            ("documents in MongoDB", number(report.source_count)),
            ("rows in PostgreSQL", number(report.target_count)),
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
            line(f"First rows {kind}:")
            for each in ids:
                command(show_command(each, mapping))
    _quarantined(report)
    _result(report, mapping)


def _quarantined(report: SyncReport | ValidationReport) -> None:
    if report.quarantined and report.quarantined_by_reason:
        line(f"Quarantined by reason: {counts(report.quarantined_by_reason)}")


def _result(report: SyncReport | ValidationReport, mapping: Sequence[str]) -> None:
    for warning in report.warnings:
        line(f"Warning: {warning}", "yellow")
    if isinstance(report, SyncReport) and report.valid is not None and report.scope != "everything":
        _partial_result(report)
    elif report.valid:
        line(f"The copy agrees with the source{_apart_from(report)}.", "green")
        if report.quarantined:
            line("To see each quarantined document, why, and what to do:")
            command(hints.shell("product-sync", "quarantine", *mapping))
    elif report.valid is not None:
        line("The copy does not agree with the source.", "red")


def _apart_from(report: SyncReport | ValidationReport) -> str:
    extra = report.extra_left if isinstance(report, SyncReport) else report.extra_in_target
    exceptions = [
        *(["the quarantined documents"] if report.quarantined else []),
        *(["the rows that only PostgreSQL has"] if extra else []),
    ]
    return f", apart from {' and '.join(exceptions)}" if exceptions else ""


def _partial_result(report: SyncReport) -> None:
    agree = f"Both sides agree on them{_apart_from(report)}." if report.valid else "The two sides do not agree on them."
    line(f"Compared: {report.looked_at}. {agree} Nothing else was compared.", "green" if report.valid else "red")
    if report.scope == "changes":
        _followed(report)


def show_stats(report: StatsReport) -> None:
    if report.source_count is None:
        return
    heading("Statistics")
    table(
        [
            ("documents in MongoDB", number(report.source_count)),
            ("rows in PostgreSQL", number(report.target_count)),
        ],
        _NUMBERS,
    )
    line(f"Last sync that succeeded: {moment(report.last_sync_at) if report.last_sync_at else 'none yet'}")
    if report.last_sync_run_id:
        line(f"Its run: {report.last_sync_run_id}")
    _followed(report)


def _followed(report: SyncReport | StatsReport) -> None:
    if report.position_at and report.full_proof_at:
        line(f"Changes are compared up to {moment(report.position_at)}; not settled: {number(report.unsettled)}.")
        line(f"The last full sync that passed began at {moment(report.full_proof_at)}.")


def show_doctor(report: DoctorReport) -> None:
    """Each server with its problems, the problems of the settings, and where alerts go. Unknown values are left out."""
    # A wrong mapping is the error of both; the problems of the settings have it too.
    is_mapping = report.mongodb.error is not None and report.mongodb.error == report.postgres.error
    for name, connection in () if is_mapping else (("MongoDB", report.mongodb), ("PostgreSQL", report.postgres)):
        heading(name)
        found = {item.name: getattr(connection, item.name) for item in fields(connection)}
        error: ErrorInfo | None = found.pop("error")
        known = [(key.replace("_", " "), _words(value)) for key, value in found.items() if value is not None]
        if known:
            table(known)
        if error:
            _problems([error.message])
            if error.hint:
                command(error.hint)
    _sample(report.sample_product)
    if report.settings_problems:
        heading("Settings")
        _problems(report.settings_problems)
    heading("Alerts")
    table([("go to", _words(report.alerts))])
    _problems(report.alert_problems)


def _problems(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        for part in f"Problem: {sentence}".split("\n"):
            line(part, "red")


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {text}" for name, text in value.items())
    if isinstance(value, list):
        return "\n".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
