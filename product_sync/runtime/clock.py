"""Time and chance as one value that the caller passes in, so that no test has to sleep to prove a pause."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Timing:
    """``now`` is the wall clock (UTC, with its time zone). ``monotonic`` and ``sleep`` count seconds. ``random``
    returns a number from 0 up to 1."""

    now: Callable[[], datetime] = _utc_now
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random


SYSTEM_TIMING = Timing()
