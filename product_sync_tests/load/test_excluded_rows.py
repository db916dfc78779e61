"""Rows that keep one another out of the target are written in one load; impossible ones are reported."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from product_sync.errors import TransientError
from product_sync.load.deletion import DeletionFacts
from product_sync.load.loader import LoadPolicy
from product_sync.runtime.backoff import RetryPolicy
from product_sync.state import spill
from product_sync_tests.load.bench import Bench, document, make_bench, row

Titles = dict[str, str]
DELETE = DeletionFacts(1, 100, True, ())


def with_titles(folder: Path, wanted: Titles, held: Titles) -> Bench:
    """A target in which no two rows may have the same title. Products and rows by id."""
    bench = make_bench(
        folder,
        [document(name, title=title) for name, title in wanted.items()],
        [row(name, title=title) for name, title in held.items()],
    )
    bench.target.unique = ("title",)
    bench.compare()
    return bench


def titles(bench: Bench) -> Titles:
    return {name: held["title"] for name, held in bench.target.rows.items()}


def numbered(numbers: list[int]) -> Titles:
    return {f"p{place:04}": f"t{number}" for place, number in enumerate(numbers)}


def test_no_row_ever_shows_a_value_that_neither_side_had(tmp_path: Path) -> None:
    wanted = numbered([1, 2, 3, 0, 5, 4])
    bench = with_titles(tmp_path, wanted, numbered(list(range(6))))
    bench.load(batch_size=2)
    assert titles(bench) == wanted
    known = {f"t{number}" for number in range(6)}
    assert all(set(batch.new["title"].to_pylist()) <= known for batch in bench.target.committed)


def test_a_thousand_rows_that_exclude_one_another_are_not_too_many_refusals(tmp_path: Path) -> None:
    count = 1_000
    wanted = numbered([number + 1 for number in range(count)])
    bench = with_titles(tmp_path, wanted, numbered(list(range(count))))
    result = bench.load(batch_size=100, policy=LoadPolicy(isolated_rows=10))
    assert titles(bench) == wanted
    assert (result.stop, result.updated) == (None, count)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(1, 12), st.randoms(use_true_random=False))
def test_any_permutation_converges_in_one_load(count: int, batch_size: int, chance: random.Random) -> None:
    """Values are passed on among products, freed by deletions, and taken by new products."""
    numbers = list(range(count))
    chance.shuffle(numbers)
    held = numbered(list(range(count)))
    wanted = numbered(numbers)
    doomed = {name for name in held if chance.random() < 0.1}
    freed = [wanted.pop(name) for name in doomed]
    wanted |= {f"new{place}": title for place, title in enumerate(freed)}
    with tempfile.TemporaryDirectory() as folder:
        bench = with_titles(Path(folder), wanted, held)
        result = bench.load(
            batch_size=batch_size, deletion_facts=DeletionFacts(len(doomed), count, True, (), max_delete_share=1.0)
        )
        assert titles(bench) == wanted
        assert result.planned == result.inserted + result.updated + result.deleted
        assert (result.excluded, result.quarantined, result.conflicts) == (0, 0, 0)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(1, 5), st.randoms(use_true_random=False), st.data())
def test_killed_anywhere_it_needs_only_to_be_started_again(
    count: int, batch_size: int, chance: random.Random, data: st.DataObject
) -> None:
    numbers = list(range(count))
    chance.shuffle(numbers)
    wanted = numbered(numbers)
    with tempfile.TemporaryDirectory() as folder:
        bench = with_titles(Path(folder), wanted, numbered(list(range(count))))
        bench.target.script.kill_at = bench.target.script.calls.total() + data.draw(st.integers(1, 3 * count))
        try:
            bench.load(batch_size=batch_size)
        except KeyboardInterrupt:
            known = {f"t{number}" for number in range(count)}
            assert set(titles(bench).values()) == known
        bench.target.script.kill_at = None
        assert bench.sync(batch_size=batch_size).valid
        assert titles(bench) == wanted


def test_an_interrupted_load_leaves_no_file_of_waiting_rows_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "WAITING_ROWS", 1)
    bench = with_titles(tmp_path, {"a": "2", "b": "1", "new": "3", "c": "3"}, {"a": "1", "b": "2", "c": "3"})
    bench.target.script.on("target.write_in_order", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as interrupt:
        bench.load(batch_size=1)
    opened = [each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    assert [path for path in opened if path.is_relative_to(tmp_path)] == [], interrupt


def test_a_value_that_an_extra_row_holds_is_free_once_that_is_deleted(tmp_path: Path) -> None:
    bench = with_titles(tmp_path, {"a": "1", "new": "2"}, {"a": "1", "gone": "2"})
    result = bench.load(deletion_facts=DeletionFacts(1, 100, True, ()))
    assert titles(bench) == {"a": "1", "new": "2"}
    assert (result.inserted, result.deleted, result.excluded) == (1, 1, 0)


def test_an_extra_row_that_may_stay_is_named_with_the_way_out(tmp_path: Path) -> None:
    bench = with_titles(tmp_path, {"a": "1", "new": "2"}, {"a": "1", "gone": "2"})
    result = bench.load()
    assert (result.inserted, result.excluded, result.quarantined) == (0, 1, 0)
    [exclusion] = result.exclusions
    assert (exclusion.id, exclusion.other, exclusion.constraint) == ("new", "gone", "unique_title")
    assert exclusion.message == (
        "new is to have the same title as the row gone has (constraint unique_title)."
        " The source does not have that one: a sync with extra=delete deletes it."
    )


def test_two_documents_that_want_one_value_are_both_named_and_count_as_a_difference(tmp_path: Path) -> None:
    bench = with_titles(tmp_path, {"a": "1", "b": "1", "c": "3"}, {"a": "1", "b": "2", "c": "0"})
    verification = bench.sync()
    assert (verification.valid, verification.changed, verification.quarantined) == (False, 1, 0)
    assert bench.load_rejects() == {}
    [exclusion] = bench.result.exclusions
    assert (exclusion.id, exclusion.other, exclusion.constraint) == ("b", "a", "unique_title")
    assert "correct one of them" in exclusion.message
    assert titles(bench) == {"a": "1", "b": "2", "c": "3"}, "the others are written"


def test_of_two_new_products_that_want_one_value_one_is_written(tmp_path: Path) -> None:
    bench = with_titles(tmp_path, {"a": "1", "b": "1", "c": "3"}, {})
    verification = bench.sync()
    assert titles(bench) == {"a": "1", "c": "3"}
    assert (verification.missing, bench.result.inserted, bench.result.excluded) == (1, 2, 1)


def test_who_waits_for_a_row_that_cannot_change_is_told_so(tmp_path: Path) -> None:
    bench = with_titles(tmp_path, {"a": "3", "b": "1", "c": "3"}, {"a": "1", "b": "2", "c": "3"})
    result = bench.load()
    assert (result.updated, result.excluded) == (0, 2)
    told = {exclusion.id: exclusion.message for exclusion in result.exclusions}
    assert "as the row c has" in told["a"]
    assert "as the row a has (constraint unique_title). That one cannot be written either." in told["b"]


def test_a_circle_with_a_bad_document_costs_that_one_and_who_waits_for_it(tmp_path: Path) -> None:
    bench = with_titles(tmp_path, numbered([1, 2, 0, 4, 3]), numbered(list(range(5))))
    bench.target.refuses = lambda new: "check_title" if (new["id"], new["title"]) == ("p0001", "t2") else None
    result = bench.load(batch_size=2)
    assert set(bench.load_rejects()) == {"p0001"}
    assert (result.updated, result.quarantined, result.excluded) == (2, 1, 2)
    assert titles(bench) == numbered([0, 1, 2, 4, 3])


def test_bad_documents_among_them_do_not_make_refusals_of_the_others(tmp_path: Path) -> None:
    wanted, held = numbered([number + 1 for number in range(40)]), numbered(list(range(40)))
    bench = with_titles(tmp_path, {"a1": "bad", "a2": "bad"} | wanted, {"a1": "x", "a2": "y"} | held)
    bench.target.refuses = lambda new: "check_title" if new["title"] == "bad" else None
    result = bench.load(batch_size=100, policy=LoadPolicy(isolated_rows=2))
    assert (result.updated, result.quarantined, result.excluded, result.stop) == (40, 2, 0, None)
    assert titles(bench) == {"a1": "x", "a2": "y"} | wanted


def test_a_table_that_takes_no_parked_value_is_told(tmp_path: Path) -> None:
    bench = with_titles(tmp_path, {"a": "2", "b": "1"}, {"a": "1", "b": "2"})
    bench.target.refuses = lambda new: None if new["title"] in ("1", "2") else "check_title"
    result = bench.load()
    assert (result.updated, result.excluded, result.quarantined) == (0, 2, 0)
    assert result.exclusions[0].message == (
        "a is kept out: 2 rows wait for one another in a circle (a, b), and the value that one of them would have for a"
        " moment is refused: new row violates check_title"
    )


def test_a_row_that_another_client_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    bench = with_titles(tmp_path, {"a": "2", "b": "1", "c": "4", "d": "3"}, {"a": "1", "b": "2", "c": "3", "d": "4"})
    newer = row("b", title="newer", price=7)
    bench.target.script.on("target.write_in_order", lambda: bench.target.rows.update(b=newer))
    result = bench.load()
    assert bench.target.rows["b"] == newer
    assert titles(bench) == {"a": "2", "b": "newer", "c": "4", "d": "3"}
    assert (result.updated, result.conflicts, result.excluded) == (3, 1, 0)


def test_what_the_source_holds_at_last_is_written(tmp_path: Path) -> None:
    bench = with_titles(tmp_path, {"a": "2", "b": "1"}, {"a": "1", "b": "2"})
    bench.target.script.on("target.obstacles", lambda: bench.source.put(document("a", title="9")))
    bench.load()
    assert titles(bench) == {"a": "9", "b": "1"}


@pytest.mark.parametrize("committed", [True, False])
def test_a_circle_whose_commit_answer_was_lost_is_written_once(tmp_path: Path, committed: bool) -> None:
    bench = with_titles(tmp_path, {"a": "2", "b": "1"}, {"a": "1", "b": "2"})
    bench.target.lose_commit_answer(committed=committed)
    result = bench.load()
    assert titles(bench) == {"a": "2", "b": "1"}
    assert (result.updated, result.failed_batches) == (2, 0)


def test_rows_that_wait_are_reported_as_failed_where_the_server_stays_away(tmp_path: Path) -> None:
    bench = with_titles(tmp_path, {"a": "2", "b": "1"}, {"a": "1", "b": "2"})
    bench.target.script.on("target.write_in_order", TransientError("deadlock detected", sqlstate="40P01"))
    result = bench.load(policy=LoadPolicy(retry=RetryPolicy(total_s=0)))
    assert (result.failed_batches, result.updated, result.excluded) == (1, 0, 0)
    assert result.failures[0].keys == ("a", "b")


def with_parents(folder: Path, wanted: dict[str, Any], held: dict[str, Any]) -> Bench:
    """Each row's image is the id of its parent."""
    bench = make_bench(
        folder,
        [document(name, image=parent) for name, parent in wanted.items()],
        [row(name, image=parent) for name, parent in held.items()],
    )
    bench.target.parent = "image"
    bench.compare()
    return bench


@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_children_may_come_before_their_parents(tmp_path: Path, batch_size: int) -> None:
    wanted = {"a": "b", "b": "c", "c": "d", "d": "d", "e": "a", "f": "f"}
    bench = with_parents(tmp_path, wanted, {"f": "f"})
    result = bench.load(batch_size=batch_size)
    assert {name: held["image"] for name, held in bench.target.rows.items()} == wanted
    assert (result.inserted, result.excluded) == (5, 0)


@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_rows_that_refer_to_one_another_come_together(tmp_path: Path, batch_size: int) -> None:
    wanted = {"a": "c", "b": "b", "c": "a", "d": "a"}
    bench = with_parents(tmp_path, wanted, {})
    result = bench.load(batch_size=batch_size)
    assert {name: held["image"] for name, held in bench.target.rows.items()} == wanted
    assert (result.inserted, result.excluded) == (4, 0)


@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_parents_go_after_their_children(tmp_path: Path, batch_size: int) -> None:
    bench = with_parents(tmp_path, {"z": "z"}, {"a": "a", "b": "a", "c": "b", "x": "y", "y": "x", "z": "c"})
    result = bench.load(batch_size=batch_size, deletion_facts=DeletionFacts(5, 100, True, ()))
    assert set(bench.target.rows) == {"z"}
    assert (result.deleted, result.kept_referenced) == (5, 0)


def test_a_parent_that_is_nowhere_is_named(tmp_path: Path) -> None:
    bench = with_parents(tmp_path, {"a": "b", "b": "nowhere", "c": "c"}, {})
    verification = bench.sync(batch_size=1)
    told = {exclusion.id: exclusion.message for exclusion in bench.result.exclusions}
    assert told == {
        "a": "a refers by image to the row b, which is not there and cannot be written either (constraint parent).",
        "b": "b refers by image to the row nowhere, which is not there (constraint parent).",
    }
    assert (verification.valid, verification.missing, verification.quarantined) == (False, 2, 0)


def test_a_new_parent_that_needs_the_childs_value_gets_it(tmp_path: Path) -> None:
    """The child waits for the row that waits for the child's title."""
    bench = make_bench(
        tmp_path,
        [document("child", title="2", image="parent"), document("parent", title="1", image="parent")],
        [row("child", title="1", image="child")],
    )
    bench.target.unique, bench.target.parent = ("title",), "image"
    bench.compare()
    result = bench.load(batch_size=1)
    assert {name: (held["title"], held["image"]) for name, held in bench.target.rows.items()} == {
        "child": ("2", "parent"),
        "parent": ("1", "parent"),
    }
    assert (result.inserted, result.updated, result.excluded) == (1, 1, 0)
