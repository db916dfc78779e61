"""Sends an alert when a sensor or a schedule itself fails: its red tick is seen by nobody who does not look for it.

What was announced is kept in the memory of the code location's process, and not in a cursor: an evaluation that raises
keeps no cursor. After a restart of the code location an alert may come again.
"""

import functools
import logging
import os
import time
from collections.abc import Callable
from typing import TypeVar

from product_sync.errors import ProductSyncError
from product_sync.notify.alerts import AlertState, Level, StatusUpdate
from product_sync.notify.channels import resolve_channels
from product_sync.notify.dispatch import send_updates

_Context = TypeVar("_Context")
_Result = TypeVar("_Result")
_LOG = logging.getLogger("product_sync.notify.dispatch")
_BOOK = AlertState()


def notifies_of_its_errors(name: str) -> Callable[[Callable[[_Context], _Result]], Callable[[_Context], _Result]]:
    """For the function of the sensor or schedule ``name``. What it raises is raised all the same, after the alert; its
    next evaluation that returns is the recovery."""

    def decorate(evaluate: Callable[[_Context], _Result]) -> Callable[[_Context], _Result]:
        @functools.wraps(evaluate)
        def evaluated(context: _Context) -> _Result:
            try:
                result = evaluate(context)
            except Exception as error:
                _notify(
                    StatusUpdate(
                        f"tick/{name}", f"{name} of the Dagster daemon", Level.ERROR, time.time(), _text(error)
                    )
                )
                raise
            if f"tick/{name}" in _BOOK.subjects:
                _notify(StatusUpdate(f"tick/{name}", f"{name} of the Dagster daemon", Level.OK, time.time(), ""))
            return result

        return evaluated

    return decorate


def _notify(news: StatusUpdate) -> None:
    try:
        send_updates(_BOOK, [news], resolve_channels(os.environ), _LOG)
    except Exception as error:  # noqa: BLE001 - the error of the evaluation is the one that counts
        _LOG.error("Nobody could be notified: %s.", type(error).__name__)


def _text(error: Exception) -> str:
    """Our errors in their own words. The text of somebody else's may hold anything, a password too."""
    if isinstance(error, ProductSyncError):
        return str(error)
    return f"Its evaluation raised {type(error).__name__}. The tick in the UI has the traceback."
