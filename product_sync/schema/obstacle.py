"""What keeps a refused row out of the target: another row, by way of a constraint."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class ObstacleKind(StrEnum):
    """``HELD``: the other row of the target holds the value now. ``RIVAL``: an earlier row of the same batch wants it
    too. ``NEEDED``: the row refers to the other row, which the table does not have. ``NEEDED_ELSEWHERE``: it refers to
    a row of another table, which is not there. ``REFERRING``: the other row refers to this one, which is to be
    deleted."""

    HELD = "held"
    RIVAL = "rival"
    NEEDED = "needed"
    NEEDED_ELSEWHERE = "needed_elsewhere"
    REFERRING = "referring"


class Obstacle(NamedTuple):
    """``row`` cannot be written because of ``other``; both are ids of the table (with ``NEEDED_ELSEWHERE`` ``other`` is
    the value, and ``table`` the other table). ``columns`` are those that the constraint looks at."""

    row: str
    other: str
    kind: ObstacleKind
    constraint: str
    columns: tuple[str, ...]
    deferrable: bool = False
    table: str = ""
