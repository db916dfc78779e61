"""The benchmark's arithmetic and its report: medians, ratios, goals, and who is named for what."""

from __future__ import annotations

from pathlib import Path

from product_sync_bench import report, results
from product_sync_bench.contestants import DAGSTER_JOB, EMPTY_JOB, PLAIN_SCRIPT, PRODUCT_SYNC
from product_sync_bench.databases import Felt
from product_sync_bench.measuring import Cost
from product_sync_bench.results import (
    CHANGES,
    COMPUTED,
    DRIFT,
    FLOORS,
    INITIAL,
    IRREGULAR,
    LOOK,
    RACE,
    START,
    UNCHANGED,
    Entry,
    Run,
    Section,
)
from product_sync_bench.verification import Verdict

MB = 1_000_000


def run(wall_s: float, *, status: int = 0, verdict: Verdict | None = None, peak: int = 100 * MB) -> Run:
    return Run(Cost(wall_s, wall_s / 2, peak, status), Felt(), verdict or Verdict(), "boom" if status else "")


def entry(name: str, scenario: str, *runs: Run, group: str = RACE, keeps_table: bool = True) -> Entry:
    return Entry(group, scenario, name, f"how {name} runs", keeps_table, list(runs))


def section(products: int, *entries: Entry) -> Section:
    return Section(products, 615, 3, "2026-11-22 23:00 UTC", "a machine", {"product_sync": "0.1.0"}, 0.1, list(entries))


def race(products: int = MB, ours: float = 5.0) -> Section:
    return section(
        products,
        entry(PRODUCT_SYNC, UNCHANGED, run(ours)),
        entry("merging", UNCHANGED, run(10.0), run(30.0), run(20.0)),
        entry("replacing", UNCHANGED, run(1.0), keeps_table=False),
        entry("losing", UNCHANGED, run(2.0, verdict=Verdict(missing=3))),
        entry("crashing", UNCHANGED, run(3.0, status=1)),
    )


def test_a_time_is_the_median_and_a_peak_the_maximum() -> None:
    one = entry("x", INITIAL, run(3.0, peak=1), run(100.0, peak=9), run(2.0, peak=5))
    assert (one.wall_s, one.peak_bytes) == (3.0, 9)


def test_the_fastest_peer_keeps_the_table_and_gets_the_rows_right() -> None:
    peer = results.fastest_peer(race(), UNCHANGED)
    assert peer is not None
    assert peer.name == "merging"


def test_one_failed_run_among_good_ones_disqualifies() -> None:
    entries = [entry("x", DRIFT, run(1.0), run(1.0, verdict=Verdict(extra=1)), run(1.0))]
    assert results.fastest_peer(section(MB, *entries), DRIFT) is None


def test_a_goal_is_our_time_over_that_of_the_fastest_peer() -> None:
    [wall, memory] = results.goals([race(ours=5.0)])
    assert (wall.measured, wall.limit, wall.reached) == (0.25, 0.5, True)
    assert memory.measured == 100
    assert not results.goals([race(ours=15.0)])[0].reached


def test_dagster_s_own_command_is_compared_with_ours_and_with_the_script_and_is_no_peer() -> None:
    ran = section(
        MB,
        entry(PRODUCT_SYNC, UNCHANGED, run(4.0)),
        entry(DAGSTER_JOB, UNCHANGED, run(4.4)),
        entry(PLAIN_SCRIPT, UNCHANGED, run(4.4)),
    )
    peer = results.fastest_peer(ran, UNCHANGED)
    assert peer is not None
    assert peer.name == PLAIN_SCRIPT
    found = {goal.against: (round(goal.measured, 2), goal.reached) for goal in results.goals([ran])}
    assert found[f"× {PRODUCT_SYNC}"] == (1.1, True)
    assert found[f"× {PLAIN_SCRIPT}"] == (1.0, False)


def test_wall_time_is_no_goal_at_other_sizes() -> None:
    assert results.goals([race(100_000)]) == []


def test_the_cost_per_product_is_compared_between_one_million_and_ten() -> None:
    found = results.goals([race(ours=5.0), race(10 * MB, ours=60.0)])
    growth = next(goal for goal in found if "ten million" in goal.what)
    assert (growth.measured, growth.reached) == (1.2, False)


def test_the_start_is_compared_with_an_empty_job() -> None:
    entries = (
        entry(PRODUCT_SYNC, UNCHANGED, run(4.0), group=START),
        entry(EMPTY_JOB, UNCHANGED, run(3.0), group=START),
    )
    [goal] = results.goals([section(100, *entries)])
    assert (goal.measured, goal.reached) == (1.0, True)


def test_irregular_documents_and_computed_values_are_compared_with_the_plain_path() -> None:
    ran = section(
        MB,
        entry(PRODUCT_SYNC, UNCHANGED, run(4.0)),
        entry(PRODUCT_SYNC, UNCHANGED, run(4.4), group=IRREGULAR),
        entry(PRODUCT_SYNC, UNCHANGED, run(6.4), group=COMPUTED),
    )
    goals = {
        goal.what: (round(goal.measured, 1), goal.reached)
        for goal in results.goals([ran])
        if "documents" in goal.what or "filter" in goal.what
    }
    assert list(goals.values()) == [(1.1, True), (1.6, False)]
    assert f"With a filter and an expression, {UNCHANGED}: 6.40 (1.6 ×) s, exact." in report.render({MB: ran})


def passes(products: int, wall_s: float, look_s: float) -> Section:
    return section(
        products,
        entry(EMPTY_JOB, UNCHANGED, run(2.0), group=FLOORS),
        entry(PRODUCT_SYNC, UNCHANGED, run(wall_s), group=CHANGES),
        entry(LOOK, UNCHANGED, run(look_s), group=CHANGES),
    )


def test_a_pass_is_compared_with_an_empty_job_and_with_another_size() -> None:
    ran = [passes(MB, 2.5, 0.02), passes(10 * MB, 3.0, 0.2)]
    found = [(round(goal.measured, 2), goal.limit, goal.reached) for goal in results.goals(ran)]
    assert found == [(1.2, 1.1, False), (0.5, 0.6, True), (0.02, 0.1, True), (1.0, 0.6, False), (0.2, 0.1, False)]
    assert f"| {UNCHANGED} | {LOOK} | 0.020 |" in report.render({MB: ran[0]})
    assert results.goals([passes(100_000, 9.0, 9.0)]) == []


def test_the_table_names_who_lost_rows_and_who_failed() -> None:
    lines = report.render({MB: race()}).splitlines()
    losing = next(line for line in lines if line.startswith("| losing"))
    assert "**3 rows missing**" in losing
    assert "2.00 **failed** (0.4 ×)" in losing
    assert any("**exit status 1**" in line for line in lines if line.startswith("| crashing"))
    assert "- crashing: ended with 1: `boom`" in lines
    assert next(line for line in lines if line.startswith("| merging")).endswith("| exact |")


def test_an_altered_table_and_tables_left_behind_are_named_and_described() -> None:
    harm = Verdict(altered_table=["price: integer became bigint"], left_behind=["public.load_17", "public.load_18"])
    text = report.render({MB: section(MB, entry("x", INITIAL, run(1.0, verdict=harm)))})
    assert "alters the table; leaves tables behind" in text
    assert "- x: price: integer became bigint" in text
    assert "- x: left behind: public.load" in text


def test_nothing_written_is_shown_as_zero() -> None:
    assert "| 0 / 0 / 0 | 0 | 0.0 |" in report.render({MB: race()})


def test_a_table_keeps_its_columns_when_a_cell_holds_a_bar() -> None:
    assert report.table(("a", "b"), [("1", "x|y")]) == ["| a | b |", "| ---: | --- |", "| 1 | x\\|y |"]


def test_figures_survive_being_kept(tmp_path: Path) -> None:
    kept = {MB: race(), 100: section(100)}
    results.write(tmp_path / "new" / "figures.json", kept)
    assert results.read(tmp_path / "new" / "figures.json") == kept
    assert results.read(tmp_path / "absent.json") == {}
