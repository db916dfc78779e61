"""What the ticks of sensors and schedules have in common: the alert when one of them fails itself, and the cursor.

Without the alert the failure is only a red tick in the UI. Its state is kept in the memory of the code location's
process: an evaluation that raises stores no cursor. After a restart of the code location an alert may come again.
"""

import functools
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from product_sync.errors import ProductSyncError
from product_sync.notify.alerts import AlertState, Level, StatusUpdate
from product_sync.notify.channels import resolve_channels
from product_sync.notify.dispatch import send_updates

_Context = TypeVar("_Context")
_Result = TypeVar("_Result")
_LOG = logging.getLogger("product_sync.notify.dispatch")
_STATE = AlertState()


@dataclass(slots=True)
class Cursor:
    """What a sensor remembers. ``recorded`` is the condition of its newest record, which was made at ``recorded_at``
    (seconds since 1970). Dagster never purges these records."""

    alerts: AlertState = field(default_factory=AlertState)
    recorded: str = ""
    recorded_at: float = 0.0

    def must_record(self, condition: str, now: float, every_s: float) -> bool:
        """Whether the condition has changed, or the last record is older than ``every_s`` seconds. If so, it counts as
        recorded from then on."""
        # The age is negative if the clock was set back.
        if condition == self.recorded and 0 <= now - self.recorded_at < every_s:
            return False
        self.recorded, self.recorded_at = condition, now
        return True


def notifies_of_its_errors(name: str) -> Callable[[Callable[[_Context], _Result]], Callable[[_Context], _Result]]:
    """Decorates the function of the sensor or schedule ``name``. An error is raised again after its alert; the next
    evaluation without an error is the recovery."""

    def notify(level: Level, text: str) -> None:
        update = StatusUpdate(f"tick/{name}", f"{name} of the Dagster daemon", level, time.time(), text)
        try:
            send_updates(_STATE, [update], resolve_channels(os.environ).settings, _LOG)
        except Exception as error:  # noqa: BLE001 - the error of the evaluation is more important
            _LOG.error("Nobody could be notified: %s.", type(error).__name__)

    def decorate(evaluate: Callable[[_Context], _Result]) -> Callable[[_Context], _Result]:
        @functools.wraps(evaluate)
        def evaluated(context: _Context) -> _Result:
            try:
                result = evaluate(context)
            except Exception as error:
                notify(Level.ERROR, _text(error))
                raise
            if f"tick/{name}" in _STATE.subjects:
                notify(Level.OK, "")
            return result

        return evaluated

    return decorate


def _text(error: Exception) -> str:
    """The text of an error of another library is left out, because it may hold a password."""
    if isinstance(error, ProductSyncError):
        return str(error)
    return f"Its evaluation raised {type(error).__name__}. The tick in the UI has the traceback."
