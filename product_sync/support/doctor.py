"""Examines the settings and each connection for ``doctor``. A server that is down does not hide the other one.

The checks are those that a sync makes at its start (`product_sync.pipeline.preconditions`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace

from product_sync.compare.sample import take_sample
from product_sync.compare.snapshot import found_by_column
from product_sync.conversion.document import RowConverter
from product_sync.errors import (
    MappingError,
    NotAttempted,
    ProductSyncError,
    SourceMissing,
    TableError,
    Unreachable,
)
from product_sync.notify.channels import resolve_channels
from product_sync.pipeline.databases import Databases
from product_sync.pipeline.preconditions import Check, denied, problems
from product_sync.results import ConnectionReport, DoctorReport, ErrorInfo
from product_sync.schema.addresses import SourceAddress, TargetAddress
from product_sync.schema.definition import SyncDefinition
from product_sync.schema.row_schema import RowSchema, resolve_mapping
from product_sync.settings import state_root
from product_sync.sources import mongodb
from product_sync.state.access import require_usable
from product_sync.targets.postgres.connection import without_credentials
from product_sync.targets.postgres.health import TargetHealth, health, server_health
from product_sync.targets.postgres.reflection import reflect
from product_sync.verify.checks import mapping_fits_source

_NEEDED = ("SELECT", "INSERT", "UPDATE")
_WITHOUT_DELETE = (
    "DELETE is not granted. Only two things need it: extra=delete, and taking back a product that was deleted while it"
    " was inserted"
)


def examine(
    report: DoctorReport, definition: SyncDefinition | MappingError, env: Mapping[str, str], *more: Check
) -> None:
    """Fill in ``report``. ``report.failure`` is the first problem that would stop a sync. ``definition`` may be the
    error of the mapping file. ``more`` are checks of settings that this layer cannot make."""
    if isinstance(definition, MappingError):
        found = [definition, *problems(None, env, {}, *more)]
        report.mongodb = report.postgres = ConnectionReport(error=_info(definition))
    else:
        found = list(problems(definition, env, {}, *more))
        report.mongodb, of_source = _examine_source(definition, env)
        report.postgres, of_target = _examine_target(definition, env)
        report.failure = of_source or of_target
    report.settings_problems = [str(problem) for problem in found]
    report.failure = next(iter(found), report.failure)
    if report.failure is None and not isinstance(definition, MappingError):
        databases = Databases.of(definition, env)
        _examine_state(report, databases, env)
        _examine_mapping(report, databases)
    _examine_alerts(report, env)


def _examine_state(report: DoctorReport, databases: Databases, env: Mapping[str, str]) -> None:
    """Check the files of this sync. Their folder is known only when both sides are."""
    try:
        require_usable(state_root(env), key=databases.state_key, run_history=False)
    except ProductSyncError as error:
        report.settings_problems.append(str(error))
        report.failure = error


def _examine_mapping(report: DoctorReport, databases: Databases) -> None:
    """Note a filter without an index, and the mapped paths that no document of a sample has, and show one product."""
    try:
        with databases.open_source() as source:
            notes = [source.scan_note()]
            documents = source.sample()
    except ProductSyncError as error:
        report.failure = report.failure or error
        return
    row_schema = databases.row_schema
    sample = take_sample(documents, row_schema)
    found = found_by_column(row_schema, len(documents), RowConverter(row_schema).batch(documents).absent)
    advice = {column.name: sample.advice(column) for column in row_schema.values}
    result = mapping_fits_source(len(documents), row_schema.values, found, advice)
    report.sample_product = list(sample.product)
    if not result.passed:
        notes.append(f"in a sample: {result.description}")
    if any(notes):
        report.mongodb = replace(report.mongodb, notes=list(filter(None, notes)))


def _examine_alerts(report: DoctorReport, env: Mapping[str, str]) -> None:
    channels = resolve_channels(env)
    report.alerts = [url.name for url in channels.alert_urls]
    report.alert_problems = [str(mistake) for mistake in channels.mistakes.values()]
    report.failure = report.failure or next(iter(channels.mistakes.values()), None)


def _answered(error: ProductSyncError) -> bool | None:
    """Whether the server answered; ``None`` if the error does not say it, as for an unusable setting."""
    if isinstance(error, Unreachable):
        return False
    return True if isinstance(error, NotAttempted | SourceMissing) else None


def _examine_source(
    definition: SyncDefinition, env: Mapping[str, str]
) -> tuple[ConnectionReport, ProductSyncError | None]:
    collection = definition.source.collection
    side = ConnectionReport(collection=collection)
    try:
        address = SourceAddress.from_environment(env, definition.source)
        place = mongodb.parse(address)
        side = replace(side, host=place.hosts, database=place.database)
        with mongodb.connect(address) as database:
            found = mongodb.inspect(database, collection)
            side = replace(
                side,
                reachable=True,
                version=found.version,
                latency_ms=round(found.latency_ms, 2),
                privileges=list(found.granted),
                lacking=list(found.lacking),
                replica_set=found.replica_set,
            )
            mongodb.require_readable(database, collection, definition.source.filter, definition.expressions)
    except ProductSyncError as error:
        return replace(side, reachable=side.reachable or _answered(error), error=_info(error)), error
    return side, None


def _examine_target(
    definition: SyncDefinition, env: Mapping[str, str]
) -> tuple[ConnectionReport, ProductSyncError | None]:
    target = definition.target
    side = ConnectionReport(schema=target.db_schema, table_name=target.table)
    try:
        address = TargetAddress.from_environment(env, target)
        host, _, database = without_credentials(address).rpartition("/")
        side = replace(side, host=host, database=database)
        try:
            row_schema = resolve_mapping(definition, reflect(address, target.db_schema, target.table))
        except (TableError, MappingError):
            server = server_health(address)
            side = replace(side, reachable=True, version=server.version, latency_ms=round(server.latency_ms, 2))
            raise
        found = health(address, row_schema)
    except ProductSyncError as error:
        return replace(side, reachable=side.reachable or _answered(error), error=_info(error)), error
    problem = found.problem or denied(found, row_schema.table, _NEEDED)
    return _target_report(side, found, row_schema, problem), problem


def _target_report(
    side: ConnectionReport, found: TargetHealth, row_schema: RowSchema, problem: ProductSyncError | None
) -> ConnectionReport:
    held = asdict(found.privileges)
    return replace(
        side,
        reachable=True,
        error=_info(problem),
        version=found.server.version,
        latency_ms=round(found.server.latency_ms, 2),
        privileges=[name.upper() for name in ("select", "insert", "update", "delete") if held[name]],
        lacking=list(found.privileges.lacking),
        table={column.name: str(column.type) for column in (*row_schema.columns, *row_schema.written_at)},
        notes=_notes(found, row_schema),
    )


def _notes(found: TargetHealth, row_schema: RowSchema) -> list[str]:
    notes = [f"connected as {found.server.role}"]
    if row_schema.tenant:
        tenant = ", ".join(f"{column.name} {column.default}" for column in row_schema.tenant)
        notes.append(f"only the rows of {tenant} are read and written")
    if not found.privileges.delete:
        notes.append(_WITHOUT_DELETE)
    if found.triggers:
        notes.append(f"triggers: {', '.join(found.triggers)}; a dry run will not probe")
    notes += [f"foreign key {key.name} of {key.table}: ON DELETE {key.on_delete}" for key in found.foreign_keys]
    if found.lock_holder:
        notes.append(f"a sync is running: {found.lock_holder}")
    return notes


def _info(problem: ProductSyncError | None) -> ErrorInfo | None:
    return None if problem is None else ErrorInfo.of(problem)
