"""The properties that the promises rest on, for any state of the two sides."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from product_sync.schema.records import Op
from product_sync_tests.load.bench import Bench, document, make_bench, row
from product_sync_tests.tables import read_table

IDS = [f"p{number}" for number in range(8)]
#: What a side knows of a product: nothing, or its price and quantity; in the source also one that does not fit.
TARGET_STATES = st.none() | st.tuples(st.integers(0, 2), st.integers(0, 1))
SOURCE_STATES = TARGET_STATES | st.just((2.5, 1))
Side = dict[str, Any]
EXAMPLES = settings(max_examples=15, deadline=None)


def sides(states: st.SearchStrategy[Any]) -> st.SearchStrategy[Side]:
    return st.fixed_dictionaries(dict.fromkeys(IDS, states))


@contextmanager
def bench_of(source: Side, target: Side) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as folder:
        yield make_bench(
            Path(folder),
            [document(name, price=state[0], quantity=state[1]) for name, state in source.items() if state],
            [row(name, price=state[0], quantity=state[1]) for name, state in target.items() if state],
        )


def copies(source: Side) -> dict[str, Any]:
    """What the target should hold of the products that can be copied."""
    return {
        name: row(name, price=state[0], quantity=state[1])
        for name, state in source.items()
        if state and state[0] != 2.5
    }


@EXAMPLES
@given(sides(SOURCE_STATES), sides(TARGET_STATES))
def test_the_diff_puts_every_id_in_exactly_one_place(source: Side, target: Side) -> None:
    with bench_of(source, target) as bench:
        counts = bench.compare()
        rows = read_table(bench.path("diff")).to_pylist()
    found = {entry["id"]: entry["op"] for entry in rows}
    assert len(found) == len(rows)
    expected: dict[str, Op] = {}
    for name in IDS:
        new, old = source[name], target[name]
        if (new and new[0] == 2.5) or new == old:
            continue
        expected[name] = Op.EXTRA if new is None else Op.INSERT if old is None else Op.UPDATE
    assert found == expected
    by_op = list(expected.values())
    assert (counts.missing, counts.changed, counts.extra) == tuple(by_op.count(op) for op in Op)
    assert counts.source_count == sum(1 for state in source.values() if state)
    assert counts.target_count == sum(1 for state in target.values() if state)
    assert counts.quarantined == sum(1 for state in source.values() if state and state[0] == 2.5)


@EXAMPLES
@given(sides(SOURCE_STATES), sides(TARGET_STATES), st.integers(1, 9))
def test_applying_the_diff_makes_both_sides_equal(source: Side, target: Side, batch_size: int) -> None:
    with bench_of(source, target) as bench:
        verification = bench.sync(batch_size=batch_size)
        untouched = {name for name in IDS if target[name] and (source[name] is None or source[name][0] == 2.5)}
        assert {name: held for name, held in bench.target.rows.items() if name not in untouched} == copies(source)
        assert verification.valid
        assert (verification.missing, verification.changed, verification.in_flight) == (0, 0, 0)
        assert bench.compare().to_write == 0


@EXAMPLES
@given(sides(SOURCE_STATES), sides(TARGET_STATES), st.integers(1, 4), st.data())
def test_a_load_that_is_killed_at_any_call_needs_only_to_be_started_again(
    source: Side, target: Side, batch_size: int, data: st.DataObject
) -> None:
    with bench_of(source, target) as unharmed:
        unharmed.compare()
        unharmed.source.script.calls.clear()
        unharmed.target.script.calls.clear()
        unharmed.load(batch_size=batch_size)
        reads, writes = unharmed.source.script.calls.total(), unharmed.target.script.calls.total()
    with bench_of(source, target) as bench:
        bench.compare()
        victim = data.draw(st.sampled_from([bench.source.script, bench.target.script]))
        calls = reads if victim is bench.source.script else writes
        victim.kill_at = victim.calls.total() + data.draw(st.integers(1, calls + 1))
        try:
            bench.load(batch_size=batch_size)
        except KeyboardInterrupt:
            assert len(bench.target.committed) <= bench.result.batches
        victim.kill_at = None
        assert bench.sync(batch_size=batch_size).valid
        assert {name: bench.target.rows[name] for name in copies(source)} == copies(source)


@EXAMPLES
@given(st.sets(st.sampled_from(IDS)), st.integers(1, 9))
def test_bad_rows_alone_end_in_quarantine_and_are_excused(bad: set[str], batch_size: int) -> None:
    source = dict.fromkeys(IDS, (1, 1))
    with bench_of(source, {}) as bench:
        bench.compare()
        bench.target.refuses = lambda new: "price_is_fair" if new["id"] in bad else None
        result = bench.load(batch_size=batch_size)
        assert set(bench.load_rejects()) == bad
        assert set(bench.target.rows) == set(IDS) - bad
        assert (result.inserted, result.quarantined) == (len(IDS) - len(bad), len(bad))
        bench.merge_quarantine()
        verification = bench.verify()
        assert (verification.valid, verification.quarantined) == (True, len(bad))


@EXAMPLES
@given(sides(SOURCE_STATES), sides(TARGET_STATES), sides(st.booleans()), sides(st.none() | st.integers(3, 4)))
def test_every_planned_row_is_accounted_for_whatever_happens_around_the_load(
    source: Side, target: Side, refused: Side, events: Side
) -> None:
    with bench_of(source, target) as bench:
        bench.compare()
        bench.target.refuses = lambda new: "price_is_fair" if refused[new["id"]] else None
        for name, price in events.items():
            if price == 3:
                bench.target.rows[name] = row(name, price=price)
            elif price == 4 and source[name]:
                bench.source.remove(name)
        result = bench.load(batch_size=3)
        assert result.failed_batches == 0
        assert result.planned == result.inserted + result.updated + result.conflicts + result.quarantined
        assert all(bench.target.rows[name]["price"] == 3 for name, price in events.items() if price == 3)
