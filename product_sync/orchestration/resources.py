"""What a run is configured with: the two connections, the sync's settings, and who hears of its progress.

Every field may be left out; the environment is asked for it when the run starts (`product_sync.settings`), never when
definitions load. One resource, ``sync``, holds the switches of the whole run, so that the Materialize button of
the UI takes them too: ``resources: {sync: {config: {dry_run: true}}}``.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import dagster as dg
from pydantic import Field, PrivateAttr

from product_sync.load.result import LoadResult
from product_sync.notify.channels import require_channels
from product_sync.orchestration import names, run_log
from product_sync.orchestration.dead_runs import process_tags
from product_sync.orchestration.executor import shares_one_process
from product_sync.orchestration.progress_events import signs_of_life
from product_sync.orchestration.run_heartbeat import Heartbeat
from product_sync.orchestration.step_errors import own_errors
from product_sync.pipeline.head_start import HeadStart
from product_sync.pipeline.sync_run import SyncRun, both_sides, open_sync_run, require_writable, resolve_row_schema
from product_sync.runtime import signals
from product_sync.runtime.progress import OnProgress, no_progress
from product_sync.schema.row_schema import RowSchema
from product_sync.settings import (
    SETTING_NAMES,
    SOURCE_PASSWORD,
    SOURCE_URL,
    SOURCE_USER,
    TARGET_URL,
    SourceAddress,
    SyncSettings,
    TargetAddress,
    mapping_path,
    state_root,
)


@dataclass(frozen=True)
class Listener:
    """Who hears of the progress of runs in this process, and what has been read for them already: nobody and nothing,
    in Dagster's own."""

    on_progress: OnProgress = no_progress
    head_start: HeadStart | None = None
    #: What loads in this process have done so far. It is there also where no disk could take it.
    loads: list[LoadResult] = field(default_factory=list)

    def without_head_start(self) -> "Listener":
        """The same, with the head start ended and what it has read forgotten."""
        if self.head_start is not None:
            self.head_start.end()
        return Listener(self.on_progress, loads=self.loads)


class MongoDBResource(dg.ConfigurableResource):  # type: ignore[type-arg] # generic only for type checkers
    """The product service's MongoDB. Holds names of variables, not their values: run config is shown in the UI."""

    url_variable: str = Field(
        default=SOURCE_URL, description="Environment variable that holds the URL, with the database."
    )
    user_variable: str = Field(default=SOURCE_USER, description="Environment variable of the user, if not in the URL.")
    password_variable: str = Field(default=SOURCE_PASSWORD, description="Environment variable of the password.")

    def address(self) -> SourceAddress:
        return SourceAddress.from_environment(os.environ, self.url_variable, self.user_variable, self.password_variable)


class PostgresResource(dg.ConfigurableResource):  # type: ignore[type-arg] # generic only for type checkers
    """The cart service's PostgreSQL. Holds the name of a variable, not its value."""

    url_variable: str = Field(default=TARGET_URL, description="Environment variable that holds the URL.")

    def address(self) -> TargetAddress:
        return TargetAddress.from_environment(os.environ, self.url_variable)


class SyncResource(dg.ConfigurableResource):  # type: ignore[type-arg] # generic only for type checkers
    """The settings of a run. What is left out comes from the environment, then from the defaults."""

    listener: dg.ResourceDependency[Listener]
    mongodb: dg.ResourceDependency[MongoDBResource]
    postgres: dg.ResourceDependency[PostgresResource]
    mapping: str | None = Field(
        default=None, description="Mapping file, as this process sees it. PRODUCT_SYNC_MAPPING, else the six fields."
    )
    dry_run: bool | None = Field(default=None, description="Do everything but write.")
    batch_size: int | None = Field(
        default=None, description="Rows per transaction, 1 to 100000. SYNC_BATCH_SIZE, else 100."
    )
    batch_delay_ms: int | None = Field(
        default=None, description="Milliseconds between two batches, 0 to 3600000. SYNC_BATCH_DELAY_MS, else 100."
    )
    pacing: str | None = Field(
        default=None,
        description="`fixed`: batch_size and batch_delay_ms. `adaptive`: by time, and giving way to the target's users."
        " SYNC_PACING, else fixed.",
    )
    target_batch_s: float | None = Field(
        default=None, description="Adaptive: seconds that the target should work on a batch. Default: 0.006."
    )
    max_duty: float | None = Field(
        default=None,
        description="Adaptive: share of the time, 0 to 1, that the target works for the load. Default: 0.03.",
    )
    extra: str | None = Field(
        default=None, description="`report` or `delete` products that only the target has. Default: report."
    )
    accept_source_count: int | None = Field(
        default=None, description="Accept a source of at least this many documents, even if it has shrunk by 20 %."
    )
    accept_changes: bool | None = Field(default=None, description="Let more than half of the target be overwritten.")
    settle_seconds: float | None = Field(
        default=None,
        description="Seconds between the two readings of a difference before it counts, 0 to 3600. Default: 5.",
    )
    source_recheck_after_s: float | None = Field(
        default=None, description="Seconds after which a product to insert is read again. Default: 60."
    )
    retry_s: float | None = Field(
        default=None, description="Seconds for which one failing batch is retried, 0 to 3600. Default: 60."
    )
    lock_wait_s: float | None = Field(
        default=None,
        description="Seconds to wait for another sync of the same table to end, 0 to 3600. Default: 10.",
    )
    max_isolated_rows: int | None = Field(
        default=None, description="Refused rows that stop the run (or 1 % of the planned rows, if more). Default: 1000."
    )
    max_delete_share: float | None = Field(
        default=None, description="Share of the target, 0 to 1, above which no extra product is deleted. Default: 0.05."
    )
    quarantine_budget: float | None = Field(
        default=None,
        description="Share of the source, 0 to 1, above which quarantined documents turn the run red."
        " SYNC_QUARANTINE_BUDGET, else 0.01.",
    )
    probe: bool | None = Field(
        default=None, description="In a dry run, run a first batch and roll it back. Default: true."
    )
    plan: str | None = Field(
        default=None, description="Execute the plan of this id, which a dry run has made, and nothing else."
    )
    max_plan_age_s: float | None = Field(
        default=None, description="Seconds after which a plan is refused, 0 to 86400. Default: 3600."
    )
    max_drift_growth: float | None = Field(
        default=None, description="Share of a plan by which the drift may have grown since. Default: 0.2."
    )

    _layout: RowSchema | None = PrivateAttr(default=None)
    _heartbeat: Heartbeat | None = PrivateAttr(default=None)
    _has_opened: bool = PrivateAttr(default=False)
    _is_admitted: bool = PrivateAttr(default=False)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Leave on the run where it runs, so that a killed one can be told from a slow one; and lose no Terminate.

        Steps in processes of their own come and go: none of them stands for the run. A dry run is tagged as one,
        whichever switch asked for it.
        """
        signals.resend_lost_interrupts(dg.DagsterExecutionInterruptedError.__name__)
        if context.instance is not None and context.run is not None:
            tags = process_tags() if shares_one_process(context.run) else {}
            if self._is_dry(context.run):
                tags |= {names.DRY_RUN_TAG: "true"}
            if tags:
                context.instance.add_run_tags(context.run.run_id, tags)
        self._heartbeat = Heartbeat()
        if context.log is not None:
            self._heartbeat.of_step("begin", self._reporting(context.log.info, lambda _: None))
        self._heartbeat.start()

    def teardown_after_execution(self, _context: dg.InitResourceContext) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()

    @contextmanager
    def step(
        self, context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, *, begins: bool = False
    ) -> Iterator[SyncRun]:
        """What a step of this run works with. Reads the environment. Within, an error of ours ends the step with its
        own sentence, and an interrupt with what was done until then.

        A step that ``begins`` a run which is going to write is refused where the run could not write, so that nothing
        is read in vain.
        """
        sync_run: SyncRun | None = None
        with own_errors(context.log, lambda: run_log.interrupted(sync_run.loaded_so_far() if sync_run else None)):
            sync_run = self._session(context)
            if begins and not self._is_admitted and _will_load(context) and not sync_run.settings.dry_run:
                require_writable(sync_run.target_address, sync_run.row_schema)
                self._is_admitted = True
            yield sync_run

    def _session(self, context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> SyncRun:
        """The target table is reflected once: all steps of a process see the same columns, and reflecting costs a tenth
        of a second."""
        require_channels(os.environ)
        source, target = self.mongodb.address(), self.postgres.address()
        mapping = mapping_path(os.environ, self.mapping)
        switches = {name: getattr(self, name, None) for name in SETTING_NAMES}
        settings = SyncSettings.resolve(os.environ, {**switches, "dry_run": self._is_dry(context.run)})
        if not self._has_opened:
            context.log.info(run_log.opening(context.run, settings, both_sides(source, target, mapping)))
            self._has_opened = True
        if self._layout is None:
            self._layout = resolve_row_schema(target, mapping, self.listener.head_start)
        report = self._reporting(context.log.info, context.op_execution_context.log_event)
        if self._heartbeat is not None:
            report = self._heartbeat.of_step(context.op_execution_context.op.name, report)
        return open_sync_run(
            source,
            target,
            settings,
            self._layout,
            state_root=state_root(os.environ),
            run_id=context.run.run_id,
            on_progress=report,
            head_start=self.listener.head_start,
            on_load=self.listener.loads.append,
            is_reexecution=context.run.parent_run_id is not None,
        )

    def _reporting(self, log: Callable[[str], None], observe: Callable[[dg.AssetObservation], None]) -> OnProgress:
        return signs_of_life(self.listener.on_progress, log, observe, time.monotonic)

    def _is_dry(self, run: dg.DagsterRun) -> bool:
        """A run is dry as soon as any switch says so: this resource's, or the config of the load."""
        ops = cast("Mapping[str, Any]", run.run_config.get("ops") or {})
        of_load = (ops.get(names.LOAD) or {}).get("config") or {}
        return bool(self.dry_run or of_load.get("dry_run"))


def _will_load(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> bool:
    """Whether the load is a step of this run."""
    return context.op_execution_context.job_def.graph.has_node_named(names.LOAD)
