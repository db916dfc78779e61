"""Each failure once, recovery once, no flood, and never a person left with the wrong idea."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from product_sync.notify.alerts import OUTBOX_LENGTH, SUBJECTS, TEXT_LENGTH, AlertState, Level, QuietTimes, StatusUpdate

HOUR = 3_600.0
QUIET = QuietTimes(error_s=HOUR, warn_s=24 * HOUR)
CHECK = "target_matches_source"


def news(level: Level, at: float, name: str = CHECK, text: str = "3 missing.") -> StatusUpdate:
    return StatusUpdate(f"check/{name}", name, level, at, text)


class Story:
    """A book, and what it said in the order in which it said it."""

    def __init__(self, quiet: QuietTimes = QUIET) -> None:
        self.book, self.quiet, self.said = AlertState(), quiet, list[str]()

    def at(self, minute: float, *levels: Level, name: str = CHECK) -> list[str]:
        """News of these levels, all in this minute; returns the titles that were due then."""
        now = minute * 60 + 1_000_000
        messages = self.book.take([news(level, now, name) for level in levels], now, self.quiet)
        self.said += [message.body for message in messages]
        return [message.title.removeprefix("product_sync: ") for message in messages]


def test_a_failure_is_told_at_once_and_only_once() -> None:
    story = Story()
    assert story.at(0, Level.ERROR) == [f"{CHECK} failed"]
    assert story.at(1) == []
    assert story.at(200) == []
    assert "3 missing." in story.said[0]


def test_what_passes_is_no_news() -> None:
    story = Story()
    assert story.at(0, Level.OK) == []
    assert story.book.subjects == {}


def test_recovery_is_told_at_once_and_only_once() -> None:
    story = Story()
    story.at(0, Level.ERROR)
    assert story.at(1, Level.OK) == [f"{CHECK} is in order again"]
    assert "failed since 1970-01-12 13:46 UTC" in story.said[-1]
    assert story.at(2, Level.OK) == []
    assert story.at(500, Level.OK) == []


def test_a_failure_that_lasts_is_told_again_after_the_quiet_time_with_the_count_held_back() -> None:
    story = Story()
    story.at(0, Level.ERROR)
    assert [story.at(minute, Level.ERROR) for minute in (10, 20, 30, 40, 50)] == [[]] * 5
    assert story.at(60, Level.ERROR) == [f"{CHECK} failed"]
    assert "Held back since the last message: 5 more failures." in story.said[-1]


def test_the_end_of_the_quiet_time_tells_what_was_held_back_although_nothing_happens_then() -> None:
    story = Story()
    story.at(0, Level.ERROR)
    story.at(10, Level.OK)
    assert story.at(20, Level.ERROR) == []
    assert story.at(59) == []
    assert story.at(61) == [f"{CHECK} failed"], "nobody is left with 'it is in order again'"


def test_what_failed_and_recovered_between_two_looks_is_told_as_both() -> None:
    book = AlertState()
    failed = news(Level.ERROR, 1_000_000.0, text="Its process was killed.")
    [message] = book.take([failed, news(Level.OK, 1_000_001.0, text="All agree.")], 1_000_015.0, QUIET)
    assert message.title == f"product_sync: {CHECK} failed and is in order again"
    assert message.level is Level.OK
    assert message.body.splitlines() == [
        "Its process was killed.",
        "It had failed since 1970-01-12 13:46 UTC and is in order again.",
    ]
    assert book.take([], 2_000_000.0, QUIET) == []


def test_a_warning_that_is_over_when_it_is_told_is_told_as_a_warning() -> None:
    assert Story().at(0, Level.WARN, Level.OK) == [f"warning from {CHECK}, which is in order again"]


def test_flapping_is_two_messages_an_hour_however_often_it_flaps() -> None:
    story = Story()
    said = [title for minute in range(240) for title in story.at(minute, Level.ERROR, Level.OK)]
    assert said == [f"{CHECK} failed and is in order again"] * 4, "each hour, of what failed and recovered meanwhile"
    held = [int(body.split("last message: ")[1].split()[0]) for body in story.said if "last message: " in body]
    assert held
    told_singly = len(story.said) - len(held)
    assert sum(held) + told_singly <= 240


@pytest.mark.parametrize("apart", [1, 7, 25])
def test_flapping_from_look_to_look_is_two_messages_an_hour_too(apart: int) -> None:
    story = Story()
    said = [
        title
        for minute in range(0, 240, apart)
        for title in story.at(minute, Level.OK if minute // apart % 2 else Level.ERROR)
    ]
    assert len(said) <= 2 * 4
    assert said[:2] == [f"{CHECK} failed", f"{CHECK} is in order again"]


def test_a_warning_has_a_quiet_time_of_its_own() -> None:
    story = Story()
    assert story.at(0, Level.WARN) == [f"warning from {CHECK}"]
    assert story.at(120, Level.WARN) == []
    assert story.at(24 * 60, Level.WARN) == [f"warning from {CHECK}"]


def test_what_becomes_graver_is_told_at_once() -> None:
    story = Story()
    story.at(0, Level.WARN)
    assert story.at(1, Level.ERROR) == [f"{CHECK} failed"]
    assert story.at(2, Level.WARN) == []


def test_a_warning_of_the_day_does_not_hold_back_an_error_after_recovery() -> None:
    story = Story()
    story.at(0, Level.WARN)
    story.at(1, Level.OK)
    assert story.at(2, Level.ERROR) == [f"{CHECK} failed"]


def test_subjects_do_not_hold_each_other_back() -> None:
    story = Story()
    assert story.at(0, Level.ERROR, name="one")
    assert story.at(1, Level.ERROR, name="two")


def test_without_a_quiet_time_every_failure_is_told() -> None:
    story = Story(QuietTimes(0.0, 0.0))
    assert all(story.at(minute, Level.ERROR) for minute in range(5))


levels = st.sampled_from(list(Level))
rounds = st.lists(st.tuples(st.floats(0, 90), st.lists(levels, max_size=3)), max_size=30)


@given(rounds)
def test_every_failure_is_in_a_message_and_people_end_with_the_right_idea(
    story: list[tuple[float, list[Level]]],
) -> None:
    book, now, told, failures = AlertState(), 1_000_000.0, 0, 0
    for minutes, found in [*story, (2_000.0, [])]:
        now += minutes * 60
        failures += sum(level is not Level.OK for level in found)
        for message in book.take([news(level, now) for level in found], now, QUIET):
            held = int(message.body.split("last message: ")[1].split()[0]) if "last message: " in message.body else 0
            told += held + (
                message.level is not Level.OK or "failed and" in message.title or ", which" in message.title
            )
        book = AlertState.from_json(json.loads(json.dumps(book.as_json())))
    assert told == failures
    for subject in book.subjects.values():
        assert subject.told is subject.level


def test_the_book_is_bounded_whatever_happens() -> None:
    book = AlertState()
    for number in range(500):
        book.take([news(Level.ERROR, number, f"check{number}", "x" * 10_000)], number, QUIET)
    assert len(book.subjects) == SUBJECTS
    assert len(book.outbox) == OUTBOX_LENGTH
    assert book.dropped == SUBJECTS - OUTBOX_LENGTH
    assert len(json.dumps(book.as_json())) < (SUBJECTS + OUTBOX_LENGTH) * (TEXT_LENGTH + 500)


@pytest.mark.parametrize("content", [{}, {"subjects": {"a": {"name": 1, "grade": 2}}, "outbox": [], "dropped": 0}])
def test_a_book_of_another_version_is_refused(content: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError)):
        AlertState.from_json(content)


def test_a_clock_that_was_ahead_keeps_nobody_quiet_for_years() -> None:
    story, year = Story(), 365 * 24 * 60
    story.at(10 * year, Level.ERROR)
    assert story.at(0, Level.ERROR) == [], "the quiet time begins when the clock is right again"
    assert story.at(61, Level.ERROR) == [f"{CHECK} failed"]
    assert story.at(62, Level.OK) == [f"{CHECK} is in order again"]
