"""A pass compares the products that the source has changed since the last proof or pass.

It begins with the changes from the stored position to now, whose ids it notes in the files of the run. The run then
compares, loads and verifies these products like any other run of a part. At its end the pass stores the new position
with the products that could not be settled. A pass that is killed stores nothing, so the next one begins at the same
position: changes are compared twice, never skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.errors import ChangesLost, ChangesUnavailable, StalePlan
from product_sync.load.batching import read_batches
from product_sync.pipeline.pending_diff import taken_at
from product_sync.runtime.progress import Meter
from product_sync.schema.changes import ChangePosition, ClusterTime
from product_sync.schema.ports import Source
from product_sync.schema.records import IdType, Op, SourceId
from product_sync.schema.row_schema import ID_TYPE
from product_sync.schema.scope import Changed
from product_sync.state import change_position, store
from product_sync.state.change_position import MAX_UNSETTLED, StoredPosition, Unsettled, UnsettledReason
from product_sync.state.store import RunFiles, StateFolder

if TYPE_CHECKING:
    from product_sync.pipeline.sync_run import SyncRun

#: Bounds of one pass. What lies behind them is compared by the next one. The time is for an oplog with many millions of
#: changes of other collections, which MongoDB searches before it replies.
MAX_EVENTS: Final = 100_000
WITHIN_S: Final = 3_600.0
_ROWS: Final = 2_000
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pass:
    """``since`` is where the pass begins, ``position`` where the next one will. ``changed_at`` has the ids, each with
    the second of the source's time since which it may differ. ``young`` are the ids that changed less than the settle
    time before ``now``: their events may still be on their way to the target. ``clock`` and ``read_at`` are the
    source's and this machine's clock at ``now``.
    """

    since: StoredPosition
    position: ChangePosition
    now: ClusterTime
    clock: int
    events: int
    at_end: bool
    changed_at: Mapping[str, int]
    others: Sequence[SourceId]
    young: frozenset[str]
    read_at: datetime

    @property
    def scope(self) -> Changed:
        texts, since = tuple(self.changed_at), self.since
        return Changed(texts, self.others, since=since.position.time.at, unsettled=len(since.unsettled))

    @property
    def lag_s(self) -> float:
        """How many seconds of the source's time lie behind the new position."""
        return self.now.seconds_since(self.position.time)


@dataclass(frozen=True, slots=True)
class Followed:
    """Up to when changes are compared, how many products are not settled, and the full proof under it."""

    position_at: datetime
    unsettled: int
    full_proof_at: datetime
    change_to_repair_s: float | None = None

    @property
    def numbers(self) -> dict[str, int | str]:
        """As they are recorded with a check and reported, with times in ISO 8601."""
        position_at, full_proof_at = self.position_at.isoformat(), self.full_proof_at.isoformat()
        return {"position_at": position_at, "unsettled": self.unsettled, "full_proof_at": full_proof_at}


@dataclass(slots=True)
class Differing:
    """Collects the products that differ at the end of a run. An extra row that is left alone on purpose, or that a full
    run could not delete, is settled: the check no_extra_products reports it. The run has not tried what differs about
    rows that were ``overtaken``: somebody else wrote them before it could."""

    keeps_extra: bool
    overtaken: frozenset[str] = frozenset()
    reasons: dict[SourceId, UnsettledReason] = field(default_factory=dict)

    def add(self, rows: pa.Table, confirmed: Mapping[Op, Sequence[str]]) -> None:
        """Add rows of a diff. ``confirmed`` are the ids that still differed at the second reading."""
        stands = {op: set(ids) for op, ids in confirmed.items()}
        for op, source_id in _named(rows):
            was_tried = source_id.text in stands.get(op, ()) and source_id.text not in self.overtaken
            if not (was_tried and op is Op.EXTRA and self.keeps_extra):
                self._add(source_id, UnsettledReason.STILL_DIFFERS if was_tried else UnsettledReason.IN_FLIGHT)

    def add_refused(self, differences: Path) -> None:
        """Add the rows of a diff file that the database has refused."""
        for rows in read_batches(differences, tuple(Op), lambda: _ROWS):
            for _, source_id in _named(rows.filter(pc.field("refused_before"))):
                self._add(source_id, UnsettledReason.REFUSED)

    def _add(self, source_id: SourceId, reason: UnsettledReason) -> None:
        if len(self.reasons) <= MAX_UNSETTLED:  # with more, the position is given up anyway
            self.reasons[source_id] = reason


def begin(run: SyncRun) -> None:
    """Read the changes up to now, and note them for the other steps of this run. Does nothing if that is done.

    Raises `ChangesUnavailable` if the source cannot be followed or no full sync has stored a position yet, and
    `ChangesLost` if changes were missed; the stored position is then dropped.
    """
    if run.files.has(store.CHANGED_IDS):
        return
    since = change_position.read_position(run.folder)
    if since is None:
        raise _no_position(run)
    try:
        with run.databases.open_source(run.timing) as source:
            changes = source.change_feed().changes(since.position, max_events=MAX_EVENTS, within_s=WITHIN_S)
    except ChangesLost as error:
        change_position.lose_position(run.folder, since, error)
        raise
    times = {**changes.ids, **{source_id: each.since for source_id, each in since.unsettled.items()}}
    young = [
        source_id.text for source_id, at in changes.ids.items()
        if source_id.type != IdType.OTHER and changes.age_s(at) < run.settings.settle_seconds
    ]  # fmt: skip
    run.files.write_json(
        store.CHANGED_IDS,
        {
            "since": change_position.as_json(since),
            "position": asdict(changes.position),
            "now": changes.now,
            "clock": changes.clock,
            "events": changes.events,
            "at_end": changes.at_end,
            "changed_at": {each.text: at.seconds for each, at in sorted(times.items()) if each.type != IdType.OTHER},
            "others": sorted(source_id for source_id in times if source_id.type == IdType.OTHER),
            "young": young,
            "read_at": run.timing.now().isoformat(),
        },
    )


def of(files: RunFiles) -> Pass:
    """The pass of a run. Raises `StalePlan` if the run has not read the changes."""
    content = files.read_json(store.CHANGED_IDS)
    if content is None:
        raise StalePlan(
            "This run has not read what the source has changed.",
            hint="Start the whole job: its first step reads the changes and both sides.",
        )
    since = change_position.parsed(content["since"])
    assert isinstance(since, StoredPosition)  # noqa: S101 - `begin` wrote it
    return Pass(
        since,
        change_position.position_of(content["position"]),
        ClusterTime(*content["now"]),
        content["clock"],
        content["events"],
        content["at_end"],
        content["changed_at"],
        [SourceId(*each) for each in content["others"]],
        frozenset(content["young"]),
        datetime.fromisoformat(content["read_at"]),
    )


def waits_for_events(run: SyncRun) -> bool:
    """Wait once if a product that has just changed differs: the event about it may still be on its way. Returns whether
    it has waited: then both sides are to be read again."""
    young = of(run.files).young
    if not young:
        return False
    run.diff()
    differences = read_batches(run.files.path(store.DIFF), tuple(Op), lambda: _ROWS)
    if not any(source_id.text in young for rows in differences for _, source_id in _named(rows)):
        return False
    waits = Meter("wait for events", None, run.on_progress, run.timing)
    waits.pause(run.settings.settle_seconds, "changes of the last seconds")
    return True


def settle(run: SyncRun, differing: Mapping[SourceId, UnsettledReason]) -> Followed:
    """Store the new position of the pass, with the products that still differ. A product that was unsettled before
    keeps its time."""
    made = of(run.files)
    unsettled = {
        source_id: Unsettled(ClusterTime(made.changed_at.get(source_id.text, made.now.seconds), 0), reason)
        for source_id, reason in differing.items()
    }
    if not change_position.advance(run.folder, made.since, made.position, unsettled):
        _LOGGER.warning("Another run has stored a position meanwhile: the next pass compares these changes again.")
    return followed(run.folder) or Followed(made.since.position.time.at, len(unsettled), made.since.proof.at)


def longest_repair_s(run: SyncRun, differing: Mapping[SourceId, UnsettledReason]) -> float | None:
    """The longest time from a change in the source to its repair by this pass, in seconds; ``None`` without a repair.
    An extra row that is left alone is not repaired.

    The source's clock is that of the reading, plus what has passed since on this machine."""
    made, left = of(run.files), {source_id.text for source_id in differing}
    written = tuple(Op) if run.settings.extra == "delete" else (Op.INSERT, Op.UPDATE)
    repaired = [
        made.changed_at[source_id.text]
        for rows in read_batches(run.files.path(store.DIFF), written, lambda: _ROWS)
        for _, source_id in _named(rows)
        if source_id.text in made.changed_at and source_id.text not in left
    ]
    passed_s = made.clock + (run.timing.now() - made.read_at).total_seconds()
    return max(0.0, passed_s - min(repaired)) if repaired else None


def take_position(run: SyncRun, source: Source) -> None:
    """Note the position of a full run that begins to read now, or why the source cannot be followed. A pass reads what
    is not older than the changes that it has read, a shard what is not older than the position of its run."""
    if run.settings.changes:
        source.read_after(of(run.files).position)
    if run.part is not None:
        if noted := (run.files.whole.read_json(store.CHANGE_POSITION) or {}).get("position"):
            source.read_after(change_position.position_of(noted))
        return
    if run.is_partial or run.settings.dry_run:
        return
    try:
        position = change_position.take_position(run.folder, source)
    except ChangesUnavailable as error:
        run.files.write_json(store.CHANGE_POSITION, {"unavailable": [error.message, error.hint]})
    else:
        run.files.write_json(store.CHANGE_POSITION, {"position": asdict(position)})


def record_proof(run: SyncRun, differing: Mapping[SourceId, UnsettledReason]) -> Followed | None:
    """Store the position of a full run that has passed its checks. ``None`` if the source cannot be followed."""
    content = run.files.read_json(store.CHANGE_POSITION) or {}
    run_id, at = run.files.run_id, taken_at(run.files.path(store.SOURCE_ROWS))
    if unavailable := content.get("unavailable"):
        error = ChangesUnavailable(unavailable[0], hint=unavailable[1])
        change_position.record_proof_alone(run.folder, error, run_id=run_id, at=at)
    if "position" not in content:
        return None
    position = change_position.position_of(content["position"])
    unsettled = {source_id: Unsettled(position.time, reason) for source_id, reason in differing.items()}
    change_position.record_full_proof(run.folder, position, run_id=run_id, at=at, unsettled=unsettled)
    return followed(run.folder)


def followed(folder: StateFolder) -> Followed | None:
    """How far the changes are compared now; ``None`` if nothing is followed."""
    stored = change_position.read_position(folder)
    return Followed(stored.position.time.at, len(stored.unsettled), stored.proof.at) if stored else None


def _no_position(run: SyncRun) -> ChangesUnavailable | ChangesLost:
    hint = f"Run a full sync: `{run.commands.product_sync('sync')}`. Changes are followed from there."
    if lost := change_position.read_lost(run.folder):
        return ChangesLost(lost.message, reason=lost.reason, hint=hint)
    return ChangesUnavailable(
        f"No full run of the sync {run.name} has passed on these two sides yet, so no change can be followed.",
        hint=hint,
    )


def _named(rows: pa.Table) -> Iterable[tuple[Op, SourceId]]:
    """The op and the id of each row. The ``_id`` of an extra row is not known; its text is enough."""
    columns = (rows[name].to_pylist() for name in ("op", ID_TYPE, "id"))
    return [(Op(op), SourceId(kind or IdType.STRING, text)) for op, kind, text in zip(*columns, strict=True)]
