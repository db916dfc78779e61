"""A stream is prefetched, but not far ahead. However its reader ends, the thread ends too and closes the stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from product_sync.runtime import prefetch
from product_sync_tests.market import wait_until


def numbers(
    until: int, closed: threading.Event | None = None, made: list[int] | None = None
) -> Generator[int, None, None]:
    try:
        for number in range(until):
            if made is not None:
                made.append(number)
            yield number
    finally:
        if closed is not None:
            closed.set()


def one(_: int) -> int:
    return 1


def threads_ahead() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "product_sync prefetch"]


def test_all_items_come_in_their_order() -> None:
    with prefetch.stream(numbers(10_000), size=one, most=3) as taken:
        assert list(taken) == list(range(10_000))
    wait_until(lambda: not threads_ahead())


@pytest.mark.parametrize("most", [0, 1, 5])
def test_no_more_than_so_much_waits_and_one_item(most: int) -> None:
    made: list[int] = []
    with prefetch.stream(numbers(100, made=made), size=one, most=most) as taken:
        for count in range(1, 4):
            next(taken)
            wait_until(lambda count=count: len(made) == count + most + 1)  # type: ignore[misc] # of this round
            time.sleep(0.01)
            assert len(made) == count + most + 1


def test_what_is_raised_in_the_thread_is_raised_where_items_are_taken_after_those_before_it() -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        raise KeyError("half-way")

    seen: list[int] = []
    with pytest.raises(KeyError, match="half-way"), prefetch.stream(failing(), size=one, most=9) as taken:
        seen.extend(taken)  # not a comprehension: what came before the error counts
    assert seen == [1]
    wait_until(lambda: not threads_ahead())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_full_stream_that_is_left_is_closed_in_its_thread_which_ends(error: type[BaseException]) -> None:
    closed, made = threading.Event(), list[int]()

    def fail_at(_: int) -> None:
        wait_until(lambda: len(made) == 4)
        raise error

    with pytest.raises(error), prefetch.stream(numbers(100, closed, made), size=one, most=2) as taken:
        fail_at(next(taken))
    assert closed.is_set()
    wait_until(lambda: not threads_ahead())


def test_a_stream_that_nobody_takes_from_ends_too() -> None:
    closed = threading.Event()
    with prefetch.stream(numbers(100, closed), size=one, most=2):
        pass
    assert closed.is_set()
    wait_until(lambda: not threads_ahead())


def test_whoever_leaves_does_not_wait_for_ever_for_what_does_not_answer() -> None:
    answer = threading.Event()

    def silent() -> Generator[int, None, None]:
        yield 1
        answer.wait()

    with prefetch.stream(silent(), size=one, most=9, close_within_s=0.01) as taken:
        assert next(taken) == 1
    assert threads_ahead()
    answer.set()
    wait_until(lambda: not threads_ahead())
