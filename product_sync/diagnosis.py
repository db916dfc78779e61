"""What ``doctor`` looks at, one connection after the other, so that one that is down does not hide the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

from product_sync.adapters import mongodb
from product_sync.adapters.postgres.inspect import TargetHealth, health, server_health
from product_sync.alert_channels import resolve_channels
from product_sync.core.errors import (
    AccessDenied,
    MappingError,
    ProductSyncError,
    SourceMissing,
    TableError,
    TransactionPooling,
    Unreachable,
    Untrusted,
)
from product_sync.core.mapping import load_mapping
from product_sync.reports import ConnectionReport, DoctorReport, ErrorInfo
from product_sync.session import reflect_layout
from product_sync.settings import SourceAddress, TargetAddress, mapping_path


def examine(report: DoctorReport, env: Mapping[str, str]) -> None:
    """Fill in what both servers say; ``report.failure`` is the first thing that would keep a sync from working."""
    report.mongodb = _look(report, lambda: _examine_source(env))
    report.postgres = _look(report, lambda: _examine_target(env))
    _examine_alerts(report, env)


def _examine_alerts(report: DoctorReport, env: Mapping[str, str]) -> None:
    """The channels, by the code that a sync refuses them with."""
    channels = resolve_channels(env)
    report.alerts = [address.name for address in channels.usable]
    report.alert_problems = [str(mistake) for mistake in channels.mistakes.values()]
    report.failure = report.failure or next(iter(channels.mistakes.values()), None)


def _look(
    report: DoctorReport, ask: Callable[[], tuple[ConnectionReport, ProductSyncError | None]]
) -> ConnectionReport:
    try:
        connection, problem = ask()
    except ProductSyncError as error:
        connection, problem = ConnectionReport(reachable=_answered(error), error=_info(error)), error
    report.failure = report.failure or problem
    return connection


def _answered(error: ProductSyncError) -> bool | None:
    """Whether the server answered, as far as the error says. A setting that cannot be used says nothing."""
    if isinstance(error, SourceMissing | AccessDenied | Untrusted):
        return True
    return False if isinstance(error, Unreachable) else None


def _examine_source(env: Mapping[str, str]) -> tuple[ConnectionReport, ProductSyncError | None]:
    address = SourceAddress.from_environment(env)
    collection = load_mapping(mapping_path(env)).source.collection
    with mongodb.connect(address.url, user=address.user, password=address.password) as database:
        found = mongodb.inspect(database, collection)
    problem = source_problem(found, collection)
    return (
        ConnectionReport(
            reachable=True,
            error=_info(problem),
            version=found.version,
            latency_ms=round(found.latency_ms, 2),
            privileges=list(found.granted),
            lacking=list(found.lacking),
            replica_set=found.replica_set,
        ),
        problem,
    )


def source_problem(found: mongodb.SourceHealth, collection: str) -> ProductSyncError | None:
    """What would keep a sync from reading the source."""
    if found.lacking:
        return AccessDenied(
            f"The MongoDB user lacks {', '.join(found.lacking)}.", hint="Grant it the role `read` on the database."
        )
    if found.collection_exists is False:
        return SourceMissing(f"MongoDB has no collection {collection!r}.", hint="Look at the mapping and the URL.")
    return None


def _examine_target(env: Mapping[str, str]) -> tuple[ConnectionReport, ProductSyncError | None]:
    address = TargetAddress.from_environment(env)
    try:
        layout = reflect_layout(address, mapping_path(env))
    except (TableError, MappingError) as error:
        server = server_health(address.url)
        return (
            ConnectionReport(
                reachable=True, error=_info(error), version=server.version, latency_ms=round(server.latency_ms, 2)
            ),
            error,
        )
    found = health(address.url, layout)
    problem = _target_problem(found)
    held = asdict(found.privileges)
    return (
        ConnectionReport(
            reachable=True,
            error=_info(problem),
            version=found.server.version,
            latency_ms=round(found.server.latency_ms, 2),
            privileges=[name.upper() for name in ("select", "insert", "update", "delete") if held[name]],
            lacking=list(found.privileges.lacking),
            table={column.name: str(column.type) for column in layout.columns},
            notes=_notes(found),
        ),
        problem,
    )


def _target_problem(found: TargetHealth) -> ProductSyncError | None:
    if found.transaction_pooling:
        return TransactionPooling("A transaction pooler would void the sync's lock.", hint="Use session pooling.")
    if found.row_security_active:
        return AccessDenied("Row-level security may hide rows from this role.", hint="Use a role with BYPASSRLS.")
    if found.privileges.select and found.privileges.insert and found.privileges.update:
        return None
    return AccessDenied(
        f"The role {found.server.role!r} lacks: {'; '.join(found.privileges.lacking)}.",
        hint="Syncs need SELECT, INSERT and UPDATE; dry runs and validation only SELECT.",
    )


def _notes(found: TargetHealth) -> list[str]:
    notes = [f"connected as {found.server.role}"]
    if found.server.in_recovery:
        notes.append("the server is in recovery: a standby cannot be written to")
    if found.triggers:
        notes.append(f"triggers: {', '.join(found.triggers)}; a dry run will not probe")
    notes += [f"foreign key {key.name} of {key.table}: ON DELETE {key.on_delete}" for key in found.foreign_keys]
    if found.lock_holder:
        notes.append(f"a sync is running: {found.lock_holder}")
    return notes


def _info(problem: ProductSyncError | None) -> ErrorInfo | None:
    return None if problem is None else ErrorInfo(problem.code, problem.message, problem.hint)
