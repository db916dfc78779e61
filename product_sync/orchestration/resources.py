"""The resource of a run: its options, and the state that the steps of one process share.

Options that the run config leaves out come from the environment when the run starts (`product_sync.settings`), never
when definitions load. One resource holds the options of the whole run, so that the Materialize button of the UI takes
them too: ``resources: {sync: {config: {dry_run: true}}}``. In other people's projects its key is ``product_sync``.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import dagster as dg

from product_sync.load.result import LoadResult
from product_sync.notify.channels import require_channels
from product_sync.orchestration import names, run_log
from product_sync.orchestration.dead_runs import ends_with_its_run
from product_sync.orchestration.failures import own_errors
from product_sync.orchestration.progress_events import Heartbeat, record_progress
from product_sync.orchestration.sqlite_connections import kept_open
from product_sync.pipeline.databases import Databases
from product_sync.pipeline.sharded_run import loaded_so_far
from product_sync.pipeline.sync_run import SyncRun, open_sync_run, require_writable
from product_sync.runtime import signals
from product_sync.runtime.process import collect_again
from product_sync.runtime.progress import OnProgress, no_progress
from product_sync.runtime.typed_settings import Setting
from product_sync.schema.definition import SyncDefinition
from product_sync.settings import RunOptions, state_root
from product_sync.state.storage_errors import local_storage

#: The key of the resource in a project of ours, and in other people's projects, whose own may be called ``sync``.
RESOURCE, HOST_RESOURCE = "sync", "product_sync"
Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext

_TYPES: Mapping[Any, Any] = {bool: dg.BoolSource, int: dg.IntSource, float: float, str: dg.StringSource}


def _config_field(option: Setting) -> dg.Field:
    """An option without a default: the environment may hold the value. Dagster checks the type before the launch."""
    choices = [dg.EnumValue(choice) for choice in option.choices]
    kind = dg.Enum("_or_".join(option.choices), choices) if choices else _TYPES[option.type]
    kind = dg.Array(str) if option.is_list else kind
    return dg.Field(dg.Noneable(kind), is_required=False, description=option.help)


#: The schema of `RunOptions` in the launchpad and in run config.
RUN_CONFIG: Mapping[str, dg.Field] = {name: _config_field(option) for name, option in RunOptions.each().items()}


@dataclass(frozen=True)
class Listener:
    """Receives the progress and the loads of runs in this process. The default does nothing."""

    on_progress: OnProgress = no_progress
    #: What loads in this process have done so far. It is kept even if the disk is full.
    loads: list[LoadResult] = field(default_factory=list)


class RunResource:
    """The options of a run, and the state that its steps in this process share."""

    def __init__(self, listener: Listener, given: Mapping[str, Any]) -> None:
        self._listener = listener
        self._given = given
        self._databases: dict[str, Databases] = {}
        self._heartbeat = Heartbeat()

    @contextmanager
    def at_work(self, context: dg.InitResourceContext) -> Iterator["RunResource"]:
        collect_again()
        signals.resend_lost_interrupts(dg.DagsterExecutionInterruptedError.__name__)
        if context.log is not None:
            report = record_progress(self._listener.on_progress, context.log.info, lambda _: None, time.monotonic)
            self._heartbeat.of_step("begin", report)
        self._heartbeat.start()
        try:
            with kept_open(context.instance, context.run.run_id) if context.instance and context.run else nullcontext():
                yield self
        finally:
            self._heartbeat.stop()

    @contextmanager
    def step(
        self,
        context: Context,
        definition: SyncDefinition,
        defaults: Mapping[str, Any],
        *,
        begins: bool,
    ) -> Iterator[SyncRun]:
        """Run one step of this sync. An error of ours ends the step with its own sentence; an interrupt ends it with
        the counts so far. A step that ``begins`` a run first checks that the run may write, so that nothing is read in
        vain."""
        sync_run: SyncRun | None = None
        with (
            own_errors(context.log, lambda: run_log.interrupted(loaded_so_far(sync_run) if sync_run else None)),
            ends_with_its_run(context.instance, context.run.run_id),
        ):
            sync_run = self._open(context, definition, defaults)
            if begins and _will_load(context, definition) and not sync_run.settings.dry_run:
                require_writable(sync_run.databases)
            with local_storage(sync_run.folder.root):
                try:
                    yield sync_run
                except BaseException:
                    sync_run.publish_unfinished()
                    raise
                sync_run.files.publish()

    def _open(self, context: Context, definition: SyncDefinition, defaults: Mapping[str, Any]) -> SyncRun:
        """Reads the environment. The table is reflected once for all steps of a process, which costs 0.1 s."""
        require_channels(os.environ)
        of_sync = names.SyncNames.of(definition.name)
        given = {**defaults, **{name: value for name, value in self._given.items() if value is not None}}
        dry_run = bool(given.get("dry_run")) or _is_dry(context.run, of_sync)
        options = RunOptions.resolve(os.environ, {**given, "dry_run": dry_run})
        _tag(context, names.DRY_RUN_TAG, "true" if dry_run else "false", default="false")
        _tag(context, names.SCOPE_TAG, options.scope_kind, default="everything")
        databases = self._databases.get(definition.name)
        if databases is None:
            databases = self._databases[definition.name] = Databases.of(definition, os.environ)
            if names.SYNC_TAG not in context.run.tags:
                context.instance.add_run_tags(context.run.run_id, {names.SYNC_TAG: definition.name})
            context.log.info(run_log.opening(context.run, options, definition.labels, str(databases)))
        step = context.op_execution_context
        report = record_progress(self._listener.on_progress, context.log.info, step.log_event, time.monotonic, of_sync)
        return open_sync_run(
            databases,
            options,
            state_root=state_root(os.environ),
            run_id=context.run.run_id,
            on_progress=self._heartbeat.of_step(step.op.name, report),
            on_load=self._listener.loads.append,
            is_reexecution=context.run.parent_run_id is not None,
        )


@dataclass(frozen=True)
class Steps:
    """Opens the steps of one sync. ``resource`` is the key of the resource in its project. The run config overrides the
    options in ``defaults``, and these override the environment. With more than one of ``shards`` each shard has steps
    of its own (`sharded_assets`); a run may still be cut into another number of them."""

    definition: SyncDefinition
    resource: str = RESOURCE
    defaults: Mapping[str, Any] = field(default_factory=dict)
    shards: int = 1

    @property
    def resource_keys(self) -> set[str]:
        return {self.resource}

    def open(self, context: Context, *, begins: bool = False) -> AbstractContextManager[SyncRun]:
        shared: RunResource = getattr(context.resources, self.resource)
        return shared.step(context, self.definition, self.defaults, begins=begins)


def sync_resource(listener: Listener) -> dg.ResourceDefinition:
    @dg.resource(config_schema=RUN_CONFIG, description="The options of a run. The environment holds the others.")
    def sync(context: dg.InitResourceContext) -> Iterator[RunResource]:
        with RunResource(listener, context.resource_config).at_work(context) as resource:
            yield resource

    return sync


def _tag(context: Context, tag: str, value: str, *, default: str) -> None:
    """Tag the run with ``value``, unless it has that already. A re-execution begins with the tags of its parent, whose
    options may have been others."""
    if context.run.tags.get(tag, default) != value:
        context.instance.add_run_tags(context.run.run_id, {tag: value})


def _is_dry(run: dg.DagsterRun, of_sync: names.SyncNames) -> bool:
    """Whether the config of this sync's load makes the run dry. The jobs add their own switches to the options
    (`orchestration.jobs`)."""
    ops = cast("Mapping[str, Any]", run.run_config.get("ops") or {})
    return bool(((ops.get(of_sync.load) or {}).get("config") or {}).get("dry_run"))


def _will_load(context: Context, definition: SyncDefinition) -> bool:
    return context.op_execution_context.job_def.graph.has_node_named(names.SyncNames.of(definition.name).load)
