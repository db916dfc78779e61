"""Says of one difference what earlier snapshots prove about where it comes from, and `Cause.UNKNOWN` where they do not.

A snapshot is a look at one side at one moment. Between two looks anything may have happened, so a cause is
named only where the looks leave one kind of event; a guess that reads like a finding would send people after the wrong
service (docs/decisions/0041).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from product_sync.schema.records import Op

_Test = Callable[["Sighting"], bool]


class Side(StrEnum):
    SOURCE = "source"
    TARGET = "target"


class Cause(StrEnum):
    """What happened, as far as it is proven."""

    CREATION_LOST = "creation lost"
    CHANGE_LOST = "change lost"
    DELETION_LOST = "deletion lost"
    DELETED_ON_TARGET = "deleted on the target"
    CHANGED_ON_TARGET = "changed on the target"
    SET_BACK = "set back on the target"
    WAS_QUARANTINED = "could not be copied before"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a snapshot, read ``at`` some moment before the difference was found, says of it.

    ``present``: that side had the product. ``is_new``, ``is_old``: it held what the source, or the target, holds now
    (of an update: in the column concerned). ``rejected``: why the document could not be copied; nothing is known of its
    values then.
    """

    side: Side
    at: datetime
    present: bool
    is_new: bool = False
    is_old: bool = False
    rejected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """``because`` is a sentence for people. The source's last change lies after ``changed_after`` and not after
    ``changed_before``; each is ``None`` where nothing shows it."""

    cause: Cause
    because: str
    changed_after: datetime | None = None
    changed_before: datetime | None = None


def explain(op: Op, sightings: Iterable[Sighting], source_read_at: datetime) -> Explanation:
    """What ``sightings``, all older than the difference, prove about it. ``source_read_at`` is when the source was
    read that the difference was found with."""
    newest_first = sorted(sightings, key=lambda sighting: sighting.at, reverse=True)
    source = [sighting for sighting in newest_first if sighting.side is Side.SOURCE]
    target = [sighting for sighting in newest_first if sighting.side is Side.TARGET]
    if not newest_first:
        return Explanation(Cause.UNKNOWN, "No earlier snapshot is kept.")
    changed = _last_change(op, source, source_read_at)
    if op is not Op.EXTRA and (rejected := _rejected_before(op, source, target)):
        because = f"In quarantine on {_time(rejected.at)} ({', '.join(rejected.rejected)}), and not copied since."
        return Explanation(Cause.WAS_QUARANTINED, because, *changed)
    cause, because = _EXPLAINED[op](source, target)
    return Explanation(cause, because, *changed)


def _rejected_before(op: Op, source: Sequence[Sighting], target: Sequence[Sighting]) -> Sighting | None:
    """When the document could not be copied, if it has been what it is now ever since, and so has the target."""
    before = _first(source, lambda sighting: bool(sighting.rejected) or not _AS_NOW[op](sighting))
    if before is None or not before.rejected:
        return None
    target_as_now = _is_absent if op is Op.INSERT else _is_old
    return before if all(target_as_now(sighting) for sighting in target if sighting.at >= before.at) else None


def _missing(source: Sequence[Sighting], target: Sequence[Sighting]) -> tuple[Cause, str]:
    there, gone = _first(target, _is_present), _first(source, _is_absent)
    if gone and (there is None or gone.at >= there.at):
        return Cause.CREATION_LOST, f"The source did not have it yet on {_time(gone.at)}."
    if there:
        return Cause.DELETED_ON_TARGET, f"The target still had it on {_time(there.at)}, and the source has it still."
    return Cause.UNKNOWN, _since(source, _is_present, target, _is_absent, "Already missing")


def _changed(source: Sequence[Sighting], target: Sequence[Sighting]) -> tuple[Cause, str]:
    was_right, was_the_source_value = _first(target, _is_new), _first(source, _is_old)
    if was_right and (was_the_source_value is None or was_right.at > was_the_source_value.at):
        right = f"The target had the source's value on {_time(was_right.at)}"
        if was_the_source_value:
            earlier = _time(was_the_source_value.at)
            return Cause.SET_BACK, f"{right} and has gone back to the one of {earlier}: a late event, or an edit."
        return Cause.CHANGED_ON_TARGET, f"{right}. No snapshot of the source has the value that the target has now."
    if was_the_source_value:
        at = _time(was_the_source_value.at)
        return Cause.CHANGE_LOST, f"The source had the target's value on {at} and has changed since."
    return Cause.UNKNOWN, _since(source, _is_new, target, _is_old, "Already different")


def _extra(source: Sequence[Sighting], target: Sequence[Sighting]) -> tuple[Cause, str]:
    there, without = _first(source, _is_present), _first(target, _is_absent)
    gone_since = _unbroken(source, _is_absent)
    if there and without and gone_since and without.at >= gone_since:
        return Cause.SET_BACK, f"The target did not have it on {_time(without.at)}: a late event, or an edit."
    if there:
        return Cause.DELETION_LOST, f"The source still had it on {_time(there.at)}."
    if without:
        return Cause.UNKNOWN, f"It came to the target after {_time(without.at)}; no snapshot of the source has it."
    return Cause.UNKNOWN, _since(source, _is_absent, target, _is_present, "Already only in the target")


_EXPLAINED = {Op.INSERT: _missing, Op.UPDATE: _changed, Op.EXTRA: _extra}


def _is_present(sighting: Sighting) -> bool:
    return sighting.present


def _is_absent(sighting: Sighting) -> bool:
    return not sighting.present


def _is_new(sighting: Sighting) -> bool:
    return sighting.is_new


def _is_old(sighting: Sighting) -> bool:
    return sighting.is_old


#: That the source was then what it is now.
_AS_NOW: dict[Op, _Test] = {Op.INSERT: _is_present, Op.UPDATE: _is_new, Op.EXTRA: _is_absent}


def _first(sightings: Sequence[Sighting], test: _Test) -> Sighting | None:
    return next((sighting for sighting in sightings if test(sighting)), None)


def _unbroken(sightings: Sequence[Sighting], test: _Test) -> datetime | None:
    """Since when every snapshot says so, going back from now."""
    since = None
    for sighting in sightings:
        if not test(sighting):
            break
        since = sighting.at
    return since


def _since(
    source: Sequence[Sighting], in_source: _Test, target: Sequence[Sighting], in_target: _Test, said: str
) -> str:
    starts = (_unbroken(source, in_source), _unbroken(target, in_target))
    if starts[0] is None or starts[1] is None:
        return "The earlier snapshots do not show how it came about."
    return f"{said} on {_time(max(starts[0], starts[1]))}, as far back as the snapshots agree."


def _last_change(op: Op, source: Sequence[Sighting], read_at: datetime) -> tuple[datetime | None, datetime | None]:
    """Between which two readings the source came to what it is now."""
    before = read_at
    for sighting in source:
        if sighting.rejected or not _AS_NOW[op](sighting):
            return sighting.at, before
        before = sighting.at
    return None, before if source else None


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
