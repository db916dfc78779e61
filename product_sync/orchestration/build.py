"""Puts the parts together, for Dagster's processes and for a run inside our own."""

from collections.abc import Iterable

import dagster as dg

from product_sync.orchestration.asset_pages import with_pages
from product_sync.orchestration.assets import sync_assets
from product_sync.orchestration.checks import sync_checks
from product_sync.orchestration.connection_checks import connections
from product_sync.orchestration.console import console
from product_sync.orchestration.executor import in_process_by_default
from product_sync.orchestration.health_sensor import health_sensor
from product_sync.orchestration.io_manager import ParquetIOManager
from product_sync.orchestration.jobs import sync_jobs
from product_sync.orchestration.names import SyncNames
from product_sync.orchestration.resources import Listener, sync_resource
from product_sync.orchestration.schedules import sync_schedule
from product_sync.orchestration.sensors import reap_dead_runs_sensor, tell_of_runs_sensor
from product_sync.schema.definition import SyncDefinition
from product_sync.settings import PageSettings, ScheduleSettings

#: One object for all syncs: Dagster merges definitions only if they share their resources.
_RESOURCE = sync_resource(Listener())


def build_sync_definitions(
    definition: SyncDefinition,
    *,
    schedule: ScheduleSettings | None = None,
    pages: PageSettings | None = None,
    resource: dg.ResourceDefinition = _RESOURCE,
) -> dg.Definitions:
    """Everything that Dagster knows of one sync, to be merged with other syncs and other people's definitions.

    Without ``schedule`` there is none. ``pages`` is for processes that show assets; a run needs none of it.
    """
    names, assets = SyncNames.of(definition.name), sync_assets(definition)
    return dg.Definitions(
        assets=with_pages(names, assets, pages) if pages else assets,
        asset_checks=[*sync_checks(definition), connections(definition)],
        jobs=sync_jobs(definition),
        schedules=[sync_schedule(definition, schedule)] if schedule else [],
        sensors=[reap_dead_runs_sensor, tell_of_runs_sensor, health_sensor(definition)],
        resources={
            "sync": resource,
            names.io_manager: ParquetIOManager(definition=definition),
        },
    )


def build_definitions(
    syncs: Iterable[SyncDefinition],
    *,
    schedule: ScheduleSettings | None = None,
    pages: PageSettings | None = None,
    listener: Listener | None = None,
) -> dg.Definitions:
    """All definitions of a project of ours, as `build_sync_definitions`. ``listener`` is for runs in this process."""
    resource = sync_resource(listener) if listener else _RESOURCE
    each = [build_sync_definitions(sync, schedule=schedule, pages=pages, resource=resource) for sync in syncs]
    return dg.Definitions.merge(*each, dg.Definitions(executor=in_process_by_default, loggers={"console": console}))
