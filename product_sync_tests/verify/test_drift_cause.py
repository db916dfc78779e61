"""Earlier snapshots prove the cause of some differences and not of others.

A history is written as what each reading saw, oldest first: ``S`` of the source, ``T`` of the target, with ``new``
(what the source holds now), ``old`` (what the target holds now), ``other``, ``none`` (no such product), or ``bad`` (in
quarantine).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from product_sync.schema.records import Op
from product_sync.verify.drift_cause import Cause, Explanation, Observation, Side, explain

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = START + timedelta(hours=100)


def at(hour: int) -> datetime:
    return START + timedelta(hours=hour)


def observation(hour: int, word: str) -> Observation:
    side, seen = word.split(":")
    return Observation(
        Side.SOURCE if side == "S" else Side.TARGET,
        at(hour),
        present=seen != "none",
        is_new=seen == "new",
        is_old=seen == "old",
        rejected=("wrong_type",) if seen == "bad" else (),
    )


def explained(op: Op, history: str) -> Explanation:
    return explain(op, [observation(hour, word) for hour, word in enumerate(history.split())], NOW)


@pytest.mark.parametrize(
    ("history", "cause"),
    [
        ("S:none T:none", Cause.CREATION_LOST),
        ("S:none T:none S:new T:none", Cause.CREATION_LOST),
        ("S:new T:new", Cause.DELETED_ON_TARGET),
        ("S:new T:new S:none T:none", Cause.CREATION_LOST),
        ("S:new T:none", Cause.UNKNOWN),
        ("S:bad T:none", Cause.WAS_QUARANTINED),
        ("S:bad T:none S:new T:none", Cause.WAS_QUARANTINED),
        ("S:bad T:none S:new T:new", Cause.DELETED_ON_TARGET),
        ("S:bad T:none S:none T:none", Cause.CREATION_LOST),
        ("", Cause.UNKNOWN),
    ],
)
def test_of_a_missing_product(history: str, cause: Cause) -> None:
    assert explained(Op.INSERT, history).cause is cause


@pytest.mark.parametrize(
    ("history", "cause"),
    [
        ("S:old T:old", Cause.CHANGE_LOST),
        ("S:old T:other", Cause.CHANGE_LOST),
        ("S:old T:old S:new T:old", Cause.CHANGE_LOST),
        ("S:new T:new", Cause.CHANGED_ON_TARGET),
        ("T:new", Cause.CHANGED_ON_TARGET),
        ("S:old T:old S:new T:new", Cause.SET_BACK),
        ("S:new T:new S:old T:old", Cause.CHANGE_LOST),
        ("S:new T:old", Cause.UNKNOWN),
        ("S:other T:other", Cause.UNKNOWN),
        ("S:bad T:old", Cause.WAS_QUARANTINED),
        ("S:bad T:old S:new T:old", Cause.WAS_QUARANTINED),
        ("S:bad T:old S:new T:new", Cause.CHANGED_ON_TARGET),
        ("", Cause.UNKNOWN),
    ],
)
def test_of_a_changed_value(history: str, cause: Cause) -> None:
    assert explained(Op.UPDATE, history).cause is cause


@pytest.mark.parametrize(
    ("history", "cause"),
    [
        ("S:other T:other", Cause.DELETION_LOST),
        ("S:bad T:other", Cause.DELETION_LOST),
        ("S:other T:other S:none T:other", Cause.DELETION_LOST),
        ("S:other T:none S:none T:other", Cause.DELETION_LOST),
        ("S:other T:other S:none T:none", Cause.SET_BACK),
        ("S:none T:none", Cause.UNKNOWN),
        ("S:none T:other", Cause.UNKNOWN),
        ("", Cause.UNKNOWN),
    ],
)
def test_of_a_row_that_only_the_target_has(history: str, cause: Cause) -> None:
    assert explained(Op.EXTRA, history).cause is cause


def test_the_last_change_of_the_source_lies_between_two_readings() -> None:
    between = explained(Op.UPDATE, "S:old T:old S:new T:old")
    assert (between.changed_after, between.changed_before) == (at(0), at(2))
    since = explained(Op.UPDATE, "S:old T:old")
    assert (since.changed_after, since.changed_before) == (at(0), NOW)
    long_ago = explained(Op.UPDATE, "S:new T:old")
    assert (long_ago.changed_after, long_ago.changed_before) == (None, at(0))
    unseen = explained(Op.UPDATE, "T:old")
    assert (unseen.changed_after, unseen.changed_before) == (None, None)


def test_where_nothing_is_proven_it_is_said_how_long_the_difference_has_been_there() -> None:
    assert "It already differed on 2026-01-01 01:00:00" in explained(Op.UPDATE, "S:new T:old S:new T:old").because
    assert "do not show the cause" in explained(Op.UPDATE, "S:other T:other").because
    assert explained(Op.UPDATE, "").because == "No earlier snapshot is kept."


words = st.sampled_from([f"{side}:{seen}" for side in "ST" for seen in ("new", "old", "other", "none")] + ["S:bad"])


@given(st.sampled_from(list(Op)), st.lists(words, max_size=10), st.randoms())
def test_no_history_is_without_an_answer_and_the_order_in_which_it_is_told_does_not_matter(
    op: Op, history: list[str], random: Random
) -> None:
    observations = [observation(hour, word) for hour, word in enumerate(history)]
    told = explain(op, observations, NOW)
    assert told.because
    shuffled = list(observations)
    random.shuffle(shuffled)
    assert explain(op, shuffled, NOW) == told


@given(st.lists(words, max_size=10))
def test_a_lost_change_is_never_named_without_a_reading_of_the_source_that_had_the_target_s_value(
    history: list[str],
) -> None:
    told = explained(Op.UPDATE, " ".join(history))
    if told.cause is Cause.CHANGE_LOST:
        assert "S:old" in history
    if told.cause in (Cause.CHANGED_ON_TARGET, Cause.SET_BACK):
        assert "T:new" in history
