"""The report: Markdown made of what was measured and of the model, with nothing written in by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from statistics import mean
from typing import Final

from product_sync_bench.shards import model
from product_sync_bench.shards.model import Costs, Place, Predicted, calibrated, predict
from product_sync_bench.shards.results import INITIAL, SCENARIOS, UNCHANGED, Results, Run

_MB: Final = 1e6
_GOAL_TIMES, _GOAL_PEAK_MB, _GOAL_AT = 1.25, 500, (1_000_000, 10_000_000)
#: The model is fitted to runs up to this size, and checked on the others.
_FITTED_UP_TO: Final = 1_000_000
_TABLE_PRODUCTS: Final = 1_000_000_000
_TABLE_WORKERS: Final = (1, 8, 32, 128)
_WHAT_TO_DO: Final = {
    model.WORKERS: "more workers and as many shards, or a longer interval between full syncs with"
    " [passes over the changes](changes.md) between them",
    model.MONGODB: "a larger secondary, or one that only the sync reads: `readPreference` and tags in the URL",
    model.NETWORK: "workers beside MongoDB; compression (`compressors=zstd` in the URL) costs processor time instead",
    model.POSTGRES: "more processors for the target while the first load runs; fewer indexes and triggers on the table",
    model.LOG: "a faster disk for the write-ahead log, or `wal_compression`; it concerns only runs that write much",
    model.STORE: "a bucket in the region of the workers, or several gateways; each worker's own bytes are few",
    model.CORES: "a machine for each server and for the workers",
}


def render(results: Results) -> str:
    """The whole page."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return "\n".join(
        [
            "# What shards cost and what they would give",
            "",
            "Written by `make bench-shards`; the figures of every run are in [shards.json](shards.json).",
            "[scale.md](scale.md) says what shards are, and when to use them.",
            "",
            "Each target is empty at first. Then come an initial load, a run with nothing changed, and one with 1 % of"
            " the rows changed. Catalogues of more than a million products consist of copies of the first million with"
            " later ids. All servers share this machine.",
            "",
            f"{results.machine}. {versions}. The last measurement began at {results.measured_at}, with a load of"
            f" {results.load_before:.1f}.",
            "",
            "## Goals",
            "",
            *_table(("what", "goal", "measured", ""), list(_goals(results))),
            "## In one process",
            "",
            "The command with the state in a folder. Processor time in seconds.",
            "",
            *_table(_ONE_PROCESS, [_one_process(results, run) for run in results.in_one_process()]),
            "## Steps in processes of their own",
            "",
            "Each step runs in a warm worker: a process that has loaded everything, Dagster too. Seconds are means of"
            " the steps of a phase. What Dagster itself does for a step is not included.",
            "",
            *(line for run in _one_worker(results) if run.shards > 2 for line in _steps(run)),
            "## Bytes through the store",
            "",
            *_table(_STORE, [_store(run) for run in _one_worker(results)]),
            "## The model",
            "",
            "A step takes a fixed time, and a time for each product of its shard; a step that works for all shards also"
            " takes a time for each shard. The phases follow one another. Each takes as long as what holds it up most:"
            " the workers, a server's processors, MongoDB's network, PostgreSQL's log, or the store. Costs of a product"
            " are in millionths of a second and in bytes, with the state in the store. Processor time is counted for"
            " each product, also what each step takes once. All bytes from MongoDB are counted for the read, and those"
            " of the log for the load.",
            "",
            *_table(_COSTS, _costs(results)),
            "To be checked, it is fitted to the runs by steps of one worker with up to"
            f" {_FITTED_UP_TO:,} products only. A command also needs its start, taken from the smallest one. What it"
            " predicts for the other runs, all of which wait for their workers or the processors of this machine, and"
            " none for a network, the log or the store:",
            "",
            *_table(("run", "scenario", "measured, s", "predicted, s", "error"), list(_checked(results))),
            f"## {_TABLE_PRODUCTS:,} products",
            "",
            "Computed, not measured: MongoDB and PostgreSQL with 16 processors like this machine's, 10 Gbit/s from"
            " MongoDB, 500 MB/s for PostgreSQL's log, 2.5 GB/s for the store, and one second to start a step. The model"
            f" is fitted to all sizes{_smaller_sizes(results)}. Locks and caches that are too small are not in it, so"
            " take the times as the least.",
            "",
            _read_again(results),
            "",
            *_table(_BILLION, list(_billion(results))),
            *_remedies(results),
        ]
    )  # fmt: skip


_ONE_PROCESS = (
    "products", "scenario", "shards", "s", "times one shard", "processor", "times one shard", "MongoDB", "PostgreSQL",
    "peak, MB",
)  # fmt: skip
_STORE = ("products", "shards", "scenario", "up, MB", "down, MB", "bytes for each product")
_COSTS = (
    "scenario", "phase", "fixed, s", "for each shard, s", "s for a million products", "own processor", "MongoDB",
    "PostgreSQL", "from MongoDB, bytes", "log, bytes", "store, bytes",
)  # fmt: skip
_BILLION = ("workers", "shards", "scenario", "time", "held up most by", "phases")


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [*(f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *rows)), ""]


def _goals(results: Results) -> Iterator[Sequence[str]]:
    at_steps, at_peak = _GOAL_AT
    rows = list[tuple[str, str, float, float]]()
    for run in results.in_one_process():
        if run.products == at_steps and run.shards == 8 and (one := _one_shard(results, run)):
            what = f"8 shards in one process at {run.products:,}, {run.scenario}"
            rows.append((f"{what}: processor time", "× one shard", run.cpu_s / one.cpu_s, _GOAL_TIMES))
            rows.append((f"{what}: seconds", "× one shard", run.wall_s / one.wall_s, _GOAL_TIMES))
    for run in results.by_steps(in_store=True):
        if run.products == at_peak:
            what = f"peak memory of a step at {run.products:,}, {run.scenario}"
            rows.append((what, "MB", run.peak_bytes / _MB, _GOAL_PEAK_MB))
    for what, unit, value, goal in rows:
        yield what, f"at most {goal:g} {unit}", f"{value:.4g}", "reached" if value <= goal else "**not reached**"


def _one_shard(results: Results, run: Run) -> Run | None:
    kind = (run.products, run.scenario)
    return next(
        (each for each in results.in_one_process() if each.shards == 1 and (each.products, each.scenario) == kind), None
    )


def _one_process(results: Results, run: Run) -> Sequence[str]:
    one = _one_shard(results, run) or run
    return (
        f"{run.products:,}", run.scenario, f"{run.shards}", f"{run.wall_s:.2f}", f"{run.wall_s / one.wall_s:.2f}",
        f"{run.cpu_s:.2f}", f"{run.cpu_s / one.cpu_s:.2f}", f"{run.mongodb_s:.2f}", f"{run.postgres_s:.2f}",
        f"{run.peak_bytes / _MB:.0f}",
    )  # fmt: skip


def _one_worker(results: Results) -> list[Run]:
    return [run for run in results.by_steps(in_store=True) if run.workers == 1]


def _steps(run: Run) -> Iterator[str]:
    yield f"{run.products:,} products, {run.shards} shards, {run.scenario}: {run.wall_s:.1f} s one after the other."
    yield ""
    yield from _table(
        ("phase", "steps", "s", "longest", "processor", "peak, MB", "up, MB", "down, MB"),
        [
            (
                phase.name, f"{len(phase.steps)}", f"{mean(step.wall_s for step in phase.steps):.2f}",
                f"{max(step.wall_s for step in phase.steps):.2f}", f"{mean(step.cpu_s for step in phase.steps):.2f}",
                f"{max(step.peak_bytes for step in phase.steps) / _MB:.0f}", f"{phase.up / _MB:.1f}",
                f"{phase.down / _MB:.1f}",
            )
            for phase in run.phases
        ],
    )  # fmt: skip


def _store(run: Run) -> Sequence[str]:
    each = f"{(run.up + run.down) / run.products:.0f}"
    return f"{run.products:,}", f"{run.shards}", run.scenario, f"{run.up / _MB:.1f}", f"{run.down / _MB:.1f}", each


def _fitted(results: Results, scenario: str, *, in_store: bool = True, up_to: float = inf) -> Costs:
    runs = [run for run in results.by_steps(in_store=in_store) if run.scenario == scenario and run.workers == 1]
    return calibrated([run for run in runs if run.products <= up_to])


def _costs(results: Results) -> list[Sequence[str]]:
    return [
        (
            scenario, phase, f"{cost.fixed_s:.2f}", f"{cost.shard_s:.3f}", f"{cost.product_s * 1e6:.2f}",
            *(f"{each * 1e6:.2f}" for each in (cost.cpu_s, cost.mongodb_s, cost.postgres_s)),
            *(f"{each:.0f}" for each in (cost.source_bytes, cost.log_bytes, cost.store_bytes)),
        )
        for scenario in SCENARIOS
        for phase, cost in _fitted(results, scenario).items()
    ]  # fmt: skip


def _checked(results: Results) -> Iterator[Sequence[str]]:
    for run in sorted(results.runs, key=lambda run: run.key):
        if run.workers == 1 and run.products <= _FITTED_UP_TO:
            continue
        place = Place(run.workers or 1, processors=results.processors)
        costs = _fitted(results, run.scenario, in_store=run.in_store, up_to=_FITTED_UP_TO)
        predicted = _seconds(predict(costs, run.products, run.shards, place))
        kind = f"{run.workers} {'worker' if run.workers == 1 else 'workers'}"
        if not run.workers:
            smallest = min(results.in_one_process(), key=lambda each: (each.scenario != run.scenario, each.products))
            if run == smallest:
                continue
            predicted += smallest.wall_s - _seconds(predict(costs, smallest.products, smallest.shards, place))
            kind = "in one process"
        name = f"{run.products:,} products, {run.shards} {'shard' if run.shards == 1 else 'shards'}, {kind}"
        yield name, run.scenario, f"{run.wall_s:.1f}", f"{predicted:.1f}", f"{predicted / run.wall_s - 1:+.0%}"


def _smaller_sizes(results: Results) -> str:
    largest = {each: max(run.products for run in _one_worker(results) if run.scenario == each) for each in SCENARIOS}
    return "".join(f", {each} only up to {most:,}" for each, most in largest.items() if most < max(largest.values()))


def _read_again(results: Results) -> str:
    """What the model does not know of a long initial load."""
    first, unchanged = (
        max((run for run in _one_worker(results) if run.scenario == scenario), key=lambda run: run.key)
        for scenario in (INITIAL, UNCHANGED)
    )
    again = first.source_bytes / first.products / (unchanged.source_bytes / unchanged.products) - 1
    [measured] = [phase.wall_s for phase in first.phases if phase.name == "load"]
    computed = predict(_fitted(results, INITIAL), first.products, first.shards, Place(1))
    [load] = [phase.seconds for phase in computed if phase.phase == "load"]
    return (
        "Nor is it in the model that a row is read from MongoDB again if it is inserted more than a minute after it was"
        f" read. At {first.products:,} products that was so for about {again * 100:.0f} % of the rows, and the load"
        f" took {measured / load:.1f} times as long as computed. At a billion it is so for nearly all."
    )


def _billion(results: Results) -> Iterator[Sequence[str]]:
    for workers in _TABLE_WORKERS:
        shards = model.shards_for(_TABLE_PRODUCTS, workers)
        for scenario in SCENARIOS:
            phases = _in_cluster(results, scenario, workers)
            seconds = _seconds(phases)
            longest = sorted(phases, key=lambda each: -each.seconds)[:3]
            shown = ", ".join(f"{each.phase} {_time(each.seconds)} ({each.held_up_by})" for each in longest)
            yield f"{workers}", f"{shards}", scenario, _time(seconds), _held_up_by(phases), shown


def _in_cluster(results: Results, scenario: str, workers: int) -> list[Predicted]:
    shards = model.shards_for(_TABLE_PRODUCTS, workers)
    return predict(_fitted(results, scenario), _TABLE_PRODUCTS, shards, model.cluster(workers))


def _held_up_by(phases: Sequence[Predicted]) -> str:
    names = {each.held_up_by for each in phases}
    return max(names, key=lambda name: _seconds([each for each in phases if each.held_up_by == name]))


def _remedies(results: Results) -> list[str]:
    found = {
        each.held_up_by
        for workers in _TABLE_WORKERS
        for scenario in SCENARIOS
        for each in _in_cluster(results, scenario, workers)
    }
    return _table(("held up by", "what to do"), [(name, text) for name, text in _WHAT_TO_DO.items() if name in found])


def _seconds(phases: Sequence[Predicted]) -> float:
    return sum(each.seconds for each in phases)


def _time(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes / 60:.1f} h" if minutes >= 100 else f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"
