"""Local times: what a clock in a time zone shows at an instant.

When a clock is put back, it shows the same times twice. Such a time does not say which of two instants was meant, so
both are refused (docs/decisions/0146). Every instant has a local time, so no instant falls into the hour that a clock
skips. UTC reaches as far as the databases do, every other zone from the year 1 to 9999.
"""

from __future__ import annotations

import datetime as dt
from contextlib import suppress
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from product_sync.conversion.error import ConversionError
from product_sync.schema.records import Reason

UTC: Final = "UTC"
DAY_MS: Final = 86_400_000
_HOURS: Final = 24
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)
#: Days whose offsets are remembered: 89 years of products for two zones.
_DAYS: Final = 65_536


def local(milliseconds: int, zone: str) -> int:
    """The local time at ``milliseconds`` since 1970 UTC, in milliseconds since 1970 of that clock. Raises
    `ConversionError`: ``out_of_range``, or ``not_exact`` if the clock shows this time twice."""
    if zone == UTC:
        return milliseconds
    try:
        shown = (_EPOCH + dt.timedelta(milliseconds=milliseconds)).astimezone(ZoneInfo(zone))
    except (OverflowError, ValueError):
        raise ConversionError(Reason.OUT_OF_RANGE) from None
    if shown.replace(fold=0).utcoffset() != shown.replace(fold=1).utcoffset():
        raise ConversionError(Reason.NOT_EXACT)
    return (shown.replace(tzinfo=dt.UTC) - _EPOCH) // _MILLISECOND


def local_times(milliseconds: NDArray[np.int64], zone: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """As `local` for many instants, and for which of them it raises nothing."""
    if zone == UTC:
        return milliseconds, np.ones(len(milliseconds), dtype=bool)
    days, places = np.unique(milliseconds // DAY_MS, return_inverse=True)
    offsets = [_offset_around(int(day), zone) for day in days]
    certain = np.array([offset is not None for offset in offsets], dtype=bool)[places]
    shifts = np.array([offset or 0 for offset in offsets], np.int64)[places]
    shown = np.where(certain, milliseconds, 0) + shifts
    for place in np.flatnonzero(~certain):
        with suppress(ConversionError):
            shown[place] = local(int(milliseconds[place]), zone)
            certain[place] = True
    return shown, certain


@lru_cache(_DAYS)
def _offset_around(day: int, zone: str) -> int | None:
    """The offset from UTC that holds all through a day since 1970 and the days beside it, so that the clock shows none
    of its times twice. ``None`` if it changes."""
    offsets = {_offset(beside, zone) for beside in (day - 1, day, day + 1)}
    return offsets.pop() if len(offsets) == 1 else None


@lru_cache(_DAYS)
def _offset(day: int, zone: str) -> int | None:
    """The offset in milliseconds that holds at every hour of a day; ``None`` if it changes."""
    clock, offsets = ZoneInfo(zone), set[dt.timedelta | None]()
    try:
        start = _EPOCH + dt.timedelta(days=day)
        for hour in range(_HOURS):
            offsets.add((start + dt.timedelta(hours=hour)).astimezone(clock).utcoffset())
    except (OverflowError, ValueError):
        return None
    offset = offsets.pop()
    return None if offsets or offset is None else offset // _MILLISECOND
