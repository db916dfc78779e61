"""Each failure once, recovery once, no flood, and people always end with the right picture."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from product_sync.notify.alerts import (
    OUTBOX_LENGTH,
    SUBJECTS,
    TEXT_LENGTH,
    AlertState,
    Level,
    QuietTimes,
    StatusUpdate,
    read_state,
    write_state,
)

HOUR = 3_600.0
QUIET = QuietTimes(error_s=HOUR, warn_s=24 * HOUR)
CHECK = "target_matches_source"


def update(level: Level, at: float, name: str = CHECK, text: str = "3 missing.") -> StatusUpdate:
    return StatusUpdate(f"check/{name}", name, level, at, text)


class Story:
    """An alert state, and the bodies of its messages in their order."""

    def __init__(self, quiet: QuietTimes = QUIET) -> None:
        self.state, self.quiet, self.said = AlertState(), quiet, list[str]()

    def at(self, minute: float, *levels: Level, name: str = CHECK) -> list[str]:
        """Updates of these levels, all in this minute; returns the titles of the messages that are due."""
        now = minute * 60 + 1_000_000
        messages = self.state.add([update(level, now, name) for level in levels], now, self.quiet)
        self.said += [message.body for message in messages]
        return [message.title.removeprefix("product_sync: ") for message in messages]


def test_a_failure_is_sent_at_once_and_only_once() -> None:
    story = Story()
    assert story.at(0, Level.ERROR) == [f"{CHECK} failed"]
    assert story.at(1) == []
    assert story.at(200) == []
    assert "3 missing." in story.said[0]


def test_a_check_that_passes_sends_nothing() -> None:
    story = Story()
    assert story.at(0, Level.OK) == []
    assert story.state.subjects == {}


def test_recovery_is_sent_at_once_and_only_once() -> None:
    story = Story()
    story.at(0, Level.ERROR)
    assert story.at(1, Level.OK) == [f"{CHECK} recovered"]
    assert "failing since 1970-01-12 13:46 UTC" in story.said[-1]
    assert story.at(2, Level.OK) == []
    assert story.at(500, Level.OK) == []


def test_a_lasting_failure_is_sent_again_after_the_quiet_time_with_the_count_held_back() -> None:
    story = Story()
    story.at(0, Level.ERROR)
    assert [story.at(minute, Level.ERROR) for minute in (10, 20, 30, 40, 50)] == [[]] * 5
    assert story.at(60, Level.ERROR) == [f"{CHECK} failed"]
    assert "Held back since the last message: 5 more failures." in story.said[-1]


def test_the_end_of_the_quiet_time_sends_what_was_held_back_even_without_a_new_update() -> None:
    story = Story()
    story.at(0, Level.ERROR)
    story.at(10, Level.OK)
    assert story.at(20, Level.ERROR) == []
    assert story.at(59) == []
    assert story.at(61) == [f"{CHECK} failed"], "nobody is left with 'it recovered'"


def test_a_failure_that_is_over_before_it_was_sent_is_one_message_with_both() -> None:
    state = AlertState()
    failed = update(Level.ERROR, 1_000_000.0, text="Its process was killed.")
    [message] = state.add([failed, update(Level.OK, 1_000_001.0, text="All agree.")], 1_000_015.0, QUIET)
    assert message.title == f"product_sync: {CHECK} failed and recovered"
    assert message.level is Level.OK
    assert message.body.splitlines() == [
        "Its process was killed.",
        "It had been failing since 1970-01-12 13:46 UTC.",
    ]
    assert state.add([], 2_000_000.0, QUIET) == []


def test_a_warning_that_is_over_before_it_was_sent_is_still_called_a_warning() -> None:
    assert Story().at(0, Level.WARN, Level.OK) == [f"{CHECK} gave a warning and recovered"]


def test_flapping_is_two_messages_an_hour_however_often_it_flaps() -> None:
    story = Story()
    said = [title for minute in range(240) for title in story.at(minute, Level.ERROR, Level.OK)]
    assert said == [f"{CHECK} failed and recovered"] * 4, "each hour, of what failed and recovered meanwhile"
    held = [int(body.split("last message: ")[1].split()[0]) for body in story.said if "last message: " in body]
    assert held
    sent_singly = len(story.said) - len(held)
    assert sum(held) + sent_singly <= 240


@pytest.mark.parametrize("apart", [1, 7, 25])
def test_flapping_from_update_to_update_is_two_messages_an_hour_too(apart: int) -> None:
    story = Story()
    said = [
        title
        for minute in range(0, 240, apart)
        for title in story.at(minute, Level.OK if minute // apart % 2 else Level.ERROR)
    ]
    assert len(said) <= 2 * 4
    assert said[:2] == [f"{CHECK} failed", f"{CHECK} recovered"]


def test_a_warning_has_a_quiet_time_of_its_own() -> None:
    story = Story()
    assert story.at(0, Level.WARN) == [f"{CHECK} gave a warning"]
    assert story.at(120, Level.WARN) == []
    assert story.at(24 * 60, Level.WARN) == [f"{CHECK} gave a warning"]


def test_a_more_severe_failure_is_sent_at_once() -> None:
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


def test_without_a_quiet_time_every_failure_is_sent() -> None:
    story = Story(QuietTimes(0.0, 0.0))
    assert all(story.at(minute, Level.ERROR) for minute in range(5))


levels = st.sampled_from(list(Level))
rounds = st.lists(st.tuples(st.floats(0, 90), st.lists(levels, max_size=3)), max_size=30)


@given(rounds)
def test_every_failure_is_in_a_message_and_people_end_with_the_right_idea(
    story: list[tuple[float, list[Level]]],
) -> None:
    state, now, sent, failures = AlertState(), 1_000_000.0, 0, 0
    for minutes, found in [*story, (2_000.0, [])]:
        now += minutes * 60
        failures += sum(level is not Level.OK for level in found)
        for message in state.add([update(level, now) for level in found], now, QUIET):
            held = int(message.body.split("last message: ")[1].split()[0]) if "last message: " in message.body else 0
            sent += held + (message.level is not Level.OK or "and recovered" in message.title)
        state = read_state(AlertState(), write_state(state))
    assert sent == failures
    for subject in state.subjects.values():
        assert subject.notified is subject.level


def test_a_text_that_is_not_utf_8_is_kept() -> None:
    state = AlertState()
    state.add([update(Level.ERROR, 0.0, text="No such option: --\udcff")], 0.0, QUIET)
    assert read_state(AlertState(), write_state(state)) == state


def test_the_state_is_bounded_whatever_happens() -> None:
    state = AlertState()
    for number in range(500):
        state.add([update(Level.ERROR, number, f"check{number}", "x" * 10_000)], number, QUIET)
    assert len(state.subjects) == SUBJECTS
    assert len(state.outbox) == OUTBOX_LENGTH
    assert state.dropped == SUBJECTS - OUTBOX_LENGTH
    assert len(write_state(state)) < (SUBJECTS + OUTBOX_LENGTH) * (TEXT_LENGTH + 500)


def test_a_recovered_subject_is_forgotten_after_its_quiet_time() -> None:
    story = Story()
    story.at(0, Level.ERROR)
    story.at(1, Level.OK)
    assert story.state.subjects
    story.at(61)
    assert story.state.subjects == {}


def test_a_clock_that_was_ahead_keeps_nobody_quiet_for_years() -> None:
    story, year = Story(), 365 * 24 * 60
    story.at(10 * year, Level.ERROR)
    assert story.at(0, Level.ERROR) == [], "the quiet time begins when the clock is right again"
    assert story.at(61, Level.ERROR) == [f"{CHECK} failed"]
    assert story.at(62, Level.OK) == [f"{CHECK} recovered"]
