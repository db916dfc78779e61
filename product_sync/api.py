"""The functions behind the commands, for scripts: `sync`, `validate`, `stats`, `show`, `quarantine`, `doctor`.

The first two run the same Dagster jobs as the UI and the schedule, in this process. All answer with a report, which is
returned whatever happened; ``report.raise_for_error()`` turns what ended it into an exception.

    from product_sync import sync
    report = sync(dry_run=True).raise_for_error()
    print(report.missing, report.changed)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from product_sync.errors import (
    ChecksFailed,
    ConfigurationError,
    MappingError,
    NotAttempted,
    ProductSyncError,
    SyncOverdue,
)
from product_sync.results import (
    DoctorReport,
    ProductReport,
    QuarantineListing,
    Report,
    StatsReport,
    SyncReport,
    ValidationReport,
)
from product_sync.runtime.progress import OnProgress, no_progress
from product_sync.schema.definition import DEFAULT_NAME, SyncDefinition, load_definitions
from product_sync.settings import CHANNELS, history_root, state_root

if TYPE_CHECKING:
    import dagster as dg

    from product_sync.pipeline.databases import Databases


def sync(
    sync: SyncDefinition | str | None = None,
    *,
    mapping: str | Path | None = None,
    check: bool = False,
    on_progress: OnProgress = no_progress,
    instance: dg.DagsterInstance | None = None,
    **options: Any,
) -> SyncReport:
    """Find what is missing or changed, load it in batches, prove the result.

    ``sync`` is a definition, or the name of one in ``mapping``, a mapping file or a folder of them; it may be left out
    where there is only one. ``options`` are those of `settings.RunOptions`, which has the units and bounds; what is
    left out comes from the environment, then the defaults. ``on_progress`` is called for every stage. ``instance`` is
    where the run is recorded: that of DAGSTER_HOME, or a local one in the state folder. ``check`` makes a dry run fail
    with `ChecksFailed` where the sync would be red.

    The report's ``failure`` is a `ConfigurationError` or `NotAttempted` if something stood in the way, `ChecksFailed`
    or `LoadStopped` if the result is not what it should be, `SyncCancelled` after SIGINT or SIGTERM; its counts are
    what was done before. ``failure.exit_status`` is 2 or 3 only if nothing was written; an obstacle that was met after
    the first write has exit status 1. Whatever is no `ProductSyncError` is a bug, and is raised.
    """
    scope = "changes" if options.get("changes") else "ids" if options.get("ids") else "everything"
    report = SyncReport(dry_run=bool(options.get("dry_run")), plan_id=options.get("plan"), scope=scope)
    _run(report, sync, mapping, on_progress, instance, options, check=check)
    if check and report.would_pass is False and report.failure is None:
        # After `_notifying`: the dry run itself has succeeded, so nobody is alerted.
        failed = ", ".join(each.check for each in report.predicted_checks or () if each.would_fail)
        report.failure = ChecksFailed(f"A sync would fail: {failed}.", hint="Nothing was written.")
    return report


def validate(
    sync: SyncDefinition | str | None = None,
    *,
    mapping: str | Path | None = None,
    settle_seconds: float | None = None,
    quarantine_budget: float | None = None,
    accept_source_count: int | None = None,
    on_progress: OnProgress = no_progress,
    instance: dg.DagsterInstance | None = None,
) -> ValidationReport:
    """Read both sides afresh and compare them. Writes to neither. Takes and answers as `sync` does; the failure is
    `ChecksFailed` where the two sides do not agree."""
    report = ValidationReport()
    options = {
        "settle_seconds": settle_seconds,
        "quarantine_budget": quarantine_budget,
        "accept_source_count": accept_source_count,
    }
    _run(report, sync, mapping, on_progress, instance, options)
    return report


def _run(
    report: SyncReport | ValidationReport,
    sync: SyncDefinition | str | None,
    mapping: str | Path | None,
    on_progress: OnProgress,
    instance: dg.DagsterInstance | None,
    options: Mapping[str, Any],
    *,
    check: bool = False,
) -> None:
    """Run the job of ``report`` with the options that are not ``None``. Settings that cannot be used are refused before
    anything is opened or recorded."""
    given = {name: value for name, value in options.items() if value is not None}
    with _notifying(report, sync, instance), _ending(report):
        definition = _find(report, sync, mapping)
        from product_sync.pipeline.preconditions import require_settings

        require_settings(definition, os.environ, given)
        if check and not given.get("dry_run"):
            raise ConfigurationError("check belongs to a dry run.", hint="A sync that fails its checks exits 1 anyway.")
        from product_sync.orchestration import run_in_process

        with _recording(instance) as recorded:
            run_in_process.run(definition, recorded, given, report, on_progress)


def stats(
    *,
    max_age: timedelta | None = None,
    sync: SyncDefinition | str | None = None,
    mapping: str | Path | None = None,
    instance: dg.DagsterInstance | None = None,
) -> StatsReport:
    """Count both sides, and look up in ``instance`` the last sync of these two sides that succeeded. The failure is a
    `ConfigurationError` or `NotAttempted` where a side cannot be counted, `SyncOverdue` where no sync has succeeded
    within ``max_age``."""
    report = StatsReport()
    with _ending(report):
        databases = _find_databases(report, sync, mapping)
        from product_sync.orchestration.names import SyncNames
        from product_sync.orchestration.run_history import last_successful_sync
        from product_sync.pipeline import change_pass
        from product_sync.pipeline.pending_diff import CLOCKS_DIFFER
        from product_sync.state.store import StateFolder

        report.source_count, report.target_count = databases.count()
        if followed := change_pass.followed(StateFolder(state_root(os.environ), databases.state_key)):
            for name, value in followed.numbers.items():
                setattr(report, name, value)
        with _recording(instance) as recorded:
            names = SyncNames.of(databases.definition.name)
            if last := last_successful_sync(recorded, names, databases.state_key):
                report.last_sync_at, report.last_sync_run_id = last.ended_at.isoformat(), last.run_id
        # A success that is still to come is of a clock that was ahead, and says nothing.
        if max_age is not None and (last is None or not -CLOCKS_DIFFER <= datetime.now(UTC) - last.ended_at <= max_age):
            ended = f"The last one ended at {last.ended_at:%Y-%m-%d %H:%M:%S} UTC." if last else "None is on record."
            raise SyncOverdue(
                f"No sync has succeeded in the last {_in_words(max_age)}. {ended}",
                hint="See whether the schedule is on and the daemon runs, and why the last runs failed.",
            )
    return report


def _in_words(age: timedelta) -> str:
    """In the largest unit that leaves a whole number."""
    seconds = age.total_seconds()
    units = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))
    length, unit = next((each for each in units if seconds and seconds % each[0] == 0), units[-1])
    return f"{seconds / length:g} {unit}{'' if seconds == length else 's'}"


def show(
    product_id: str, *, sync: SyncDefinition | str | None = None, mapping: str | Path | None = None
) -> ProductReport:
    """Look up one product on both sides, as they are now, and in what the last runs left of it. Writes nothing.

    ``product_id`` is the id as the target has it; several documents may have it as their text. The extended JSON of an
    ``_id``, as the quarantine names it, is understood too. The failure is a `ConfigurationError` or `NotAttempted`
    where a side cannot be read; a product that differs, or is nowhere, is an answer.
    """
    report = ProductReport(id=product_id)
    with _ending(report):
        databases, root = _find_databases(report, sync, mapping), state_root(os.environ)
        from product_sync.state.storage_errors import local_storage
        from product_sync.support.show import show_product

        with local_storage(root):
            show_product(report, databases, root)
    return report


def quarantine(
    *,
    reasons: Iterable[str] = (),
    sync: SyncDefinition | str | None = None,
    mapping: str | Path | None = None,
) -> QuarantineListing:
    """List the documents that cannot be copied, as the last sync left them, and what to do about each reason.
    ``reasons`` are codes; a document that has one of them is listed with all that keeps it out. Iterate over
    ``entries`` of the report: they are read as you go. Neither database is read where the state folder says enough."""
    report = QuarantineListing()
    with _ending(report):
        databases = _find_databases(report, sync, mapping)
        from product_sync.support.quarantine_listing import list_quarantine

        list_quarantine(report, databases, state_root(os.environ), list(reasons))
    return report


def doctor(*, sync: SyncDefinition | str | None = None, mapping: str | Path | None = None) -> DoctorReport:
    """Check both connections separately, so that one that is down does not hide the other. The report's ``failure`` is
    the first thing that would keep a sync from working."""
    from product_sync.orchestration.instance import check_instance
    from product_sync.orchestration.schedules import check_schedule
    from product_sync.support.doctor import examine

    report = DoctorReport()
    with _ending(report):
        definition: SyncDefinition | MappingError
        try:
            definition = _find(report, sync, mapping)
        except MappingError as error:
            definition = error
        examine(report, definition, os.environ, check_schedule, check_instance)
    return report


def names(mapping: str | Path | None = None) -> list[str]:
    return [definition.name for definition in load_definitions(os.environ, mapping)]


def _find(report: Report, sync: SyncDefinition | str | None, mapping: str | Path | None) -> SyncDefinition:
    """The sync that is meant, which the report names from then on."""
    definition = sync if isinstance(sync, SyncDefinition) else _named(sync, load_definitions(os.environ, mapping))
    report.sync = definition.name
    return definition


def _named(name: str | None, known: Sequence[SyncDefinition]) -> SyncDefinition:
    found = [definition for definition in known if name in (None, definition.name)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(definition.name for definition in known)
    if name is None:
        raise ConfigurationError(f"There are several syncs: {listed}.", hint="Name the one that you mean.")
    raise ConfigurationError(f"There is no sync {name!r}.", hint=f"The syncs are: {listed}.")


def _find_databases(report: Report, sync: SyncDefinition | str | None, mapping: str | Path | None) -> Databases:
    """Those of `_find`. A variable that is not set, or cannot be an address, is refused here."""
    definition = _find(report, sync, mapping)
    from product_sync.pipeline.databases import Databases
    from product_sync.pipeline.preconditions import address_checks

    for check in address_checks(definition):
        check(os.environ)
    return Databases.of(definition, os.environ)


@contextmanager
def _ending(report: Report) -> Iterator[None]:
    try:
        yield
    except ProductSyncError as error:
        report.failure = error
        if isinstance(report, SyncReport):
            _correct_exit_status(error, report)


def _correct_exit_status(failure: ProductSyncError, report: SyncReport) -> None:
    """Give ``failure`` exit status 1 if it promises that nothing was written and that is not so. Its class cannot know:
    the server that is unreachable before the first batch may be so after the last one (docs/decisions/0087)."""
    counts = {name: getattr(report, name) for name in ("inserted", "updated", "deleted", "taken_back")}
    written = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items() if count)
    if written and failure.exit_status in (ConfigurationError.exit_status, NotAttempted.exit_status):
        failure.exit_status = ProductSyncError.exit_status
        failure.hint = f"{failure.hint} What was written before stays: {written}.".lstrip()


@contextmanager
def _notifying(
    report: SyncReport | ValidationReport, sync: SyncDefinition | str | None, instance: dg.DagsterInstance | None
) -> Iterator[None]:
    """Notify people and monitors of how it ended, also of an error that is no `ProductSyncError`, where nobody else
    does. Of a run in an ``instance`` of the caller's, the caller notifies."""
    started_at, bug = datetime.now(UTC), None
    try:
        yield
    except BaseException as error:
        bug = error
        raise
    finally:
        if instance is None:
            notify(report, bug or report.failure, started_at, sync if isinstance(sync, str) else "")


def notify(
    report: SyncReport | ValidationReport, error: BaseException | None, started_at: datetime, asked_for: str = ""
) -> None:
    """Notify people and monitors of how the command of ``report`` ended. Before its sync is known, it is about the one
    that was ``asked_for``, else about `product`. Raises nothing."""
    if not any(os.environ.get(name) for name in CHANNELS):
        return
    from product_sync.orchestration.after_command import notify_of_command
    from product_sync.orchestration.names import SyncNames

    names = SyncNames.of(report.sync or asked_for or DEFAULT_NAME)
    of_sync = names.changes_job if isinstance(report, SyncReport) and report.scope == "changes" else names.sync_job
    job = names.validate_job if isinstance(report, ValidationReport) else of_sync
    notify_of_command(os.environ, job, error, started_at, names.sync)


@contextmanager
def _recording(instance: dg.DagsterInstance | None) -> Iterator[dg.DagsterInstance]:
    if instance is not None:
        yield instance
        return
    from product_sync.orchestration.instance import open_instance

    with open_instance(os.environ, history_root(os.environ)) as opened:
        yield opened
