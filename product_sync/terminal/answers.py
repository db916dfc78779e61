"""How a command answers: its report for people or as JSON, its error, its log lines, its exit status."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from product_sync.errors import ProductSyncError
from product_sync.results import (
    DoctorReport,
    ProductReport,
    QuarantineListing,
    Report,
    StatsReport,
    SyncReport,
    ValidationReport,
)

REPORTS: dict[str, type[Report]] = {
    "sync": SyncReport,
    "validate": ValidationReport,
    "stats": StatsReport,
    "show": ProductReport,
    "quarantine": QuarantineListing,
    "doctor": DoctorReport,
}


class LogLines(logging.Handler):
    """Writes log records to the current standard error, which belongs to the progress bar while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        click.secho(self.format(record), fg="red" if record.levelno >= logging.ERROR else "yellow", err=True)


def finish(report: Report, as_json: bool, show: Callable[[Any], None] | None = None) -> NoReturn:
    """Print the report and its error, and end with its exit status."""
    print_report(report, as_json, show)
    sys.exit(report.exit_status)


def print_report(report: Report, as_json: bool, show: Callable[[Any], None] | None = None) -> None:
    if show and not as_json:
        if report.sync:
            click.echo(f"Sync: {report.sync}")
        show(report)
    if failure := report.failure:
        click.secho(f"error ({failure.code}): {failure.message}", fg="red", err=True)
        if failure.hint:
            click.echo(f"  {failure.hint}", err=True)
    if as_json:
        click.echo(json.dumps(report.as_json()))


def fail(failure: ProductSyncError, arguments: list[str]) -> NoReturn:
    """End without the report of a command: the JSON object has all keys of the command."""
    finish(unfinished(failure, arguments), wants_json(arguments))


def unfinished(failure: ProductSyncError | None, arguments: list[str]) -> Report:
    """The report of a command that could not make it."""
    report = REPORTS.get(_command(arguments), Report)(failure=failure)
    if isinstance(report, SyncReport):
        report.dry_run = "--dry-run" in arguments
        report.scope = "changes" if "--changes" in arguments else "ids" if "--id" in arguments else "everything"
    return report


def _command(arguments: list[str]) -> str:
    return next((argument for argument in arguments if argument in REPORTS), "")


def wants_json(arguments: list[str]) -> bool:
    return "--json" in arguments and _command(arguments) in REPORTS
