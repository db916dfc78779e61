"""The assets of a sync with shards: graphs of steps, which any executor can place, instead of one step each.

They are made from those of `assets` and have the same keys, checks and metadata. The steps of a graph exchange nothing
but the files of the run (docs/decisions/0198)::

    both snapshots                       cut ─► read[0…n] ─► gather
    load, quarantine, their checks       begin ─► load[0…n] ─► settle ─► verify[0…n] ─► conclude

The diff and the checks before the load stay one step each. A run that looks at some products only is not cut: `gather`
reads them, and one step loads them. A re-executed run may lack the steps before some step of a graph. Such a step does
nothing: the last step of its graph then does the work of all.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import dagster as dg

from product_sync.orchestration import run_log
from product_sync.orchestration.assets import (
    LOAD_CONFIG,
    Asset,
    Results,
    gives_way,
    load_results,
    load_whole,
    record_unfinished_load,
    snapshot_results,
)
from product_sync.orchestration.checks import load_checks
from product_sync.orchestration.names import SyncNames
from product_sync.orchestration.resources import Steps
from product_sync.pipeline import sharded_run
from product_sync.pipeline.load_diff import loaded
from product_sync.pipeline.sync_run import SyncRun
from product_sync.state import store
from product_sync.state.storage_errors import local_storage

#: A step is repeated if its process, a server or the store went away. `StepFailed` says which errors stay.
_RETRY: Final = dg.RetryPolicy(max_retries=3, delay=5, backoff=dg.Backoff.EXPONENTIAL)
_IN, _OUT = dg.In(dg.Nothing), dg.Out(dg.Nothing)
_AFTER: Final = {"after": _IN}
_SHARDS: Final = {"shards": dg.DynamicOut(dg.Nothing)}
_Started = Iterator[dg.DynamicOutput[None] | dg.Output[None]]
_Context = dg.AssetExecutionContext


def in_shards(steps: Steps, made: Sequence[Asset]) -> list[Asset]:
    """The same assets. Those that read, load and verify have a step for each shard."""
    names = SyncNames.of(steps.definition.name)
    graphs = {names.snapshots: _snapshots, names.load: _load}
    return [
        graphs[asset.node_def.name](steps, names, asset)
        if isinstance(asset, dg.AssetsDefinition) and asset.node_def.name in graphs
        else asset
        for asset in made
    ]


def _snapshots(steps: Steps, names: SyncNames, original: dg.AssetsDefinition) -> dg.AssetsDefinition:
    op = partial(_op, steps)

    @op("cut", ins={"source": _IN, "target": _IN}, out=_SHARDS)
    def cut(context: _Context) -> _Started:
        with steps.open(context, begins=True) as run:
            number = sharded_run.cut(run) if run.settings.shards > 1 and not run.is_partial else 0
        yield from _each(number)

    @op("read", ins=_AFTER, out=_OUT)
    def read(context: _Context) -> None:
        with steps.open(context) as run:
            sharded_run.read_and_diff(run, _shard(context))

    @op("gather", ins=_AFTER, out=_outs(original))
    def gather(context: _Context) -> Iterator[dg.MaterializeResult[None]]:
        with steps.open(context) as run:
            source, target = sharded_run.gather(run) if run.files.has(store.CUT) else run.snapshot_both()
            yield from snapshot_results(context, run, source, target)

    @dg.graph(name=names.snapshots, out=_graph_outs(original))
    def snapshots(source: Any, target: Any) -> dict[str, Any]:
        return _by_name(original, gather(after=_map(cut(source=source, target=target), read)))

    return _like(original, snapshots, {"source": names.source, "target": names.target})


def _load(steps: Steps, names: SyncNames, original: dg.AssetsDefinition) -> dg.AssetsDefinition:
    op = partial(_op, steps)

    @op("begin", ins={"diff": _IN, "source": _IN}, out=_SHARDS | {"go": dg.Out(dg.Nothing, is_required=False)})
    def begin(context: _Context) -> _Started:
        with steps.open(context) as run:
            number = _begin_load(context, run) if context.selected_asset_keys else 0
        if number is not None:
            yield dg.Output(None, "go")
            yield from _each(number)

    @op("load", ins=_AFTER, out=_OUT)
    def load(context: _Context) -> None:
        with steps.open(context) as run:
            _load_shard(context, run)

    @op("settle", ins=_AFTER | {"go": _IN}, out=_SHARDS)
    def settle(context: _Context) -> _Started:
        with steps.open(context) as run:
            number = sharded_run.settle(run)
        yield from _each(number)

    @op("verify", ins=_AFTER, out=_OUT)
    def verify(context: _Context) -> None:
        with steps.open(context) as run:
            sharded_run.verify(run, _shard(context))

    @op("conclude", ins=_AFTER | {"go": _IN}, out=_outs(original), config_schema=LOAD_CONFIG)
    def conclude(context: _Context) -> Results:
        with steps.open(context) as run:
            if not context.selected_asset_keys:
                yield from load_checks(context, run)
            elif sharded_run.has_begun(run):
                yield from load_results(context, run, loaded(run))
            else:
                yield from load_whole(context, run)

    config = dg.ConfigMapping(lambda given: {"conclude": {"config": given}}, config_schema=LOAD_CONFIG)

    @dg.graph(name=names.load, out=_graph_outs(original), config=config)
    def load_graph(diff: Any, source: Any) -> dict[str, Any]:
        shards, go = begin(diff=diff, source=source)
        settled = settle(after=_map(shards, load), go=go)
        return _by_name(original, conclude(after=_map(settled, verify), go=go))

    return _like(original, load_graph, {"diff": names.diff, "source": names.source_snapshot})


def _begin_load(context: _Context, run: SyncRun) -> int | None:
    """How many shards there are to load; ``None`` for a run that gives way to another one."""
    if run.settings.dry_run:
        return 0
    try:
        with local_storage(run.folder.root), run.writer(shares_lock=True):
            return sharded_run.begin_load(run)
    except BaseException as error:
        if gives_way(context, run, error):
            return None
        record_unfinished_load(context, run, error)
        raise


def _load_shard(context: _Context, run: SyncRun) -> None:
    if not sharded_run.has_begun(run):
        return
    try:
        with local_storage(run.folder.root):
            result = sharded_run.load(run, _shard(context))
    except BaseException as error:
        record_unfinished_load(context, run, error)
        raise
    context.log.info(run_log.loaded(result))


def _op(steps: Steps, name: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A step that is called ``name`` in its graph. In a job with several syncs, no two ops may have the same name."""
    op = dg.op(
        name=f"{SyncNames.of(steps.definition.name).group}_{name}",
        required_resource_keys=steps.resource_keys,
        retry_policy=_RETRY,
        **options,
    )
    return lambda body: op(body).alias(name)


def _shard(context: _Context) -> int:
    key = context.op_execution_context.get_mapping_key()
    assert key is not None  # noqa: S101 - the step is one of `_map`
    return int(key)


def _each(number: int) -> Iterator[dg.DynamicOutput[None]]:
    for shard in range(number):
        yield dg.DynamicOutput(None, output_name="shards", mapping_key=str(shard))


def _map(started: Any, step: Any) -> Any:
    """Wait for ``step`` of each shard that was started."""
    return started.map(lambda shard: step(after=shard)).collect()


def _outs(original: dg.AssetsDefinition) -> dict[str, dg.Out]:
    return {name: dg.Out(dg.Nothing, is_required=False) for name in _output_names(original)}


def _graph_outs(original: dg.AssetsDefinition) -> dict[str, dg.GraphOut]:
    return {name: dg.GraphOut() for name in _output_names(original)}


def _output_names(original: dg.AssetsDefinition) -> list[str]:
    """Of the assets, then of their checks."""
    return [*original.keys_by_output_name, *(spec.get_python_identifier() for spec in original.check_specs)]


def _by_name(original: dg.AssetsDefinition, outputs: Any) -> dict[str, Any]:
    return {name: getattr(outputs, name) for name in _output_names(original)}


def _like(original: dg.AssetsDefinition, graph: dg.GraphDefinition, inputs: Mapping[str, str]) -> dg.AssetsDefinition:
    """The assets of ``original``, made by ``graph``. ``inputs`` are the assets that its inputs wait for."""
    specs = original.specs_by_key
    return dg.AssetsDefinition.from_graph(
        graph,
        keys_by_input_name={name: dg.AssetKey(asset) for name, asset in inputs.items()},
        keys_by_output_name=original.keys_by_output_name,
        internal_asset_deps={
            name: {dep.asset_key for dep in specs[key].deps} for name, key in original.keys_by_output_name.items()
        },
        check_specs=list(original.check_specs),
        can_subset=True,
    ).map_asset_specs(lambda spec: specs[spec.key])
