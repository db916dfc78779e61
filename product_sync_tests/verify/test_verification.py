"""A difference counts only if both readings show it; others are reported as in flight."""

from __future__ import annotations

from pathlib import Path

import pytest
from bson import ObjectId

from product_sync.verify import verification as verify_module
from product_sync_tests.load.bench import Bench, document, make_bench, row


def drifted(folder: Path) -> Bench:
    """One product missing, one changed, one extra; nothing was loaded."""
    bench = make_bench(folder, [document("missing"), document("changed", price=5)], [row("changed"), row("extra")])
    bench.compare()
    return bench


def at_second_reading(bench: Bench, *events: object) -> None:
    """Apply ``events`` after the first reading of the target and before the second."""

    def happen() -> None:
        for event in events:
            assert callable(event)
            event()

    bench.target.script.on("target.fetch", happen)


def test_sides_that_agree_are_valid_and_nobody_waits(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a")], [row("a")])
    bench.compare()
    verification = bench.verify()
    assert verification.valid
    assert (verification.source_count, verification.target_count) == (1, 1)
    assert bench.time.sleeps == []
    assert bench.source.script.calls["source.fetch"] == 0


def test_what_differs_at_both_readings_counts(tmp_path: Path) -> None:
    bench = drifted(tmp_path)
    verification = bench.verify()
    assert not verification.valid
    assert (verification.missing, verification.changed, verification.extra, verification.in_flight) == (1, 1, 1, 0)
    assert verification.missing_ids == ("missing",)
    assert verification.changed_ids == ("changed",)
    assert verification.extra_ids == ("extra",)
    assert bench.time.sleeps == [5.0]


def test_a_target_that_catches_up_was_in_flight(tmp_path: Path) -> None:
    bench = drifted(tmp_path)
    at_second_reading(
        bench,
        lambda: bench.target.rows.update(missing=row("missing"), changed=row("changed", price=5)),
        lambda: bench.target.rows.pop("extra"),
    )
    verification = bench.verify()
    assert verification.valid
    assert (verification.extra, verification.in_flight) == (0, 3)


def test_a_source_that_moves_on_was_in_flight(tmp_path: Path) -> None:
    bench = drifted(tmp_path)
    at_second_reading(
        bench,
        lambda: bench.source.remove("missing"),
        lambda: bench.source.put(document("changed", price=6)),
        lambda: bench.source.put(document("extra")),
    )
    verification = bench.verify()
    assert (verification.missing, verification.changed, verification.extra, verification.in_flight) == (0, 0, 0, 3)


def test_a_missing_product_counts_also_while_its_values_keep_changing(tmp_path: Path) -> None:
    bench = drifted(tmp_path)
    at_second_reading(bench, lambda: bench.source.put(document("missing", quantity=77)))
    assert bench.verify().missing == 1


def test_a_changed_row_that_another_value_took_the_place_of_still_counts(tmp_path: Path) -> None:
    bench = drifted(tmp_path)
    at_second_reading(bench, lambda: bench.target.rows.update(changed=row("changed", price=9)))
    assert bench.verify().changed == 1


def test_an_extra_row_whose_product_came_with_another_type_of_id_was_in_flight(tmp_path: Path) -> None:
    hexadecimal = "507f1f77bcf86cd799439011"
    bench = make_bench(tmp_path, [document("a")], [row("a"), row(hexadecimal)])
    bench.compare()
    bench.source.put(document(ObjectId(hexadecimal)))
    verification = bench.verify()
    assert (verification.extra, verification.in_flight) == (0, 1)


def test_a_document_that_can_no_longer_be_copied_was_in_flight(tmp_path: Path) -> None:
    bench = drifted(tmp_path)
    bench.source.put(document("missing", price="free"))
    verification = bench.verify()
    assert (verification.missing, verification.changed, verification.in_flight) == (0, 1, 1)


def test_rows_that_the_load_saw_refused_are_excused(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, [document("a"), document("b")], [row("extra")])
    bench.target.refuses = lambda new: "price_is_fair" if new["id"] == "a" else None
    verification = bench.sync()
    assert verification.valid
    assert (verification.missing, verification.extra, verification.quarantined) == (0, 1, 1)


def test_many_differences_are_read_again_in_chunks_and_ten_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_module, "_CHUNK_ROWS", 8)
    bench = make_bench(tmp_path, [document(f"{number:03}") for number in range(50)])
    bench.compare()
    verification = bench.verify()
    assert (verification.missing, verification.missing_ids) == (50, tuple(f"{number:03}" for number in range(10)))
    assert bench.source.script.calls["source.fetch"] == 7
    assert bench.time.sleeps == [5.0]
