"""The four ways in which time and chance enter the core, as one value that is handed in.

Without it a test would have to sleep to prove a pause, and a retry could not be proven at all.
"""

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
    """``now`` is the wall clock (aware, UTC), ``monotonic`` and ``sleep`` count seconds, ``random`` draws
    uniformly from [0, 1)."""

    now: Callable[[], datetime] = _utc_now
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random


SYSTEM_TIMING = Timing()
