"""Ends a step with the sentence and hint of our own error instead of a traceback of the framework.

Dagster wraps an exception of a step in an error of its own and shows that one first, above three tracebacks. It shows a
`dagster.Failure` as it is, and takes it for the failure of the run (docs/decisions/0096). Errors that are not ours are
bugs and keep their traceback.
"""

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg

from product_sync.errors import ProductSyncError

#: How Dagster reports SIGINT, SIGTERM and Terminate to a step; the second one is Python's, in a process of our own.
INTERRUPTS = (dg.DagsterExecutionInterruptedError, KeyboardInterrupt)


class StepFailed(dg.Failure):
    """A step failed with ``error``. The description is the error's sentence and hint."""

    def __init__(self, error: ProductSyncError) -> None:
        metadata = {"code": error.code, **({"hint": error.hint} if error.hint else {})}
        super().__init__(description=str(error), metadata=metadata, allow_retries=False)
        self.error = error


class CheckFailed(StepFailed):
    """A blocking check failed. Its evaluation is recorded before this is raised."""


for _shown in (StepFailed, CheckFailed):
    # Dagster shows `Name: sentence` for a class of `builtins`, and the whole module path before it otherwise.
    _shown.__module__ = "builtins"


@contextmanager
def own_errors(log: logging.Logger, after_interrupt: Callable[[], str]) -> Iterator[None]:
    """Raise `StepFailed` for an error of ours; the chain of errors below it is logged at DEBUG.

    An interrupt passes on with the sentence of ``after_interrupt``, which says what was done until then.
    """
    try:
        yield
    except ProductSyncError as error:
        log.debug("%s", "".join(traceback.format_exception(error)))
        raise StepFailed(error) from None
    except INTERRUPTS as interrupt:
        sentence = after_interrupt()
        log.warning("%s", sentence)
        raise type(interrupt)(sentence) from None
