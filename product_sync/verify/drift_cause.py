"""Names the cause of a difference, as far as earlier snapshots prove it; otherwise `Cause.UNKNOWN`.

A snapshot shows one side at one moment, and anything may happen between two snapshots. A cause is named only if the
snapshots leave one kind of event: a guess would send people to the wrong service (docs/decisions/0041).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from operator import attrgetter

from product_sync.schema.records import Op

_Test = Callable[["Observation"], bool]


class Side(StrEnum):
    SOURCE = "source"
    TARGET = "target"


class Cause(StrEnum):
    """The kind of event that led to a difference."""

    CREATION_LOST = "creation lost"
    CHANGE_LOST = "change lost"
    DELETION_LOST = "deletion lost"
    DELETED_ON_TARGET = "deleted on the target"
    CHANGED_ON_TARGET = "changed on the target"
    SET_BACK = "set back on the target"
    WAS_QUARANTINED = "could not be copied before"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Observation:
    """What one earlier snapshot, read ``at`` some moment, has of a product. ``present``: that side had the product.
    ``is_new``, ``is_old``: it had the value that the source, or the target, has now (for an update: in the column that
    differs). ``rejected``: why the document could not be copied; its values are then unknown."""

    side: Side
    at: datetime
    present: bool
    is_new: bool = False
    is_old: bool = False
    rejected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """``because`` is a sentence for people. The source last changed after ``changed_after`` and not after
    ``changed_before``; each is ``None`` if it is unknown."""

    cause: Cause
    because: str
    changed_after: datetime | None = None
    changed_before: datetime | None = None


def explain(op: Op, observations: Iterable[Observation], source_read_at: datetime) -> Explanation:
    """What ``observations``, all older than the difference, prove about it. The difference was found with a reading of
    the source that began at ``source_read_at``."""
    newest_first = sorted(observations, key=lambda observation: observation.at, reverse=True)
    source = [observation for observation in newest_first if observation.side is Side.SOURCE]
    target = [observation for observation in newest_first if observation.side is Side.TARGET]
    if not newest_first:
        return Explanation(Cause.UNKNOWN, "No earlier snapshot is kept.")
    changed = _last_change(op, source, source_read_at)
    if op is not Op.EXTRA and (rejected := _rejected_before(op, source, target)):
        because = f"In quarantine on {_time(rejected.at)} ({', '.join(rejected.rejected)}), and not copied since."
        return Explanation(Cause.WAS_QUARANTINED, because, *changed)
    cause, because = _EXPLAINED[op](source, target)
    return Explanation(cause, because, *changed)


def _rejected_before(op: Op, source: Sequence[Observation], target: Sequence[Observation]) -> Observation | None:
    """The observation of a document that could not be copied, if source and target have not changed since its
    correction."""
    before = _first(source, lambda observation: bool(observation.rejected) or not _AS_NOW[op](observation))
    if before is None or not before.rejected:
        return None
    target_as_now = _is_absent if op is Op.INSERT else _is_old
    return before if all(target_as_now(observation) for observation in target if observation.at >= before.at) else None


def _missing(source: Sequence[Observation], target: Sequence[Observation]) -> tuple[Cause, str]:
    there, gone = _first(target, _is_present), _first(source, _is_absent)
    if gone and (there is None or gone.at >= there.at):
        return Cause.CREATION_LOST, f"The source did not have it yet on {_time(gone.at)}."
    if there:
        return Cause.DELETED_ON_TARGET, f"The target still had it on {_time(there.at)}, and the source still has it."
    return Cause.UNKNOWN, _since(source, _is_present, target, _is_absent, "It was already missing")


def _changed(source: Sequence[Observation], target: Sequence[Observation]) -> tuple[Cause, str]:
    was_right, was_the_source_value = _first(target, _is_new), _first(source, _is_old)
    if was_right and (was_the_source_value is None or was_right.at > was_the_source_value.at):
        right = f"The target had the source's value on {_time(was_right.at)}"
        if was_the_source_value:
            earlier = _time(was_the_source_value.at)
            return Cause.SET_BACK, f"{right} and went back to the value of {earlier}: a late event, or an edit."
        return Cause.CHANGED_ON_TARGET, f"{right}. No snapshot of the source has the target's present value."
    if was_the_source_value:
        at = _time(was_the_source_value.at)
        return Cause.CHANGE_LOST, f"The source had the target's value on {at} and has changed since."
    return Cause.UNKNOWN, _since(source, _is_new, target, _is_old, "It already differed")


def _extra(source: Sequence[Observation], target: Sequence[Observation]) -> tuple[Cause, str]:
    there, without = _first(source, _is_present), _first(target, _is_absent)
    gone_since = _unbroken(source, _is_absent)
    if there and without and gone_since and without.at >= gone_since:
        return Cause.SET_BACK, f"The target did not have it on {_time(without.at)}: a late event, or an edit."
    if there:
        return Cause.DELETION_LOST, f"The source still had it on {_time(there.at)}."
    if without:
        return Cause.UNKNOWN, f"It came to the target after {_time(without.at)}; no snapshot of the source has it."
    return Cause.UNKNOWN, _since(source, _is_absent, target, _is_present, "It was already only in the target")


_EXPLAINED = {Op.INSERT: _missing, Op.UPDATE: _changed, Op.EXTRA: _extra}


_is_present: _Test = attrgetter("present")
_is_new: _Test = attrgetter("is_new")
_is_old: _Test = attrgetter("is_old")


def _is_absent(observation: Observation) -> bool:
    return not observation.present


#: Whether the source was then as it is now.
_AS_NOW: dict[Op, _Test] = {Op.INSERT: _is_present, Op.UPDATE: _is_new, Op.EXTRA: _is_absent}


def _first(observations: Sequence[Observation], test: _Test) -> Observation | None:
    return next((observation for observation in observations if test(observation)), None)


def _unbroken(observations: Sequence[Observation], test: _Test) -> datetime | None:
    """The time of the oldest observation in the newest unbroken series that passes ``test``."""
    since = None
    for observation in observations:
        if not test(observation):
            break
        since = observation.at
    return since


def _since(
    source: Sequence[Observation], in_source: _Test, target: Sequence[Observation], in_target: _Test, said: str
) -> str:
    starts = (_unbroken(source, in_source), _unbroken(target, in_target))
    if starts[0] is None or starts[1] is None:
        return "The earlier snapshots do not show the cause."
    return f"{said} on {_time(max(starts[0], starts[1]))}, the oldest time that the snapshots show."


def _last_change(op: Op, source: Sequence[Observation], read_at: datetime) -> tuple[datetime | None, datetime | None]:
    """The two readings of the source between which it last changed."""
    before = read_at
    for observation in source:
        if observation.rejected or not _AS_NOW[op](observation):
            return observation.at, before
        before = observation.at
    return None, before if source else None


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
