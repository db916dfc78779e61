"""Does the next thing while the last one is still being worked on: the server reads a page while we convert one.

Daemon threads and not a pool: a cancelled run must end at once, and a pool's threads are waited for at exit.
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

#: How long whoever leaves a stream early waits until what was begun is cleared away: a server that it is read from may
#: not answer any more.
PATIENCE_S: Final = 5.0


def begin(call: Callable[[], _T]) -> Future[_T]:
    """Start ``call`` in a thread of its own. What it returns or raises, a `KeyboardInterrupt` among it, comes out of
    ``result()``; if nobody asks, it is dropped."""
    future: Future[_T] = Future()
    threading.Thread(target=_fill, args=(future, call), name="product_sync ahead", daemon=True).start()
    return future


def outcome(call: Callable[[], _T]) -> Future[_T]:
    """What ``call``, done now, returned or raised."""
    future: Future[_T] = Future()
    _fill(future, call)
    return future


def each(items: Iterable[_T]) -> Iterator[_T]:
    """The same items, each fetched while the one before it is being worked on. Who stops early leaves one behind."""
    following = partial(next, iter(items), _END)
    coming = begin(following)
    while (item := coming.result()) is not _END:
        coming = begin(following)
        yield item


@contextmanager
def stream(
    items: Generator[_T, None, None], *, size: Callable[[_T], int], most: int, patience_s: float = PATIENCE_S
) -> Iterator[Iterator[_T]]:
    """Run ``items`` in a thread of its own, and yield them here in their order.

    The thread rests while items of more than ``most`` in sum of ``size`` wait to be taken: never more than that and one
    item. No item is ``None``. What ``items`` raises, it raises where they are taken. Where the block ends before the
    items do, ``items`` is closed in its thread; that is waited for, but for ``patience_s`` seconds at most.
    """
    running = _Stream(items, size, most)
    ended = begin(running.run)
    try:
        yield running.taken(ended)
    finally:
        running.leave()
        wait([ended], patience_s)


class _Stream(Generic[_T]):
    """Both sides of a stream. They share nothing but queues, whose calls an interrupt cannot cut in two: a lock that
    was left behind would hold up the other side for ever."""

    def __init__(self, items: Generator[_T, None, None], size: Callable[[_T], int], most: int) -> None:
        self._items = items
        self._size = size
        self._most = most
        self._ready: SimpleQueue[_T | None] = SimpleQueue()
        #: The sizes of what was taken.
        self._taken: SimpleQueue[int] = SimpleQueue()
        self.is_left = False

    def run(self) -> None:
        waiting = 0
        _here.stream = self
        try:
            with closing(self._items):
                for item in self._items:
                    if self.is_left:
                        return
                    self._ready.put(item)
                    waiting += self._size(item)
                    while waiting > self._most and not self.is_left:
                        waiting -= self._taken.get()
        finally:
            self._ready.put(None)

    def taken(self, ended: Future[None]) -> Iterator[_T]:
        while (item := self._ready.get()) is not None:
            self._taken.put(self._size(item))
            yield item
        ended.result()

    def leave(self) -> None:
        self.is_left = True
        self._taken.put(0)


_here = threading.local()


def is_left() -> bool:
    """Whether this thread works for a `stream` that was left: nobody takes its items any more."""
    running: _Stream[object] | None = getattr(_here, "stream", None)
    return running is not None and running.is_left


def _fill(future: Future[_T], call: Callable[[], _T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
        future.set_exception(error)
