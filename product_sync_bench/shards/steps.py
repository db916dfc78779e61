"""Executes the steps of a run as warm workers do: processes that have imported everything and know the store.

They are forked from this process. Between two steps a worker forgets the files of the run, because on many machines a
step seldom meets the worker that made its files.
"""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Final

from product_sync.pipeline import read_back, run_checks, sharded_run
from product_sync.pipeline.databases import Databases
from product_sync.pipeline.load_diff import loaded
from product_sync.pipeline.sync_run import SyncRun, open_sync_run
from product_sync.report import drift_page, drift_report
from product_sync.runtime.progress import no_progress
from product_sync.schema.definition import load_definitions
from product_sync.settings import RunOptions, state_root
from product_sync.state.mirror import mirror_of
from product_sync_bench.measuring import peak_resident
from product_sync_bench.shards.results import Step

#: What one step does. If it returns a number, so many steps follow.
Work = Callable[[SyncRun], object]
#: Called with the name of a phase and its steps, which it has when the block ends.
Around = Callable[[str, list[Step]], AbstractContextManager[None]]
#: The phases in their order, and whether they have a step for each shard.
PHASES: Final = {
    "cut": False, "read": True, "gather": False, "diff": False, "check": False, "begin": False, "load": True,
    "settle": False, "verify": True, "conclude": False,
}  # fmt: skip


@contextmanager
def workers(count: int, env: Mapping[str, str]) -> Iterator[Pool]:
    """So many workers with these variables, warm."""
    with get_context("fork").Pool(count, _begin_worker, [dict(env)]) as pool:
        pool.map(_warm, range(count), chunksize=1)
        yield pool


def execute(pool: Pool, options: RunOptions, run_id: str, around: Around) -> None:
    """Execute the steps of a whole run. Raises what a step raises, and `RuntimeError` if the run proves nothing."""

    def phase(name: str, works: Sequence[Work]) -> list[int]:
        steps: list[Step] = []
        with around(name, steps):
            done = pool.map(partial(_step, options, run_id), works, chunksize=1)
            steps += [step for step, _ in done]
        return [number for _, number in done]

    [shards] = phase("cut", [sharded_run.cut])
    phase("read", [partial(sharded_run.read_and_diff, number=number) for number in range(shards)])
    phase("gather", [sharded_run.gather])
    phase("diff", [SyncRun.diff])
    phase("check", [_check])
    [to_load] = phase("begin", [_begin])
    phase("load", [partial(sharded_run.load, number=number) for number in range(to_load)])
    [to_verify] = phase("settle", [sharded_run.settle])
    if to_verify:
        phase("verify", [partial(sharded_run.verify, number=number) for number in range(to_verify)])
    phase("conclude", [_conclude])


def _begin_worker(env: Mapping[str, str]) -> None:
    os.environ.update(env)


def _warm(_: int) -> None:
    if mirror := mirror_of(state_root(os.environ)):
        mirror.objects.entries("nothing/")


def _step(options: RunOptions, run_id: str, work: Work) -> tuple[Step, int]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (proc(5))
    began, cpu_s = time.perf_counter(), _cpu_s()
    [definition] = load_definitions(os.environ)
    databases, root = Databases.of(definition, os.environ), state_root(os.environ)
    run = open_sync_run(databases, options, state_root=root, run_id=run_id, on_progress=no_progress)
    answer = work(run)
    run.files.publish()
    step = Step(time.perf_counter() - began, _cpu_s() - cpu_s, peak_resident(os.getpid()))
    if mirror_of(root):
        shutil.rmtree(run.files.folder)
    return step, answer if isinstance(answer, int) else 0


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _check(run: SyncRun) -> None:
    run_checks.check_snapshot(run)
    read_back.check_change(run)


def _begin(run: SyncRun) -> int:
    with run.writer(shares_lock=True):
        return sharded_run.begin_load(run)


def _conclude(run: SyncRun) -> None:
    report = drift_report.gather(run, "It was measured.", loaded(run))
    run.folder.write_report(report.run_id, drift_page.render(report, ""))
    if run_checks.check_result(run).proven is None:
        raise RuntimeError("The run does not prove that the copy is right.")
