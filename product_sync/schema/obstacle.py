"""A row that prevents another row from being written, because of a constraint."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class ObstacleKind(StrEnum):
    """``HELD``: the other row of the target has the value now. ``RIVAL``: an earlier row of the batch gets the same
    value. ``NEEDED``: the row refers to the other row, which the table lacks. ``NEEDED_ELSEWHERE``: it refers to a
    missing row of another table. ``REFERRING``: the other row refers to this one, which is to be deleted. ``OUTSIDE``:
    a row of another tenant has the value now, or refers to this one."""

    HELD = "held"
    RIVAL = "rival"
    NEEDED = "needed"
    NEEDED_ELSEWHERE = "needed_elsewhere"
    REFERRING = "referring"
    OUTSIDE = "outside"


class Obstacle(NamedTuple):
    """``row`` cannot be written because of ``other``. Both are ids of the table; for ``NEEDED_ELSEWHERE``, ``other``
    is the value and ``table`` the other table; for ``OUTSIDE``, ``other`` is the whole key. ``columns``
    are the columns of the constraint."""

    row: str
    other: str
    kind: ObstacleKind
    constraint: str
    columns: tuple[str, ...]
    deferrable: bool = False
    table: str = ""
