"""Puts the parts together, for Dagster's processes and for a run inside our own."""

from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

from product_sync.errors import ConfigurationError
from product_sync.orchestration.assets import sync_assets, with_pages
from product_sync.orchestration.checks import sync_checks
from product_sync.orchestration.console import console
from product_sync.orchestration.executor import IN_PROCESS, in_charge
from product_sync.orchestration.full_proof_check import full_proof_check
from product_sync.orchestration.health_sensor import connection_checks, health_sensor
from product_sync.orchestration.io_manager import TableIOManager
from product_sync.orchestration.jobs import sync_jobs
from product_sync.orchestration.names import SyncNames
from product_sync.orchestration.resources import HOST_RESOURCE, Listener, Steps, sync_resource
from product_sync.orchestration.schedules import sync_schedule
from product_sync.orchestration.sensors import reap_dead_runs_sensor, tell_of_runs_sensor
from product_sync.orchestration.sharded_assets import in_shards
from product_sync.orchestration.watch_sensor import watch_sensor
from product_sync.runtime.hints import SyncCommands
from product_sync.schema.definition import SyncDefinition
from product_sync.settings import PageSettings, RunOptions, ScheduleSettings

#: One object for all syncs: Dagster merges definitions only if they share their resources.
_RESOURCE = sync_resource(Listener())
#: With one of these in every run, no run would compare everything.
_OF_ONE_RUN = {"ids", "changes", "plan"}


def build_sync_definitions(
    definition: SyncDefinition,
    *,
    schedule: ScheduleSettings | None = None,
    pages: PageSettings | None = None,
    options: Mapping[str, Any] | None = None,
    executor: dg.ExecutorDefinition | None = None,
) -> dg.Definitions:
    """Everything that Dagster knows of one sync, to be merged with other syncs and other people's definitions.

    Without ``schedule`` there is none. ``pages`` is for processes that show assets; a run needs none of it. ``options``
    are those of `RunOptions` for every run of this sync; run config overrides them, they override the environment.
    ``executor`` runs the steps of this sync's jobs. Without it one process runs them all; with shards, the executor of
    the project does.

    Raises `ConfigurationError` for an option that does not exist, has no valid value, or is for a single run.
    """
    defaults = RunOptions.resolve({}, options or {}).model_dump(exclude_unset=True)
    if single := _OF_ONE_RUN & defaults.keys():
        raise ConfigurationError(
            f"The options of every run of {definition.name!r} contain {', '.join(sorted(single))}.",
            hint="Expected: options that suit every run. Give this one in the run config of a single run.",
        )
    definition.found_by(SyncCommands(job=SyncNames.of(definition.name).sync_job))
    steps = Steps(definition, HOST_RESOURCE, defaults, shards=defaults.get("shards", 1))
    of_jobs = in_charge(executor) if executor else None if steps.shards > 1 else IN_PROCESS
    return _of_sync(steps, _RESOURCE, schedule, pages, of_jobs)


def _of_sync(
    steps: Steps,
    resource: dg.ResourceDefinition,
    schedule: ScheduleSettings | None,
    pages: PageSettings | None,
    executor: dg.ExecutorDefinition | None,
) -> dg.Definitions:
    definition = steps.definition
    names, assets = SyncNames.of(definition.name), sync_assets(steps)
    if steps.shards > 1:
        assets = in_shards(steps, assets)
    jobs = sync_jobs(definition, steps.resource, executor)
    return dg.Definitions(
        assets=with_pages(names, assets, pages) if pages else assets,
        asset_checks=[
            *sync_checks(steps),
            connection_checks(definition),
            full_proof_check(definition, schedule or ScheduleSettings()),
        ],
        jobs=jobs,
        schedules=[sync_schedule(definition, schedule)] if schedule else [],
        sensors=[
            reap_dead_runs_sensor,
            tell_of_runs_sensor,
            health_sensor(definition),
            *([watch_sensor(steps, schedule, jobs)] if schedule and schedule.changes_seconds else []),
        ],
        resources={steps.resource: resource, names.io_manager: TableIOManager(definition=definition)},
    )


def build_definitions(
    syncs: Iterable[SyncDefinition],
    *,
    schedule: ScheduleSettings | None = None,
    pages: PageSettings | None = None,
    listener: Listener | None = None,
    executor: dg.ExecutorDefinition = IN_PROCESS,
    shards: int = 1,
) -> dg.Definitions:
    """All definitions of a project of ours, as `build_sync_definitions`. ``listener`` is for runs in this process.
    ``shards`` above 1 gives each shard steps of its own."""
    resource = sync_resource(listener) if listener else _RESOURCE
    each = [_of_sync(Steps(sync, shards=shards), resource, schedule, pages, executor) for sync in syncs]
    return dg.Definitions.merge(*each, dg.Definitions(executor=executor, loggers={"console": console}))
