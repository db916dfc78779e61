"""What shards cost is measured step by step, and the model computes with it what it says."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from product_sync.embedded.servers import Servers
from product_sync_bench.shards import measuring, report, results
from product_sync_bench.shards.measuring import Bench, Heat
from product_sync_bench.shards.model import LOG, WORKERS, Place, calibrated, fitted, predict, shards_for
from product_sync_bench.shards.results import INITIAL, SCENARIOS, UNCHANGED, Phase, Results, Run, Step
from product_sync_tests.object_store import S3Server, s3_server

__all__ = ["s3_server"]
MB = 1_000_000


def made_run(products: int, shards: int, workers: int = 1, *, scenario: str = INITIAL, in_store: bool = True) -> Run:
    """A run whose steps need 0.1 s, 3 s for a million products, and gather 0.2 s for each shard."""
    read = Step(0.1 + 3e-6 * products / shards, 2e-6 * products / shards, 300 * MB)
    gather = Step(0.1 + 0.2 * shards, 0.1, 200 * MB)
    load = Step(0.1 + 5e-6 * products / shards, 1e-6 * products / shards, 250 * MB)
    phases = [
        Phase(name, steps, sum(step.wall_s for step in steps), 1e-8 * products, 1e-8 * products, 0.0, products, 0)
        for name, steps in (("read", [read] * shards), ("gather", [gather]), ("load", [load] * shards))
    ]
    wall_s = sum(phase.wall_s for phase in phases) + (0 if workers else 2)
    servers_s, felt = (1.0, 1.0, 0.0), (200 * products, 500 * products, 3 * products, 0)
    kind = (scenario, products, shards, workers, in_store)
    return Run(*kind, wall_s, wall_s, 300 * MB, *servers_s, *felt, phases if workers else [])


SOME = [made_run(100_000, 8), made_run(MB, 2), made_run(MB, 8)]


def test_the_model_finds_the_parts_of_which_steps_consist() -> None:
    costs = calibrated(SOME)
    read, gather = costs["read"], costs["gather"]
    assert (read.fixed_s, read.shard_s, read.product_s) == pytest.approx((0.1, 0.0, 3e-6))
    assert (gather.fixed_s, gather.shard_s, gather.product_s) == pytest.approx((0.1, 0.2, 0.0))
    assert (read.source_bytes, gather.source_bytes, costs["load"].log_bytes) == (200, 0, 500)
    assert fitted([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]], [3.0, 2.0, 1.0])[1] == 0.0, "no part is negative"


def test_a_phase_takes_as_long_as_what_holds_it_up() -> None:
    costs = calibrated(SOME)
    read, gather, load = predict(costs, 8 * MB, 8, Place(8))
    assert [each.seconds for each in (read, gather, load)] == pytest.approx([3.1, 1.7, 5.1])
    assert {each.held_up_by for each in (read, gather, load)} == {WORKERS}
    assert predict(costs, 8 * MB, 8, Place(3))[0].seconds == pytest.approx(3 * 3.1), "the last two steps are alone"
    slow = predict(costs, 8 * MB, 8, Place(8, log_bytes_s=4e8))[2]
    assert slow.held_up_by == LOG
    assert slow.seconds == pytest.approx(10)
    assert [shards_for(1_000 * MB, workers) for workers in (8, 32, 128)] == [104, 128, 128]


def test_the_report_shows_goals_errors_and_a_billion_products_of_whatever_was_measured(tmp_path: Path) -> None:
    made = Results("a machine", 2, {"PostgreSQL": "18"}, "2026-11-28", 0.1)
    for scenario in SCENARIOS:
        for products in (100_000, MB):
            for shards in (1, 8):
                made.add(made_run(products, shards, 0, scenario=scenario, in_store=False))
                made.add(made_run(products, 8, scenario=scenario, in_store=False))
            made.add(made_run(products, 8, scenario=scenario))
        made.add(made_run(MB, 2, scenario=scenario))
    made.add(replace(made_run(10 * MB, 8, scenario=UNCHANGED), source_bytes=100 * 10 * MB))
    results.write(tmp_path / "shards.json", made)
    assert results.read(tmp_path / "shards.json") == made
    page = report.render(made)
    assert "| peak memory of a step at 10,000,000, nothing changed | at most 500 MB | 300 | reached |" in page
    assert "8 shards in one process at 1,000,000, initial load: processor time | at most 1.25 × one shard | 1.2" in page
    assert "| 10,000,000 products, 8 shards, 1 worker | nothing changed | 83.3 | 83.3 |" in page
    assert "| 128 | 128 | initial load |" in page
    assert "| PostgreSQL's log |" in page
    assert "fitted to all sizes, initial load only up to 1,000,000, 1 % changed only up to 1,000,000." in page
    assert "At 1,000,000 products that was so for about 100 % of the rows, and the load took 1.0 times as long" in page


def test_runs_of_another_machine_or_commit_are_not_kept() -> None:
    before = Results("a machine", 2, {"commit": "a1"}, "2026-11-28", 0.1, SOME)
    for machine, commit, kept in [("a machine", "a1-dirty", SOME), ("a machine", "b2", []), ("another", "a1", [])]:
        made = Results(machine, 2, {"commit": commit}, "2026-11-29", 0.1)
        made.keep(before)
        assert made.runs == kept


def test_each_step_is_measured_by_itself_on_copies_of_a_catalogue(
    servers: Servers, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "COPIED", 500)
    made: list[Run] = []
    with closing(Bench(servers, s3_server, tmp_path, 1_500, lambda _: None)) as bench:
        bench.prepare()
        bench.measure(Heat(2, 3, in_store=True), (INITIAL, UNCHANGED), made.append)
    first, second = made
    names = [phase.name for phase in first.phases]
    assert names == ["cut", "read", "gather", "diff", "check", "begin", "load", "settle", "verify", "conclude"]
    assert [len(phase.steps) for phase in first.phases if phase.name in ("read", "load", "verify")] == [3, 3, 3]
    assert [phase.name for phase in second.phases if phase.name == "verify"] == []
    assert all(step.wall_s > 0 and step.peak_bytes > 50 * MB for phase in first.phases for step in phase.steps)
    assert first.up > 1_500 * 50, "each row is stored by the step that reads it"
    assert first.source_bytes > 1_500 * 50
    assert first.log_bytes > 1_500 * 100 > second.log_bytes, "the copies have ids of their own"
    assert all(measuring.heats(size)[0] for size in (100, 500, 1_500))
