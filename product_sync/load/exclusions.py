"""Explains which row keeps another row out of the target.

A refused row has a bad document only if an empty table would refuse it too. Otherwise another row is in the way, which
has to be changed, inserted or deleted first.
"""

from __future__ import annotations

from collections.abc import Collection

from product_sync.conversion.extended_json import cut
from product_sync.results import ExclusionReport
from product_sync.schema.obstacle import Obstacle, ObstacleKind


def explain_exclusion(
    row_id: str, obstacle: Obstacle | None, answer: str, waiting: Collection[str], in_source: Collection[str]
) -> ExclusionReport:
    """Says why a row cannot be written. ``answer`` is the result of trying it, which says more than the obstacle.
    ``waiting`` are the ids of all rows that cannot be written, ``in_source`` the ids that the source has."""
    name = cut(row_id)
    if answer or obstacle is None:
        constraint = obstacle.constraint if obstacle else None
        other = _other_row(obstacle) if obstacle else None
        return ExclusionReport(
            row_id, other, constraint, f"{name} is kept out: {answer or 'another row was in its way'}"
        )
    message = f"{name} {_in_the_way(obstacle, waiting)}"
    if obstacle.kind is ObstacleKind.HELD:
        if obstacle.other in waiting:
            message += " That one cannot be written either."
        elif obstacle.other in in_source:
            message += (
                " Both products are in the source with it, or the other one cannot be copied: correct one of them."
            )
        else:
            message += " The source does not have that one: a sync with extra=delete deletes it."
    return ExclusionReport(row_id, _other_row(obstacle), obstacle.constraint, message)


def in_the_way_now(obstacle: Obstacle) -> ExclusionReport:
    """What keeps a row out now. The next sync may solve it."""
    message = f"{cut(obstacle.row)} {_in_the_way(obstacle)}"
    return ExclusionReport(obstacle.row, _other_row(obstacle), obstacle.constraint, message)


def _other_row(obstacle: Obstacle) -> str | None:
    is_elsewhere = obstacle.kind in (ObstacleKind.NEEDED_ELSEWHERE, ObstacleKind.OUTSIDE)
    return None if is_elsewhere else obstacle.other


def _in_the_way(obstacle: Obstacle, waiting: Collection[str] = ()) -> str:
    columns, other = ", ".join(obstacle.columns), cut(obstacle.other)
    match obstacle.kind:
        case ObstacleKind.NEEDED_ELSEWHERE:
            message = f"refers by {columns} to {other} in {obstacle.table}, which has no such row"
        case ObstacleKind.NEEDED:
            message = f"refers by {columns} to the row {other}, which is not there"
            message += " and cannot be written either" if obstacle.other in waiting else ""
        case ObstacleKind.RIVAL:
            message = f"is to have the same {columns} as {other}"
        case ObstacleKind.REFERRING:
            message = f"is referenced by the row {other}"
        case ObstacleKind.OUTSIDE:
            message = f"is kept out by the row ({other}), which this sync does not write, because of {columns}"
        case ObstacleKind.HELD:
            message = f"is to have the same {columns} as the row {other} has"
    return f"{message} (constraint {obstacle.constraint})."
