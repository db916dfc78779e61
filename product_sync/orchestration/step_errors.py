"""Ends a step with the sentence and hint of our own error instead of a traceback of Dagster.

Dagster wraps an exception of a step in an error of its own, which it shows first, above three tracebacks. It shows a
`dagster.Failure` unchanged, also as the failure of the run (docs/decisions/0096). Other errors are bugs and keep their
traceback.
"""

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg

from product_sync.errors import (
    ProductSyncError,
    SourceReadError,
    StateStoreError,
    TargetLocked,
    TooFewConnections,
    TransientError,
    Unreachable,
)

#: How SIGINT, SIGTERM and Terminate reach a step: by Dagster's error, or in a process of our own by Python's.
INTERRUPTS = (dg.DagsterExecutionInterruptedError, KeyboardInterrupt)


#: A server or the store did not answer, so a step that has a retry policy may succeed a little later.
_MAY_PASS = (SourceReadError, StateStoreError, TargetLocked, TooFewConnections, TransientError, Unreachable)


class StepFailed(dg.Failure):
    """A step failed with ``error``. The description is the error's sentence and hint."""

    def __init__(self, error: ProductSyncError) -> None:
        metadata = {"code": error.code, **({"hint": error.hint} if error.hint else {})}
        super().__init__(description=str(error), metadata=metadata, allow_retries=isinstance(error, _MAY_PASS))
        self.error = error


class CheckFailed(StepFailed):
    """A blocking check failed. Its evaluation is recorded before this is raised."""


for _shown in (StepFailed, CheckFailed):
    # Dagster shows the module path before the name of a class, except for classes of `builtins`.
    _shown.__module__ = "builtins"


@contextmanager
def own_errors(log: logging.Logger, after_interrupt: Callable[[], str]) -> Iterator[None]:
    """Raise `StepFailed` for a `ProductSyncError`, and log the chain of its causes at DEBUG. An interrupt is raised
    again with the sentence of ``after_interrupt``, which says what was done before it."""
    try:
        yield
    except ProductSyncError as error:
        log.debug("%s", "".join(traceback.format_exception(error)))
        raise StepFailed(error) from None
    except INTERRUPTS as interrupt:
        sentence = after_interrupt()
        log.warning("%s", sentence)
        raise type(interrupt)(sentence) from None
