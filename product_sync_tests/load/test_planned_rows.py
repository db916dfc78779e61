"""Of a plan is executed what both sides still agree with, and of everything else nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

from hypothesis import given

from product_sync.load.loader import WRITES, LoadPolicy
from product_sync.load.planned_rows import keep_planned
from product_sync.schema.records import Op
from product_sync_tests.load.bench import METADATA, Bench, document, make_bench, row
from product_sync_tests.load.test_convergence import EXAMPLES, SOURCE_STATES, TARGET_STATES, Side, bench_of, sides
from product_sync_tests.tables import read_table

EXACTLY = LoadPolicy(only_as_planned=True)


def rows_of(path: Path) -> dict[str, tuple[object, ...]]:
    """The rows of a diff file as they count: all but the mark of an earlier refusal."""
    rows = read_table(path).drop_columns(["refused_before"]).to_pylist()
    return {entry["id"]: tuple(entry.values()) for entry in rows}


def narrow(bench: Bench, planned: Path, ops: tuple[Op, ...] = WRITES) -> int:
    return keep_planned(bench.row_schema, planned, bench.path("diff"), bench.path("kept"), ops, metadata=METADATA)


@EXAMPLES
@given(sides(SOURCE_STATES), sides(TARGET_STATES), sides(SOURCE_STATES), sides(TARGET_STATES))
def test_what_is_kept_is_what_both_diffs_say_and_the_rest_of_the_plan_is_counted(
    source: Side, target: Side, later_source: Side, later_target: Side
) -> None:
    with bench_of(source, target) as then, bench_of(later_source, later_target) as now:
        then.compare()
        now.compare()
        skipped = narrow(now, then.path("diff"), tuple(Op))
        planned, fresh, kept = (rows_of(path) for path in (then.path("diff"), now.path("diff"), now.path("kept")))
    assert set(kept.items()) == set(planned.items()) & set(fresh.items())
    assert skipped == len(planned) - len(kept)


def test_the_order_of_a_diff_is_kept(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a", title="bad")])
    bench.target.refuses = lambda refused: "check_title" if refused["title"] == "bad" else None
    bench.sync()
    bench.source.put(document("c", price=2))
    bench.source.put(document("b"))
    bench.target.rows |= {name: row(name) for name in ("c", "x")}
    bench.compare()
    assert read_table(bench.path("diff"))["id"].to_pylist() == ["b", "c", "x", "a"], "who was refused before is last"
    assert narrow(bench, bench.path("diff")) == 0
    assert read_table(bench.path("kept")).equals(read_table(bench.path("diff")))


def test_a_value_that_changes_just_before_its_batch_is_not_written(tmp_path: Path) -> None:
    bench = make_bench(
        tmp_path, [document("a", price=2), document("b", price=2), document("new")], [row("a"), row("b")]
    )
    bench.compare()
    bench.source.put(document("a", price=3))
    bench.source.put(document("new", title="Another"))
    bench.time.pass_(61)  # then rows to insert are read again too
    result = bench.load(policy=EXACTLY)
    assert (result.inserted, result.updated, result.skipped_since_plan, result.conflicts) == (0, 1, 2, 0)
    assert bench.target.rows == {"a": row("a"), "b": row("b", price=2)}


def test_without_a_plan_the_newer_value_is_written(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a", price=2)], [row("a")])
    bench.compare()
    bench.source.put(document("a", price=3))
    result = bench.load()
    assert (result.updated, result.skipped_since_plan) == (1, 0)
    assert bench.target.rows == {"a": row("a", price=3)}


def test_the_planned_rows_add_up(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document(f"p{number}", price=2) for number in range(5)], [row("p0"), row("p1")])
    bench.compare()
    shutil.copy(bench.path("diff"), bench.path("plan"))
    bench.source.put(document("p0", price=4))
    bench.target.rows["p2"] = row("p2", price=2)
    bench.compare()
    assert narrow(bench, bench.path("plan")) == 2
