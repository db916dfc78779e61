"""Keeps the position up to which a sync has compared the source's changes, and what is not settled yet.

A position that is younger than the work behind it would hide a lost change for ever, so it is written last, replaced
whole, never goes back, and moves on only upon the full proof that it stands on. It lies in the folder of the state key:
another source, filter, mapping or target has another position.

    <state key>/changes.json    {"position": {…}, "proof": {…}, "unsettled": […]}  or  {"lost": {…}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from product_sync.errors import ChangesLost, ChangesUnavailable, LocalStorageError
from product_sync.schema.changes import ChangePosition, ClusterTime, LostReason
from product_sync.schema.ports import Source
from product_sync.schema.records import SourceId
from product_sync.state.replaced import Replaced
from product_sync.state.storage_errors import local_storage
from product_sync.state.store import StateFolder, read_json, write_json

CHANGES: Final = "changes.json"
#: With more products a full run is cheaper than looking at each of them in every pass.
MAX_UNSETTLED: Final = 10_000


class UnsettledReason(StrEnum):
    """Why a product is not settled. The watch starts a run at once for the first two, later for the others."""

    #: Only the first reading of a run found a difference, or one of the sides has changed before the run could write.
    IN_FLIGHT = "in_flight"
    #: The watch has found a difference that no run has tried to settle.
    WAITS_FOR_RUN = "waits_for_run"
    STILL_DIFFERS = "still_differs"
    #: The database has refused these values.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A product that differs: it is compared again in each pass. ``since`` is the source's time since which it may."""

    since: ClusterTime
    reason: UnsettledReason


@dataclass(frozen=True, slots=True)
class FullProof:
    """A full run that passed its checks. ``at`` is when its reading began, ``time`` the source's time of its
    position."""

    run_id: str
    at: datetime
    time: ClusterTime


@dataclass(frozen=True, slots=True)
class StoredPosition:
    """Every change up to ``position`` was compared and agrees, or its product is in ``unsettled``; everything else was
    compared by ``proof``."""

    position: ChangePosition
    proof: FullProof
    unsettled: Mapping[SourceId, Unsettled]


@dataclass(frozen=True, slots=True)
class LostPosition:
    """Why there is no position until the next full run. ``proof`` is the last full run that passed its checks."""

    reason: str
    message: str
    hint: str
    proof: FullProof


def read_position(folder: StateFolder) -> StoredPosition | None:
    """``None`` before the first full run, after a loss, and for a damaged file, which is set aside with a warning."""
    found = _read(folder)
    return found if isinstance(found, StoredPosition) else None


def read_lost(folder: StateFolder) -> LostPosition | None:
    """Why the last position was lost; ``None`` once a full run has stored a new one."""
    found = _read(folder)
    return found if isinstance(found, LostPosition) else None


def read_last_proof(folder: StateFolder) -> FullProof | None:
    """The last full run that passed its checks, also if its position is lost."""
    found = _read(folder)
    return found.proof if found else None


def take_position(folder: StateFolder, source: Source) -> ChangePosition:
    """The position to store after a full run that begins now. Later reads of ``source`` see everything before it.

    A stored position of another collection, or one that lies in the future because a backup was restored, is dropped:
    else it would keep the new one away. Raises the errors of `ChangeFeed.position` and `Source.read_after`.
    """
    stored = read_position(folder)
    position = source.change_feed().position()
    if stored and (stored.position.collection != position.collection or stored.position.time > position.time):
        _file(folder).replace(lambda path: path.unlink(missing_ok=True))
    source.read_after(position)
    return position


def record_full_proof(
    folder: StateFolder,
    position: ChangePosition,
    *,
    run_id: str,
    at: datetime,
    unsettled: Mapping[SourceId, Unsettled],
) -> bool:
    """Store what a full run has proven. ``position`` was taken before its reading, ``at`` is when that began.

    False if a newer full run has stored its own. If passes have gone further meanwhile, the further position stays,
    with the unsettled products of both.
    """
    proof = FullProof(run_id, at, position.time)

    def record(path: Path) -> bool:
        new, stored = StoredPosition(position, proof, unsettled), read_position(folder)
        if stored is not None and stored.position.collection == position.collection:
            if stored.proof.time > proof.time:
                return False
            if stored.position.time > position.time:
                new = replace(new, position=stored.position, unsettled={**unsettled, **stored.unsettled})
        _write(path, new)
        return True

    return _file(folder).replace(record)


def record_proof_alone(folder: StateFolder, error: ChangesUnavailable, *, run_id: str, at: datetime) -> None:
    """Store that a full run has passed its checks that could take no position. A stored position stays: it does not
    depend on this run."""
    proof = FullProof(run_id, at, ClusterTime(0, 0))

    def record(path: Path) -> None:
        if read_position(folder) is None:
            _write_lost(path, LostPosition(LostReason.UNAVAILABLE, error.message, error.hint, proof))

    _file(folder).replace(record)


def advance(
    folder: StateFolder, since: StoredPosition, position: ChangePosition, unsettled: Mapping[SourceId, Unsettled]
) -> bool:
    """Store what a pass has settled. ``since`` is what it began with.

    If another pass has stored its own meanwhile, the later position stays, with the unsettled products of both. False
    if a newer full proof has been stored, or the position was lost. Nothing is missed: the next pass compares the same
    changes again.
    """

    def record(path: Path) -> bool:
        stored = read_position(folder)
        if stored is None or stored.proof != since.proof:
            return False
        new = StoredPosition(position, stored.proof, unsettled)
        if stored.position != since.position:
            later = max(stored.position, position, key=lambda each: each.time)
            new = replace(new, position=later, unsettled={**stored.unsettled, **unsettled})
        _write(path, new)
        return True

    return _file(folder).replace(record)


def lose_position(folder: StateFolder, since: StoredPosition, error: ChangesLost) -> None:
    """Forget the position ``since``, and keep why, unless a full run has stored a new one meanwhile."""

    def record(path: Path) -> None:
        stored = read_position(folder)
        if stored is not None and stored.proof == since.proof:
            _write_lost(path, LostPosition(error.reason, error.message, error.hint, stored.proof))

    _file(folder).replace(record)


def _file(folder: StateFolder) -> Replaced:
    return folder.replaced(CHANGES)


def _write(path: Path, stored: StoredPosition) -> None:
    if len(stored.unsettled) > MAX_UNSETTLED:
        lost = LostPosition(
            LostReason.TOO_MANY_UNSETTLED,
            f"{len(stored.unsettled)} products could not be settled, more than {MAX_UNSETTLED}.",
            "Remove the cause that the last runs name; full syncs go on.",
            stored.proof,
        )
        _write_lost(path, lost)
        return
    write_json(path, as_json(stored))


def _write_lost(path: Path, lost: LostPosition) -> None:
    write_json(path, {"lost": asdict(lost) | {"proof": _proof_as_json(lost.proof)}})


def _read(folder: StateFolder) -> StoredPosition | LostPosition | None:
    file = _file(folder)
    with local_storage(folder.root):
        path = file.read()
        try:
            content = read_json(path)
            return None if content is None else parsed(content)
        except (LocalStorageError, TypeError, KeyError, ValueError):
            said = "The position in the source's changes", "A full sync compares everything and stores a new one."
            file.set_aside(*said)
            return None


def as_json(stored: StoredPosition) -> dict[str, Any]:
    """What `parsed` reads."""
    unsettled = [[*source_id, *each.since, each.reason] for source_id, each in stored.unsettled.items()]
    return {"position": asdict(stored.position), "proof": _proof_as_json(stored.proof), "unsettled": unsettled}


def _proof_as_json(proof: FullProof) -> dict[str, Any]:
    return asdict(proof) | {"at": proof.at.isoformat()}


def _proof_of(content: Mapping[str, Any]) -> FullProof:
    return FullProof(content["run_id"], datetime.fromisoformat(content["at"]), ClusterTime(*content["time"]))


def position_of(content: Mapping[str, Any]) -> ChangePosition:
    """A position as `dataclasses.asdict` wrote it to JSON."""
    return ChangePosition(content["token"], ClusterTime(*content["time"]), content["collection"])


def parsed(content: Mapping[str, Any]) -> StoredPosition | LostPosition:
    """The content of the file. Raises `TypeError`, `KeyError` or `ValueError` for anything else."""
    if lost := content.get("lost"):
        return LostPosition(**{**lost, "proof": _proof_of(lost["proof"])})
    return StoredPosition(
        position_of(content["position"]),
        _proof_of(content["proof"]),
        {
            SourceId(kind, text): Unsettled(ClusterTime(seconds, increment), UnsettledReason(why))
            for kind, text, seconds, increment, why in content["unsettled"]
        },
    )
