"""What the shop feels is measured honestly: who had to wait counts as having waited, and the arithmetic is right."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest

from product_sync_bench.latency import client, report, results
from product_sync_bench.latency.client import CART, READ, Sample
from product_sync_bench.latency.loading import Load
from product_sync_bench.latency.results import ADAPTIVE, DEFAULT, UNPACED, Felt, Phase, PressureRun, Results, Round


def felt(p99_ms: float) -> dict[str, Felt]:
    return {kind: Felt(500, p99_ms / 4, p99_ms, 3 * p99_ms) for kind in client.KINDS}


def measured(*, adaptive_ms: float = 3.0, adaptive_s: float = 6.0) -> Results:
    rounds = [
        one
        for _ in range(3)
        for one in (
            Round(DEFAULT, 120.0, felt(2.0), felt(2.1)),
            Round(ADAPTIVE, adaptive_s, felt(2.0), felt(adaptive_ms)),
            Round(UNPACED, 3.0, felt(2.0), felt(40.0)),
        )
    ]
    pressure = PressureRun([Phase("before", 1.0, 20_000.0)], [(0.4, "The load gives way")])
    return Results(100_000, 200.0, "2026-11-25", "a machine", {"PostgreSQL": "18"}, 0.1, rounds, [pressure])


def test_a_percentile_is_the_value_that_so_many_do_not_exceed() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [results.percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert results.percentile([7.0], 0.99) == 7


def test_only_what_began_within_the_window_counts() -> None:
    samples = [Sample(at, READ, at / 1000) for at in range(10)] + [Sample(3, CART, 1)]
    found = results.felt(samples, 2, 5)
    assert found[READ].operations == 3
    assert found[READ].max_ms == pytest.approx(4)
    assert found[CART] == Felt(1, 1000, 1000, 1000)


def test_the_goals_are_about_adaptive_pacing_against_the_idle_target_and_the_default_pace() -> None:
    assert [(goal.measured, goal.reached) for goal in results.goals(measured())] == [
        ("1.50", True), ("1.50", True), ("20.0", True),
    ]  # fmt: skip
    assert [goal.reached for goal in results.goals(measured(adaptive_ms=4.1, adaptive_s=30))] == [False, False, False]


def test_one_odd_round_does_not_decide() -> None:
    found = measured()
    found.rounds.append(Round(ADAPTIVE, 600.0, felt(2.0), felt(900.0)))
    assert all(goal.reached for goal in results.goals(found))


def test_the_report_shows_all_paces_beside_the_idle_target_and_names_what_is_not_reached() -> None:
    page = report.render(measured(adaptive_ms=5.0))
    assert "| idle | | | 0.50 | 2.00 | 6.00 |" in page
    for pace, times in ((DEFAULT, "1.05"), (ADAPTIVE, "2.50"), (UNPACED, "20.00")):
        assert f"| {pace}: " in page
        assert f"| {times} | {times} |" in page
    assert page.count("**not reached**") == 2
    assert "The load gives way" in page


def test_figures_are_kept_and_read_again(tmp_path: Path) -> None:
    results.write(tmp_path / "latency.json", measured())
    assert results.read(tmp_path / "latency.json") == measured()


def test_a_rate_is_of_the_rows_that_were_done_within() -> None:
    load = Load(began=0.0, steps=[(1.0, 100), (2.0, 300), (3.0, 400)])
    assert load.rows_per_second(0.0, 2.0) == 150
    assert load.rows_per_second(1.0, 3.0) == 150
    assert load.rows_per_second(3.0, 4.0) == 0


def test_the_shop_reads_and_fills_carts_by_turns_and_feels_a_lock(
    cart_url: str, product_table: str, tmp_path: Path
) -> None:
    with psycopg.connect(cart_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE cart_item (product_id text REFERENCES product, quantity int)")
        connection.execute("INSERT INTO product VALUES ('a', 't', 1, 'i', 's', 1)")
        with client.shopping(cart_url, 50, tmp_path / "samples"):
            deadline = time.monotonic() + 20
            while not connection.execute("SELECT 1 FROM cart_item").fetchone() and time.monotonic() < deadline:
                time.sleep(0.05)
            with connection.transaction():
                connection.execute("LOCK TABLE product")
                time.sleep(0.5)
        (carts,) = connection.execute("SELECT count(*) FROM cart_item").fetchone() or (0,)
    samples = client.read(tmp_path / "samples")
    assert [sample.kind for sample in samples] == [(READ, CART)[number % 2] for number in range(len(samples))]
    assert carts == len(samples) // 2
    # Those who came while the first one waited have waited too: some 25 in half a second.
    assert sum(sample.seconds > 0.1 for sample in samples) >= 10
    assert max(sample.seconds for sample in samples) >= 0.4
