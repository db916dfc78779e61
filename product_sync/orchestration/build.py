"""Puts the parts together, for Dagster's processes and for a run inside our own."""

from collections.abc import Sequence

import dagster as dg

from product_sync.orchestration.asset_pages import with_pages
from product_sync.orchestration.assets import ASSETS
from product_sync.orchestration.checks import CHECKS
from product_sync.orchestration.connection_checks import connections
from product_sync.orchestration.console import console
from product_sync.orchestration.executor import in_process_by_default
from product_sync.orchestration.health_sensor import health_sensor
from product_sync.orchestration.io_manager import ParquetIOManager
from product_sync.orchestration.jobs import JOBS
from product_sync.orchestration.resources import Listener, sync_resource
from product_sync.orchestration.schedules import sync_schedule
from product_sync.orchestration.sensors import reap_dead_runs_sensor, tell_of_runs_sensor
from product_sync.schema.definition import SyncDefinition
from product_sync.settings import PageSettings, ScheduleSettings


def build_definitions(
    syncs: Sequence[SyncDefinition],
    *,
    schedule: ScheduleSettings | None = None,
    pages: PageSettings | None = None,
    listener: Listener | None = None,
) -> dg.Definitions:
    """All definitions; without ``schedule`` none is made. ``listener`` is for runs in this process.

    ``pages`` is for processes that show assets; a run needs none of it.
    """
    [definition] = syncs
    return dg.Definitions(
        assets=with_pages(ASSETS, pages) if pages else ASSETS,
        asset_checks=[*CHECKS, connections(definition)],
        jobs=JOBS,
        schedules=[sync_schedule(definition, schedule)] if schedule else [],
        sensors=[reap_dead_runs_sensor(definition), tell_of_runs_sensor, health_sensor(definition)],
        resources={
            "sync": sync_resource(definition, listener or Listener()),
            "io_manager": ParquetIOManager(definition=definition),
        },
        executor=in_process_by_default,
        loggers={"console": console},
    )
