"""Prefetches the next item in the background: the server reads the next page while this one is converted.

It uses daemon threads, not a pool: at exit Python waits for the threads of a pool, and a cancelled run must end at
once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")
_END: Final = object()

#: Seconds that `stream` waits at its end for its thread to close the items. A silent server may never let it.
CLOSE_WITHIN_S: Final = 5.0


def run_in_thread(call: Callable[[], _T]) -> Future[_T]:
    """Start ``call`` in a thread of its own. ``result()`` returns its result or raises its error, which may be a
    `KeyboardInterrupt`."""
    future: Future[_T] = Future()
    threading.Thread(target=_run, args=(future, call), name="product_sync prefetch", daemon=True).start()
    return future


def completed(call: Callable[[], _T]) -> Future[_T]:
    """Run ``call`` now, in this thread. The future holds its result or its error."""
    future: Future[_T] = Future()
    _run(future, call)
    return future


def _run(future: Future[_T], call: Callable[[], _T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
        future.set_exception(error)


def prefetched(items: Iterable[_T]) -> Iterator[_T]:
    """The same items. Each is fetched while the caller works on the item before it."""
    fetch = partial(next, iter(items), _END)
    fetching = run_in_thread(fetch)
    while (item := fetching.result()) is not _END:
        fetching = run_in_thread(fetch)
        yield item


@contextmanager
def stream(
    items: Generator[_T, None, None], *, size: Callable[[_T], int], most: int, close_within_s: float = CLOSE_WITHIN_S
) -> Iterator[Iterator[_T]]:
    """Run ``items`` in a thread of its own and yield them here, in their order.

    The thread pauses while the sizes of the waiting items add up to more than ``most``. No item may be ``None``. An
    error of ``items`` is raised where the items are taken. If the block ends early, the thread closes ``items``; the
    block waits for that, at most ``close_within_s`` seconds.
    """
    running = _Stream(items, size, most)
    ended = run_in_thread(running.run)
    try:
        yield running.take(ended)
    finally:
        running.abandon()
        wait([ended], close_within_s)


class _Stream(Generic[_T]):
    """The two threads share queues only. An interrupt cannot cut a queue's call in two, but it could leave a lock
    held, and the other thread would wait for it for ever."""

    def __init__(self, items: Generator[_T, None, None], size: Callable[[_T], int], most: int) -> None:
        self._items = items
        self._size = size
        self._most = most
        self._ready: SimpleQueue[_T | None] = SimpleQueue()
        self._taken_sizes: SimpleQueue[int] = SimpleQueue()
        self.is_abandoned = False

    def run(self) -> None:
        waiting = 0
        _this_thread.stream = self
        try:
            with closing(self._items):
                for item in self._items:
                    if self.is_abandoned:
                        return
                    self._ready.put(item)
                    waiting += self._size(item)
                    while waiting > self._most and not self.is_abandoned:
                        waiting -= self._taken_sizes.get()
        finally:
            self._ready.put(None)

    def take(self, ended: Future[None]) -> Iterator[_T]:
        while (item := self._ready.get()) is not None:
            self._taken_sizes.put(self._size(item))
            yield item
        ended.result()

    def abandon(self) -> None:
        self.is_abandoned = True
        self._taken_sizes.put(0)  # wakes the thread if it pauses


_this_thread = threading.local()


def is_abandoned() -> bool:
    """Whether this thread runs the items of a `stream` whose block has ended: nobody takes them any more."""
    running: _Stream[object] | None = getattr(_this_thread, "stream", None)
    return running is not None and running.is_abandoned
