"""Does the next thing while the last one is still being worked on: the server reads a page while we convert one.

A daemon thread and not a pool: a cancelled run must end at once, and a pool's threads are waited for at exit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Final, TypeVar

_T = TypeVar("_T")
_END: Final = object()


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


def _fill(future: Future[_T], call: Callable[[], _T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
        future.set_exception(error)
