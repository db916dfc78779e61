"""The `product-sync` command: thin, over the functions of `product_sync.api`.

People get a progress bar on standard error and a summary on standard output; programs get, with ``--json``, one JSON
object as the last line of standard output, whatever happened. Exit statuses are those of `core.errors`.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
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
from product_sync.runtime.typed_settings import Setting
from product_sync.schema.definition import MAPPING
from product_sync.settings import RunOptions

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
_Command = Callable[..., None]


def _run_options(*names: str) -> Callable[[_Command], _Command]:
    """Options of a run, as `RunOptions` declares them; all if none is named."""

    def add(command: _Command) -> _Command:
        for name in reversed(names or tuple(RunOptions.model_fields)):
            command = _run_option(RunOptions.each()[name])(command)
        return command

    return add


def _run_option(option: Setting) -> Callable[[_Command], _Command]:
    if option.type is bool:
        value, text = not option.default, option.explained
        help_ = text if value else f"Do not {text[0].lower()}{text[1:]}"
        return click.option(option.flag, option.name, is_flag=True, flag_value=value, default=None, help=help_)
    kind = click.Choice(option.choices) if option.choices else option.type
    metavar = None if option.choices else option.unit.partition(" ")[0].upper()
    return click.option(option.flag, option.name, type=kind, metavar=metavar, help=option.help)


_mapping_option = click.option("--mapping", metavar="FILE", help=f"Mapping file  [{MAPPING}]")
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")


def _duration(_context: click.Context, _option: click.Parameter, text: str | None) -> timedelta | None:
    if text is None:
        return None
    if match := re.fullmatch(r"([0-9]{1,6})([smhd])", text.strip()):
        return timedelta(seconds=int(match[1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[match[2]])
    raise click.BadParameter(f"{text!r} is not a number with s, m, h or d, such as `30m`.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="product_sync")
def cli() -> None:
    """Keeps the cart service's copy of the product catalogue right.

    Needs PRODUCT_SERVICE_MONGODB_URL and CART_DB_URL. Exit status: 0 in agreement, 1 checks failed or stopped after
    writing began, 2 bad usage or configuration, 3 nothing was attempted, 130 cancelled. With 2 and 3 nothing was
    written.
    """


@cli.command()
@_run_options()
@_mapping_option
@click.option("--check", is_flag=True, help="With --dry-run: exit 1 if a sync would fail its checks.")
@_json_option
def sync(as_json: bool, **options: Any) -> None:
    """Find what is missing or changed, load it in batches, prove the result."""
    from product_sync.runtime.process import stay_small

    stay_small()
    from product_sync import api
    from product_sync.terminal.summaries import progress_bar, show_sync

    with progress_bar() as on_progress:
        report = api.sync(on_progress=on_progress, **options)
    _finish(report, as_json=as_json, show=partial(show_sync, again=_given_options(), mapping=_given_mapping()))


@cli.command()
@_run_options("settle_seconds", "accept_source_count", "quarantine_budget")
@_mapping_option
@_json_option
def validate(as_json: bool, **options: Any) -> None:
    """Read both sides afresh and compare them. Writes nothing."""
    from product_sync.runtime.process import stay_small

    stay_small()
    from product_sync import api
    from product_sync.terminal.summaries import progress_bar, show_validation

    with progress_bar() as on_progress:
        report = api.validate(on_progress=on_progress, **options)
    _finish(report, as_json=as_json, show=partial(show_validation, mapping=_given_mapping()))


@cli.command()
@click.option(
    "--max-age", metavar="TIME", callback=_duration, help="Exit 1 if no sync has succeeded within 90s, 30m, 2h, 1d …"
)
@_mapping_option
@_json_option
def stats(as_json: bool, max_age: timedelta | None, mapping: str | None) -> None:
    """Count both sides and say when a sync last succeeded."""
    from product_sync import api
    from product_sync.terminal.summaries import show_stats

    _finish(api.stats(max_age=max_age, mapping=mapping), as_json=as_json, show=show_stats)


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
_OF_A_DRY_RUN = frozenset({"dry_run", "check", "probe", "plan", "as_json"})


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
            given += [option.opts[0]] if isinstance(value, bool) else [option.opts[0], str(value)]
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
