"""How a step ends with our own sentence, and why a run failed, in sentences that may be sent to people.

Dagster wraps an exception of a step in an error of its own, which it shows first, above three tracebacks. It shows a
`dagster.Failure` unchanged, also as the failure of the run (docs/decisions/0096). Other errors are bugs and keep their
traceback.

Dagster records a failure in three ways: as the failure of a step, with the chain of errors; as the failure of the run,
if its resources could not be created; and as a run that was marked as failed because its process is gone. A dead
process is noticed by us (`dead_runs`) or by the code server that started it.
"""

import logging
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster import DagsterEventType as Kind

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


#: How the step of a blocking check fails, today and in older runs. The alert about the check says more.
_CHECK_FAILED = (CheckFailed.__name__, "DagsterAssetCheckFailedError")
_INTERRUPTED = tuple(interrupt.__name__ for interrupt in INTERRUPTS)
#: What the code server records about a run's process before it marks the run as failed.
_CRASH = re.compile(r"process for \S+ (was terminated by signal \d+ \(\w+\)|unexpectedly exited with code -?\d+)")
_SEE_LOG = "The run's log has the details."
_GO_ON = "The rows that were written are kept; the next run does the rest."


def own_sentence(event: dg.DagsterEvent) -> str:
    """The sentence with which we ended the step or the run of ``event``; empty for an error that is not ours."""
    data: Any = event.event_specific_data
    if event.event_type is not Kind.STEP_FAILURE:
        first = getattr(data, "first_step_failure_event", None)
        return own_sentence(first) if first else _of_interrupt(getattr(data, "error", None))
    failure = data.user_failure_data
    return str(failure.description) if failure and failure.description else _of_interrupt(data.error)


def _of_interrupt(error: Any) -> str:
    """The message of an interrupt says what was done before it (`own_errors`)."""
    return _message_of(error) if error is not None and error.cls_name in _INTERRUPTED else ""


def failure_of(instance: dg.DagsterInstance, run_id: str, event: dg.DagsterEvent) -> str:
    """Why the step or the run of ``event`` failed, with the next step; empty if a check or another event says it."""
    if event.event_type is Kind.STEP_FAILURE:
        return _from_error(event.step_failure_data.error, f"The step {event.step_key}")
    data: Any = event.event_specific_data
    if data is None or data.error is None:
        return _from_outside(instance, run_id, event.message or "")
    if data.first_step_failure_event is not None:
        return ""  # the failure of the step says it
    if data.failure_reason is not None and data.failure_reason.name == "UNEXPECTED_TERMINATION":
        return f"This run was ended from outside: its process was asked to stop. {_of_interrupt(data.error) or _GO_ON}"
    return _from_error(data.error, "The run")


def _from_outside(instance: dg.DagsterInstance, run_id: str, message: str) -> str:
    if "ended from outside" in message:
        return f"{message} {_GO_ON}"
    recorded = [entry.dagster_event for entry in instance.all_logs(run_id, of_type=Kind.ENGINE_EVENT)]
    crashes = [found[1] for each in recorded if each and (found := _CRASH.search(each.message or ""))]
    if not crashes:
        # Dagster's own message may hold the text of an error.
        return f"Dagster marked the run as failed. {_SEE_LOG}"
    memory = " If no person did that, the host ran out of memory." if "SIGKILL" in crashes[-1] else ""
    return f"This run was ended from outside: its process {crashes[-1]}.{memory} {_GO_ON}"


def _from_error(error: Any, what: str) -> str:
    """The text of another library's error is left out, because it may hold a password."""
    name = "an unknown error"
    while error is not None:
        if error.cls_name in _CHECK_FAILED:
            return ""
        if error.cls_name in _OUR_ERRORS:
            return _message_of(error)
        name = error.cls_name or name
        error = error.cause
    return f"{what} raised {name}. This is a bug. {_SEE_LOG}"


def _message_of(error: Any) -> str:
    return str(error.message.partition(": ")[2].strip())


def _names_of(error: type[ProductSyncError]) -> Iterator[str]:
    yield error.__name__
    for kind in error.__subclasses__():
        yield from _names_of(kind)


_OUR_ERRORS = frozenset((StepFailed.__name__, *_names_of(ProductSyncError)))
