"""Does the next thing while the last one is still being worked on: the server reads a page while we convert one.

A daemon thread and not a pool: a cancelled run must end at once, and a pool's threads are waited for at exit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


def begin(call: Callable[[], _T]) -> Future[_T]:
    """Start ``call`` in a thread of its own. What it returns or raises, a `KeyboardInterrupt` among it, comes out of
    ``result()``; if nobody asks, it is dropped."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name="product_sync ahead", daemon=True).start()
    return future
