"""Refused rows are found, lost answers are asked about, and patience ends."""

from __future__ import annotations

from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from product_sync.errors import RowsRefused, TransientError
from product_sync.load.transactions import RetriesExhausted, Transactions
from product_sync.runtime.backoff import RetryPolicy
from product_sync.schema.ports import WriteBatch, Written
from product_sync_tests.fakes import FakeTarget, FakeTime
from product_sync_tests.load.bench import row
from product_sync_tests.source_contract import product_row_schema
from product_sync_tests.target_contract import table_of, write_batch

ROW_SCHEMA = product_row_schema()


def transactions(target: FakeTarget, time: FakeTime, total_s: float = 60) -> Transactions:
    policy = RetryPolicy(total_s=total_s)
    return Transactions(target, policy, time.timing, on_retry=lambda: None)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["good", "bad"]), max_size=40), st.data())
def test_bisecting_isolates_exactly_the_bad_rows(marks: list[str], data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from("iud"), min_size=len(marks), max_size=len(marks)))
    rows = [row(f"{number:02}", title=mark) for number, mark in enumerate(marks)]
    of_kind = {kind: [held for held, is_kind in zip(rows, kinds, strict=True) if is_kind == kind] for kind in "iud"}
    old = [held | {"price": 1} for held in of_kind["u"]]
    target = FakeTarget(ROW_SCHEMA, [*old, *of_kind["d"]])
    target.refuses = lambda new: "title_is_good" if new["title"] == "bad" else None
    target.referenced = {held["id"] for held in of_kind["d"] if held["title"] == "bad"}
    batch = write_batch(
        ROW_SCHEMA,
        inserts=of_kind["i"],
        updates=list(zip(old, of_kind["u"], strict=True)),
        deletes=of_kind["d"],
    )

    refused, written = list[str](), list[str]()
    for part, outcome in transactions(target, FakeTime()).write_or_bisect(batch):
        if isinstance(outcome, RowsRefused):
            refused += ids(part)
        else:
            assert set(ids(part)) == outcome.inserted | outcome.updated | outcome.deleted
            written += ids(part)

    assert sorted(refused) == [held["id"] for held in rows if held["title"] == "bad"]
    assert sorted(written) == [held["id"] for held in rows if held["title"] == "good"]


def ids(part: WriteBatch) -> list[str]:
    return [str(row_id) for table in (part.inserts, part.new, part.deletes) for row_id in table["id"].to_pylist()]


def test_parts_of_a_batch_are_its_rows_and_share_its_memory() -> None:
    """A value may have 16 MB, and a refused batch is halved until the bad row stands alone."""
    rows = [row(f"{number}", title=f"{number}" * 100_000) for number in range(9)]
    batch = write_batch(ROW_SCHEMA, inserts=rows[:3], updates=[(each, each) for each in rows[3:6]], deletes=rows[6:])
    before = pa.total_allocated_bytes()
    parts = {(offset, length): batch.slice(offset, length) for offset in range(9) for length in range(1, 11)}
    assert pa.total_allocated_bytes() - before < 100_000
    for (offset, length), part in parts.items():
        assert part == batch.take(range(offset, min(offset + length, 9)))


def test_a_batch_without_rows_is_no_transaction() -> None:
    target = FakeTarget(ROW_SCHEMA)
    assert list(transactions(target, FakeTime()).write_or_bisect(write_batch(ROW_SCHEMA))) == []
    assert target.script.log == []


def test_retries_end_when_the_time_of_the_batch_is_up() -> None:
    time, target = FakeTime(), FakeTarget(ROW_SCHEMA)
    lost = TransientError("the server is starting up", connection_lost=True)
    target.script.on("target.write", lost)
    target.script.on("target.reconnect", *[lost] * 100)
    with pytest.raises(RetriesExhausted, match="60 s of retries: the server is starting up") as caught:
        transactions(target, time).write(write_batch(ROW_SCHEMA, inserts=[row("a")]))
    assert caught.value.__cause__ is lost
    assert sum(time.sleeps) == 60


def test_a_new_batch_has_new_time_and_the_connection_stays_known_as_lost() -> None:
    time, target = FakeTime(), FakeTarget(ROW_SCHEMA)
    patient = transactions(target, time, total_s=1)
    lost = TransientError("the server is starting up", connection_lost=True)
    target.script.on("target.write", lost)
    target.script.on("target.reconnect", *[lost] * 5)
    batch = write_batch(ROW_SCHEMA, inserts=[row("a")])
    with pytest.raises(RetriesExhausted):
        patient.write(batch)
    patient.begin_batch()
    assert patient.write(batch) == Written(inserted=frozenset({"a"}))


def test_a_lost_connection_stays_lost_whatever_the_failed_reconnect_says() -> None:
    target = FakeTarget(ROW_SCHEMA)
    target.script.on("target.write", TransientError("gone", connection_lost=True))
    target.script.on("target.reconnect", TransientError("too many connections", connection_lost=False))
    written = transactions(target, FakeTime()).write(write_batch(ROW_SCHEMA, inserts=[row("a")]))
    assert written == Written(inserted=frozenset({"a"}))
    assert target.script.calls["target.reconnect"] == 2


def test_a_lost_answer_is_asked_about_also_when_asking_fails_at_first() -> None:
    target = FakeTarget(ROW_SCHEMA)
    target.lose_commit_answer(committed=True)
    target.script.on("target.happened", TransientError("gone again", connection_lost=True))
    patient = transactions(target, FakeTime())
    assert patient.write(write_batch(ROW_SCHEMA, inserts=[row("a")])) == Written(inserted=frozenset({"a"}))
    assert target.script.log == [
        "target.write",
        "target.reconnect",
        "target.happened",
        "target.reconnect",
        "target.happened",
    ]
    assert patient.retries == 2


@pytest.mark.parametrize("loses", [True, False])
def test_a_commit_counts_only_when_a_crash_could_not_undo_it(loses: bool) -> None:
    target = FakeTarget(ROW_SCHEMA)
    target.crash_before_flush(loses=loses)
    written = transactions(target, FakeTime()).write(write_batch(ROW_SCHEMA, inserts=[row("a")]))
    assert written == Written(inserted=frozenset({"a"}))
    assert list(target.rows) == ["a"]
    assert target.script.calls["target.write"] == (2 if loses else 1)


def test_the_wait_for_the_disk_is_not_the_servers_work() -> None:
    time, target = FakeTime(), FakeTarget(ROW_SCHEMA)
    patient = transactions(target, time)

    def settle() -> None:
        time.pass_(3.0)

    with patch.object(target, "settle", settle):
        patient.write(write_batch(ROW_SCHEMA, inserts=[row("a")]))
    assert time.timing.monotonic() >= 3.0
    assert patient.busy_s == 0.0


def test_two_lost_answers_in_a_row_are_two_questions() -> None:
    target = FakeTarget(ROW_SCHEMA)
    target.lose_commit_answer(committed=False)
    target.lose_commit_answer(committed=True)
    written = transactions(target, FakeTime()).write(write_batch(ROW_SCHEMA, inserts=[row("a")]))
    assert written == Written(inserted=frozenset({"a"}))
    assert target.script.calls["target.happened"] == 2
    assert list(target.rows) == ["a"]


def test_reading_rows_has_the_same_patience() -> None:
    target = FakeTarget(ROW_SCHEMA, [row("a")])
    target.script.on("target.fetch", TransientError("gone", connection_lost=True))
    assert transactions(target, FakeTime()).fetch(["a"]) == table_of(ROW_SCHEMA, [row("a")])
