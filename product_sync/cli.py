"""The command `product-sync`: a thin layer over the functions of `product_sync.api`.

People get a progress bar on standard error and a summary on standard output. With ``--json`` programs get one JSON
object as the last line of standard output, also after an error. Exit statuses are those of `product_sync.errors`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from product_sync.errors import ConfigurationError, ProductSyncError, SyncCancelled
from product_sync.results import Report, SyncReport, ValidationReport
from product_sync.runtime import hints, output_streams, signals
from product_sync.runtime.process import collect_seldom, end_at_once, stay_small
from product_sync.terminal.answers import LogLines, fail, finish, print_report, unfinished, wants_json

_folder_option = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=".data",
    show_default=True,
    help="Data folder.",
)
_mapping_option = click.option(
    "--mapping", metavar="FILE", help="Mapping file, or a folder of them. Default: PRODUCT_SYNC_MAPPING."
)
_names_argument = click.argument("names", nargs=-1, metavar="[NAME]...")
_all_option = click.option("--all", "every", is_flag=True, help="Take all syncs, one after the other.")
_sync_option = click.option("--sync", metavar="NAME", help="The sync. Default: the only one.")
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")


class _RunCommand(click.Command):
    """A command with options of a run. It makes them when it needs them: the help of all commands shall not wait for
    pydantic. They import Arrow, so the process is prepared for it first (docs/decisions/0074)."""

    def __init__(self, *args: Any, run_options: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._names: Sequence[str] | None = run_options

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if self._names is not None:
            stay_small()
            from product_sync.terminal.options import run_options

            self.params[:0] = run_options(*self._names)
            self._names = None
        return super().get_params(ctx)


def _duration(_context: click.Context, _option: click.Parameter, text: str | None) -> timedelta | None:
    """The value of an option such as ``30m``."""
    if text is None:
        return None
    if match := re.fullmatch(r"([0-9]{1,6})([smhd])", text.strip()):
        return timedelta(seconds=int(match[1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[match[2]])
    raise click.BadParameter(f"{text!r} is not a number with s, m, h or d, such as `30m`.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="product_sync")
def cli() -> None:
    """Compare a MongoDB collection with its copy in PostgreSQL, repair the differences, verify the result.

    Needs PRODUCT_SERVICE_MONGODB_URL and CART_DB_URL. Exit status: 0 both sides agree, 1 a check failed or the run
    stopped after it began to write, 2 wrong usage or configuration, 3 nothing was attempted, 130 cancelled. With 2 and
    3 nothing was written.
    """


@cli.command(cls=_RunCommand, short_help="Find what is missing or changed, and repair it.")
@_names_argument
@_all_option
@_mapping_option
@click.option("--check", is_flag=True, help="With --dry-run: exit 1 if a sync would fail its checks.")
@_json_option
def sync(names: tuple[str, ...], every: bool, as_json: bool, mapping: str | None, **options: Any) -> None:
    """Find what is missing or changed, load it in batches, prove the result.

    NAME is a sync of the project; it may be left out if there is only one.
    """
    if options["ids"] and (every or len(names) > 1):
        raise click.UsageError("--id names products of one sync: give one NAME.")
    from product_sync import api
    from product_sync.terminal.summaries import show_sync

    def show(name: str | None, report: SyncReport) -> None:
        show_sync(report, [*([name] if name else []), *_given_options()], _repeated(name))

    _run_each(partial(api.sync, mapping=mapping, **options), _chosen(names, every, mapping), as_json, show)


@cli.command(cls=_RunCommand, run_options=("settle_seconds", "accept_source_count", "quarantine_budget"))
@_names_argument
@_all_option
@_mapping_option
@_json_option
def validate(names: tuple[str, ...], every: bool, as_json: bool, mapping: str | None, **options: Any) -> None:
    """Read both sides again and compare them. Writes nothing.

    NAME is a sync of the project; it may be left out if there is only one.
    """
    from product_sync import api
    from product_sync.terminal.summaries import show_validation

    run, chosen = partial(api.validate, mapping=mapping, **options), _chosen(names, every, mapping)
    _run_each(run, chosen, as_json, lambda name, report: show_validation(report, _repeated(name)))


@cli.command()
@click.option(
    "--max-age", metavar="TIME", callback=_duration, help="Exit 1 if no sync has succeeded within 90s, 30m, 2h, 1d …"
)
@_sync_option
@_mapping_option
@_json_option
def stats(as_json: bool, max_age: timedelta | None, sync: str | None, mapping: str | None) -> None:
    """Count both sides and say when a sync last succeeded."""
    from product_sync import api
    from product_sync.terminal.summaries import show_stats

    finish(api.stats(max_age=max_age, sync=sync, mapping=mapping), as_json, show_stats)


@cli.command(short_help="Show everything about one product.")
@click.argument("product_id", metavar="ID")
@_sync_option
@_mapping_option
@_json_option
def show(product_id: str, as_json: bool, **which: str | None) -> None:
    """Show one product: both sides, its conversion, its difference, its quarantine.

    ID is the id in the target, or the extended JSON of an _id, as the quarantine shows it. Put `--` before an id that
    begins with a dash. Exit status: 0 if both sides have the product and agree, else 1.
    """
    from product_sync import api
    from product_sync.terminal.product import show_product

    finish(api.show(product_id, **which), as_json, show_product)


@cli.command(short_help="List the documents that cannot be copied, and why.")
@click.option("--reason", "reasons", multiple=True, metavar="CODE", help="Only documents with this reason. Repeatable.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV: a line for each column that fails.")
@_sync_option
@_mapping_option
@_json_option
def quarantine(reasons: tuple[str, ...], as_csv: bool, as_json: bool, **which: str | None) -> None:
    """List the documents that the last sync could not copy, why, and what to do.

    The databases are not read if the state folder has all that is needed.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    from product_sync import api
    from product_sync.terminal.quarantine import show_quarantine

    report = api.quarantine(reasons=reasons, **which)
    if report.failure or not (as_csv or as_json):
        finish(report, as_json, partial(show_quarantine, mapping=_repeated(which["sync"])))
    from product_sync.support.quarantine_listing import write_csv, write_json

    (write_csv if as_csv else write_json)(report, sys.stdout)
    sys.exit(report.exit_status)


@cli.command(short_help="Check the settings, both connections and the mapping.")
@_sync_option
@_mapping_option
@_json_option
def doctor(as_json: bool, **which: str | None) -> None:
    """Check the settings and both connections: version, latency, privileges, the table."""
    from product_sync import api
    from product_sync.terminal.summaries import show_doctor

    finish(api.doctor(**which), as_json, show_doctor)


@cli.command(short_help="Plant drift between two real servers, and repair it.")
@_folder_option
def demo(folder: Path) -> None:
    """Start a real MongoDB and PostgreSQL, plant drift in a sample catalogue, and repair it."""
    from product_sync.embedded.demo import run_demo

    run_demo(folder, click.echo)


@cli.command()
@_folder_option
@click.option("--port", type=click.IntRange(1, 65_535), default=3000, show_default=True, help="Port of the Dagster UI.")
def dev(folder: Path, port: int) -> None:
    """Run the servers of the demo and the Dagster UI until Ctrl-C."""
    from product_sync.embedded.dev import run_dev

    run_dev(folder, port, click.echo)


#: Options that the command for a dry run's plan does not repeat.
_OF_A_DRY_RUN = frozenset({"dry_run", "check", "probe", "plan", "as_json", "names", "every"})


def _chosen(names: tuple[str, ...], every: bool, mapping: str | None) -> Sequence[str | None]:
    """The syncs of a command. The only one of a project needs no name."""
    from product_sync import api

    if every and names:
        raise click.UsageError("--all takes all syncs: give no NAME with it.")
    if every:
        # The first command reports a wrong mapping file, and sends the alert.
        with contextlib.suppress(ProductSyncError):
            return api.names(mapping)
    return names or [None]


def _run_each(
    run: Callable[..., Report], names: Sequence[str | None], as_json: bool, show: Callable[[str | None, Any], None]
) -> NoReturn:
    """Run the syncs one after the other, print each report, and end with their common exit status."""
    from product_sync.terminal.progress import progress_bar

    statuses = []
    for name in names:
        with progress_bar() as on_progress:
            report = run(name, on_progress=on_progress)
        print_report(report, as_json, partial(show, name))
        statuses.append(report.exit_status)
        if report.exit_status == SyncCancelled.exit_status:
            break
    sys.exit(_common(statuses))


def _common(statuses: Sequence[int]) -> int:
    """The exit status of all syncs: 2 and 3 promise that nothing was written, which holds only if it holds of each."""
    if SyncCancelled.exit_status in statuses:
        return SyncCancelled.exit_status
    return statuses[0] if len(set(statuses)) == 1 else ProductSyncError.exit_status


def _repeated(name: str | None) -> list[str]:
    """The options that further commands repeat: those that say which sync is meant."""
    mapping = click.get_current_context().params["mapping"]
    given = {"--mapping": mapping, "--sync": name}
    return [text for option, value in given.items() if value is not None for text in (option, value)]


def _given_options() -> list[str]:
    """The options of this command as they were typed, without those of a dry run."""
    context, given = click.get_current_context(), list[str]()
    for option in context.command.params:
        name = option.name or ""
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE and name not in _OF_A_DRY_RUN:
            value = context.params[name]
            for each in value if isinstance(value, list) else [value]:
                given += [option.opts[0]] if isinstance(each, bool) else [option.opts[0], str(each)]
    return given


def _notify(error: Exception, arguments: list[str], started_at: datetime) -> None:
    """Send alerts about an error before or after the work of a command. `api` sends those about the work itself."""
    report = unfinished(None, arguments)
    if isinstance(report, SyncReport | ValidationReport):
        from product_sync import api

        api.notify(report, error, started_at)


def run() -> NoReturn:
    """Entry point of the console script. A closed output stream does not end the command."""
    collect_seldom()
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
    """Run one command and end with its exit status. A bug in this package ends with its traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    started_at = datetime.now(UTC)
    signals.handle_signals()
    handler = LogLines(logging.WARNING)
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
            # A person at a terminal has seen the error. A command that a timer starts has no reader.
            _notify(usage, arguments, started_at)
        fail(usage, arguments)
    except ProductSyncError as error:
        fail(error, arguments)
    except (KeyboardInterrupt, click.Abort):
        fail(SyncCancelled("Cancelled."), arguments)
    except Exception as error:
        _notify(error, arguments, started_at)
        if wants_json(arguments):
            bug = ProductSyncError(
                f"{type(error).__name__}: see the traceback.", hint="This is a bug: please report it."
            )
            click.echo(json.dumps(unfinished(bug, arguments).as_json()))
        raise


if __name__ == "__main__":
    run()
