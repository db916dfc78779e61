"""Predicts how long a run takes with so many products, shards and workers, from what its phases cost when measured.

The phases follow one another. A phase takes as long as what holds it up most: its workers, one of the two servers, the
target's write-ahead log, or the store. Nothing here measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Final

import numpy as np

from product_sync_bench.shards.results import Phase, Run
from product_sync_bench.shards.steps import PHASES

WORKERS, MONGODB, NETWORK, POSTGRES, LOG, STORE, CORES = (
    "workers", "MongoDB's processors", "MongoDB's network", "PostgreSQL's processors", "PostgreSQL's log", "store",
    "processors",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """A step takes ``fixed_s``, and more for each shard of the run and for each product of its own. The rest is for
    each product of the run: processor time of the steps and of the servers, and bytes."""

    fixed_s: float
    shard_s: float
    product_s: float
    cpu_s: float
    mongodb_s: float
    postgres_s: float
    store_s: float
    source_bytes: float
    log_bytes: float
    store_bytes: float


Costs = Mapping[str, PhaseCost]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run takes place. ``start_s`` is what an executor needs to start a step. The servers have so many
    processors like those of the measurement, and so many bytes a second. ``processors`` is what everything shares if it
    is on one machine."""

    workers: int
    start_s: float = 0.0
    mongodb_processors: float = inf
    postgres_processors: float = inf
    network_bytes_s: float = inf
    log_bytes_s: float = inf
    store_bytes_s: float = inf
    processors: float = inf


@dataclass(frozen=True, slots=True)
class Predicted:
    """How long a phase takes, and what holds it up."""

    phase: str
    seconds: float
    held_up_by: str


def predict(costs: Costs, products: int, shards: int, place: Place) -> list[Predicted]:
    """The phases of a run, in their order."""
    return [_phase(name, cost, products, shards, place) for name, cost in costs.items()]


def _phase(name: str, cost: PhaseCost, products: int, shards: int, place: Place) -> Predicted:
    steps = shards if PHASES[name] else 1
    step_s = place.start_s + cost.fixed_s + cost.shard_s * shards + cost.product_s * products / steps
    limits = {
        WORKERS: step_s * ceil(steps / place.workers),
        MONGODB: products * cost.mongodb_s / place.mongodb_processors,
        NETWORK: products * cost.source_bytes / place.network_bytes_s,
        POSTGRES: products * cost.postgres_s / place.postgres_processors,
        LOG: products * cost.log_bytes / place.log_bytes_s,
        STORE: products * cost.store_bytes / place.store_bytes_s,
        CORES: products * (cost.cpu_s + cost.mongodb_s + cost.postgres_s + cost.store_s) / place.processors,
    }
    held_up_by = max(limits, key=limits.__getitem__)
    return Predicted(name, limits[held_up_by], held_up_by)


def calibrated(runs: Sequence[Run]) -> Costs:
    """The costs of the phases of a scenario, from runs of one worker with several sizes and numbers of shards."""
    largest = max(runs, key=lambda run: (run.products, run.shards))
    return {phase.name: _cost(phase, largest, runs) for phase in largest.phases}


def _cost(phase: Phase, of: Run, runs: Sequence[Run]) -> PhaseCost:
    rows, seconds = [], []
    for run in runs:
        for each in run.phases:
            if each.name == phase.name:
                steps = len(each.steps)
                rows.append([1.0, 0.0 if PHASES[each.name] else float(run.shards), run.products / steps])
                seconds.append(each.wall_s / steps)
    fixed_s, shard_s, product_s = fitted(rows, seconds)
    reads, writes = phase.name == "read", phase.name == "load"
    return PhaseCost(
        fixed_s,
        shard_s,
        product_s,
        sum(step.cpu_s for step in phase.steps) / of.products,
        phase.mongodb_s / of.products,
        phase.postgres_s / of.products,
        phase.store_s / of.products,
        of.source_bytes / of.products if reads else 0.0,
        of.log_bytes / of.products if writes else 0.0,
        (phase.up + phase.down) / of.products,
    )


def fitted(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """The factors, none of them negative, with which the columns of ``rows`` add up to ``values``; relative errors
    count, so that small values are as important as large ones."""
    weighted = np.array(rows) / np.array(values)[:, None]
    used = [at for at in range(weighted.shape[1]) if weighted[:, at].any()]
    while True:
        found, *_ = np.linalg.lstsq(weighted[:, used], np.ones(len(values)), rcond=None)
        if (found >= 0).all():
            factors = dict(zip(used, found.tolist(), strict=True))
            return [factors.get(at, 0.0) for at in range(weighted.shape[1])]
        used.remove(used[int(found.argmin())])


#: Dagster's executor for Celery looks for finished steps once a second.
_START_S: Final = 1.0
#: A shard of the table has at most as many products as were measured in one.
_LARGEST_SHARD: Final = 10_000_000


def cluster(workers: int) -> Place:
    """The machines of the table: each server with sixteen processors, a network of 10 Gbit/s, a disk that takes 500 MB
    of the log in a second, and a store that takes and gives 2.5 GB."""
    return Place(workers, _START_S, 16, 16, 1.25e9, 5e8, 2.5e9)


def shards_for(products: int, workers: int) -> int:
    """A multiple of ``workers``, so that none of them waits at the end."""
    return workers * ceil(products / _LARGEST_SHARD / workers)
