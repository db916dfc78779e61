"""The `product-sync` command: thin, over the functions of `product_sync.api`.

People get a progress bar on standard error and a summary on standard output; programs get, with ``--json``, one JSON
object as the last line of standard output, whatever happened. Exit statuses are those of `core.errors`.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from product_sync.errors import ConfigurationError, ProductSyncError, SyncCancelled
from product_sync.results import (
    DoctorReport,
    ProductReport,
    QuarantineListing,
    Report,
    StatsReport,
    SyncReport,
    ValidationReport,
)
from product_sync.runtime import hints, output_streams, signals
from product_sync.runtime.process import end_at_once

_REPORTS: dict[str, type[Report]] = {
    "sync": SyncReport,
    "validate": ValidationReport,
    "stats": StatsReport,
    "show": ProductReport,
    "quarantine": QuarantineListing,
    "doctor": DoctorReport,
}
#: The jobs of the commands about which people are alerted.
_JOBS = {"sync": "product_sync", "validate": "validate_sync"}
_folder_option = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=".data",
    show_default=True,
    help="Data folder.",
)
_mapping_option = click.option("--mapping", metavar="FILE", help="Mapping file [PRODUCT_SYNC_MAPPING, the six fields]")
_settle_option = click.option(
    "--settle-seconds", type=float, metavar="S", help="Seconds between the two readings of a difference [5]"
)
_accept_source_option = click.option(
    "--accept-source-count",
    type=int,
    metavar="N",
    help="Accept a source of at least N documents, even if it is empty or has shrunk by more than 20 %.",
)
_budget_option = click.option(
    "--quarantine-budget",
    type=float,
    metavar="SHARE",
    help="Share of the source that may be quarantined, 0 to 1 [SYNC_QUARANTINE_BUDGET, 0.01]",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="product_sync")
def cli() -> None:
    """Keeps the cart service's copy of the product catalogue right.

    Needs PRODUCT_SERVICE_MONGODB_URL and CART_DB_URL. Exit status: 0 in agreement, 1 checks failed or stopped after
    writing began, 2 bad usage or configuration, 3 nothing was attempted, 130 cancelled. With 2 and 3 nothing was
    written.
    """


@cli.command()
@click.option("--dry-run", is_flag=True, help="Show what would be done; write nothing.")
@click.option("--check", is_flag=True, help="With --dry-run: exit 1 where a sync would fail its checks.")
@click.option("--plan", metavar="ID", help="Execute the plan that a dry run has made, and nothing else.")
@click.option("--extra", type=click.Choice(["report", "delete"]), help="Extra rows: report or delete [report]")
@_mapping_option
@click.option("--batch-size", type=int, metavar="ROWS", help="Rows per transaction, 1 to 100000 [SYNC_BATCH_SIZE, 100]")
@click.option("--delay-ms", type=int, metavar="MS", help="Pause between batches [SYNC_BATCH_DELAY_MS, 100]")
@click.option("--pacing", type=click.Choice(["fixed", "adaptive"]), help="Pacing of the load [SYNC_PACING, fixed]")
@click.option("--target-batch-s", type=float, metavar="S", help="Adaptive: seconds of the target per batch [0.006]")
@click.option("--max-duty", type=float, metavar="SHARE", help="Adaptive: share of the target's time, 0 to 1 [0.03]")
@click.option("--retry-s", type=float, metavar="S", help="Seconds for which one failing batch is retried [60]")
@click.option(
    "--source-recheck-after-s", type=float, metavar="S", help="Read a product to insert again after so long [60]"
)
@_settle_option
@_accept_source_option
@click.option("--lock-wait-s", type=float, metavar="S", help="Wait so long for another sync to end [10]")
@click.option("--accept-changes", is_flag=True, help="Let more than half of the target be overwritten.")
@_budget_option
@click.option("--max-isolated-rows", type=int, metavar="ROWS", help="Refused rows that stop the run [1000]")
@click.option(
    "--max-delete-share", type=float, metavar="SHARE", help="Above this share no extra row is deleted, 0 to 1 [0.05]"
)
@click.option("--max-plan-age-s", type=float, metavar="S", help="Refuse a plan that is older, 0 to 86400 [3600]")
@click.option("--max-drift-growth", type=float, metavar="SHARE", help="Refuse a plan when drift has grown more [0.2]")
@click.option("--no-probe", is_flag=True, help="In a dry run: do not try a batch. There is no estimate then.")
@_json_option
def sync(as_json: bool, delay_ms: int | None, no_probe: bool, **options: Any) -> None:
    """Find what is missing or changed, load it in batches, prove the result."""
    from product_sync.runtime.process import stay_small

    stay_small()
    from product_sync import api
    from product_sync.terminal.summaries import progress_bar, show_sync

    options |= {"batch_delay_ms": delay_ms, "probe": False if no_probe else None}
    with progress_bar() as on_progress:
        report = api.sync(on_progress=on_progress, read_ahead=True, **options)
    _finish(report, as_json=as_json, show=partial(show_sync, again=_given_options(), mapping=_given_mapping()))


@cli.command()
@_mapping_option
@_settle_option
@_accept_source_option
@_budget_option
@_json_option
def validate(as_json: bool, **options: Any) -> None:
    """Read both sides afresh and compare them. Writes nothing."""
    from product_sync.runtime.process import stay_small

    stay_small()
    from product_sync import api
    from product_sync.terminal.summaries import progress_bar, show_validation

    with progress_bar() as on_progress:
        report = api.validate(on_progress=on_progress, read_ahead=True, **options)
    _finish(report, as_json=as_json, show=partial(show_validation, mapping=_given_mapping()))


@cli.command()
@click.option("--max-age", metavar="TIME", help="Exit 1 when no sync has succeeded for so long: 90s, 30m, 2h, 1d.")
@_mapping_option
@_json_option
def stats(as_json: bool, max_age: str | None, mapping: str | None) -> None:
    """Count both sides and say when a sync last succeeded."""
    from product_sync import api
    from product_sync.settings import duration
    from product_sync.terminal.summaries import show_stats

    limit = duration(max_age, "--max-age") if max_age is not None else None
    _finish(api.stats(max_age=limit, mapping=mapping), as_json=as_json, show=show_stats)


@cli.command()
@click.argument("product_id", metavar="ID")
@_mapping_option
@_json_option
def show(product_id: str, as_json: bool, mapping: str | None) -> None:
    """Everything about one product: both sides, its conversion, its difference, its quarantine.

    ID is the id as the target has it, or the extended JSON of an _id, as the quarantine names it. One that begins with
    a dash comes after `--`. Exit status: 0 if both sides have it and agree, 1 if not.
    """
    from product_sync import api
    from product_sync.terminal.summaries import show_product

    _finish(api.show(product_id, mapping=mapping), as_json=as_json, show=show_product)


@cli.command()
@click.option("--reason", "reasons", multiple=True, metavar="CODE", help="Only documents with this reason. Repeatable.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV: a line for each column that fails.")
@_mapping_option
@_json_option
def quarantine(reasons: tuple[str, ...], as_csv: bool, as_json: bool, mapping: str | None) -> None:
    """List the documents that cannot be copied, why, and what to do.

    As the last sync left it. The databases are not read where the state folder says enough.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    from product_sync import api
    from product_sync.terminal.quarantine import show_quarantine

    report = api.quarantine(reasons=reasons, mapping=mapping)
    if report.failure or not (as_csv or as_json):
        _finish(report, as_json=as_json, show=partial(show_quarantine, mapping=_given_mapping()))
    from product_sync.support.quarantine_export import write_csv, write_json

    (write_csv if as_csv else write_json)(report, sys.stdout)
    sys.exit(report.exit_status)


@cli.command()
@_mapping_option
@_json_option
def doctor(as_json: bool, mapping: str | None) -> None:
    """Look at both connections: version, latency, privileges, the table."""
    from product_sync import api
    from product_sync.terminal.summaries import show_doctor

    _finish(api.doctor(mapping=mapping), as_json=as_json, show=show_doctor)


@cli.command()
@_folder_option
def demo(folder: Path) -> None:
    """Start a real MongoDB and PostgreSQL, plant drift in a sample catalogue, and repair it."""
    from product_sync.embedded.demo import run_demo

    run_demo(folder, click.echo)


@cli.command()
@_folder_option
@click.option("--port", type=click.IntRange(1, 65_535), default=3000, show_default=True, help="Port of the Dagster UI.")
def dev(folder: Path, port: int) -> None:
    """The servers of the demo and the Dagster UI, until Ctrl-C."""
    from product_sync.embedded.dev import run_dev

    run_dev(folder, port, click.echo)


#: Options that the sync of a dry run's plan does not take again.
_OF_A_DRY_RUN = frozenset({"dry_run", "check", "no_probe", "plan", "as_json"})


def _given_mapping() -> list[str]:
    """``--mapping`` as it was typed, if it was."""
    mapping = click.get_current_context().params["mapping"]
    return ["--mapping", mapping] if mapping is not None else []


def _given_options() -> list[str]:
    """The options of this command as they were typed, but for those that only a dry run takes."""
    context, given = click.get_current_context(), list[str]()
    for option in context.command.params:
        name = option.name or ""
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE and name not in _OF_A_DRY_RUN:
            value = context.params[name]
            given += [option.opts[0]] if value is True else [option.opts[0], str(value)]
    return given


class _LogLines(logging.Handler):
    """Log records as lines on standard error as it is at that moment: while a bar is drawn, it is the bar's."""

    def emit(self, record: logging.LogRecord) -> None:
        click.secho(self.format(record), fg="red" if record.levelno >= logging.ERROR else "yellow", err=True)


def _finish(report: Report, *, as_json: bool, show: Callable[[Any], None]) -> NoReturn:
    if not as_json:
        show(report)
    _end(report, as_json=as_json)


def _end(report: Report, *, as_json: bool) -> NoReturn:
    if failure := report.failure:
        click.secho(f"error ({failure.code}): {failure.message}", fg="red", err=True)
        if failure.hint:
            click.echo(f"  {failure.hint}", err=True)
    if as_json:
        click.echo(json.dumps(report.as_json()))
    sys.exit(report.exit_status)


def _fail(failure: ProductSyncError, arguments: list[str]) -> NoReturn:
    """End before a command could make its report: all keys all the same."""
    _end(_unfinished(failure, arguments), as_json=_wants_json(arguments))


def _unfinished(failure: ProductSyncError, arguments: list[str]) -> Report:
    report = _REPORTS.get(_command(arguments), Report)(failure=failure)
    if isinstance(report, SyncReport):
        report.dry_run = "--dry-run" in arguments
    return report


def _notify(error: Exception, arguments: list[str], started_at: datetime) -> None:
    """Send alerts about an error that ended a command before or after its work (`api` sends those of its work)."""
    if job := _JOBS.get(_command(arguments)):
        from product_sync import api

        api.notify_of_error(job, error, started_at)


def _command(arguments: list[str]) -> str:
    return next((argument for argument in arguments if argument in _REPORTS), "")


def _wants_json(arguments: list[str]) -> bool:
    return "--json" in arguments and _command(arguments) in _REPORTS


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _interrupt_but_for_ctrl_c(number: int, frame: FrameType | None) -> None:
    if number != signal.SIGINT:
        _interrupt(number, frame)


def handle_signals() -> None:
    """SIGTERM and SIGHUP end a command in order, as Ctrl-C does; what the caller has ignored stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Under nohup a hangup is to be ignored.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)
    # A script's background jobs ignore Ctrl-C. Dagster gives SIGTERM, again and again, whatever handler SIGINT has, and
    # would have it ignored too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt_but_for_ctrl_c)
    signals.resend_lost_interrupts()


def run() -> NoReturn:
    """Entry point of the console script: `main` with streams that cannot end it, and then `lean.end_at_once`."""
    output_streams.make_lenient()
    status: object = 0
    try:
        main()
    except SystemExit as ending:
        status = ending.code or 0
    output_streams.warn_of_lost_output()
    if not isinstance(status, int):
        sys.exit(str(status))
    end_at_once(status)


def main(arguments: list[str] | None = None) -> None:
    """Run one command. Ends with the exit status; a bug in this package ends with its traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    started_at = datetime.now(UTC)
    handle_signals()
    handler = _LogLines(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.getLogger("product_sync").addHandler(handler)
    try:
        cli.main(arguments, prog_name="product-sync", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        command = context.command_path if context else "product-sync"
        usage = ConfigurationError(error.format_message(), hint=f"See `{hints.shell(*command.split(), '--help')}`.")
        if not sys.stderr.isatty():
            # A person at a terminal has seen it. Nobody looks at what a timer starts.
            _notify(usage, arguments, started_at)
        _fail(usage, arguments)
    except ProductSyncError as error:
        _fail(error, arguments)
    except (KeyboardInterrupt, click.Abort):
        _fail(SyncCancelled("Cancelled."), arguments)
    except Exception as error:
        _notify(error, arguments, started_at)
        if _wants_json(arguments):
            bug = ProductSyncError(
                f"{type(error).__name__}: see the traceback.", hint="This is a bug: please report it."
            )
            click.echo(json.dumps(_unfinished(bug, arguments).as_json()))
        raise


if __name__ == "__main__":
    run()
