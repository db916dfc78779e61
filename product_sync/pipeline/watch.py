"""One look of the watch: compares the products that the source has changed, and says whether a run is needed.

A run starts a process, which costs eighty times what the comparison of a few products costs. So the watch compares in
the process that asks, and a run is started only for products that differ. It writes to neither database. A product that
differs stays in the unsettled set until a run, or the event that was on its way, has settled it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa

from product_sync.compare.quarantine import entries_of, refused_rows
from product_sync.compare.rule import compare_rows
from product_sync.conversion.document import key_of
from product_sync.conversion.ids import can_be_in, possible_ids
from product_sync.errors import ChangesLost
from product_sync.pipeline.databases import Databases
from product_sync.runtime.clock import SYSTEM_TIMING, Timing
from product_sync.schema.changes import Changes
from product_sync.schema.ports import Source
from product_sync.schema.records import IdType, SourceBatch, SourceId
from product_sync.state import change_position
from product_sync.state.change_position import (
    MAX_UNSETTLED,
    LostPosition,
    StoredPosition,
    Unsettled,
    UnsettledReason,
)
from product_sync.state.store import StateFolder

#: Events of one look, and how long it reads them. With more, a run compares them.
MAX_EVENTS = 20_000
WITHIN_S = 5.0
_NOT_TRIED = (UnsettledReason.IN_FLIGHT, UnsettledReason.WAITS_FOR_RUN)


@dataclass(frozen=True, slots=True)
class Look:
    """What a look found. ``stored`` is the position after it; ``None`` if there is none to follow from, and then
    ``lost`` says why if one was lost.

    ``due`` are the products that differ although their event is older than the settle time, and that no run has tried
    yet; ``tried`` are those that a run could not settle. ``backlog`` says that a look cannot read all events, or
    that too many products differ to be kept as unsettled: then the position has not moved. Nor has it if products
    differ while the run ``waits_for`` compares them.
    """

    stored: StoredPosition | None
    lost: LostPosition | None = None
    lag_s: float = 0.0
    events: int = 0
    compared: int = 0
    due: Collection[SourceId] = ()
    tried: Collection[SourceId] = ()
    backlog: bool = False
    waits_for: str = ""
    unsettled: Mapping[SourceId, Unsettled] = field(default_factory=dict)


def _no_pass() -> str:
    return ""


def look(
    databases: Databases,
    folder: StateFolder,
    *,
    settle_s: float,
    unfinished_pass: Callable[[], str] = _no_pass,
    timing: Timing = SYSTEM_TIMING,
) -> Look:
    """Compare what changed since the stored position, and store the new one.

    If a product differs, ``unfinished_pass`` is asked for the id of a pass that is queued or at work: the look would
    keep as unsettled what the pass settles, such as an extra row, and another pass would follow, without end.

    Raises `ChangesUnavailable` if the source cannot be followed, and the errors of reading either side. Then the
    position stays as it was.
    """
    since = change_position.read_position(folder)
    if since is None:
        return _without_position(folder)
    with databases.open_source(timing) as source:
        try:
            changes = source.change_feed().changes(since.position, max_events=MAX_EVENTS, within_s=WITHIN_S)
        except ChangesLost as error:
            change_position.lose_position(folder, since, error)
            return _without_position(folder)
        lag_s = changes.now.seconds_since(since.position.time)
        backlog = Look(since, lag_s=lag_s, events=changes.events, backlog=True, unsettled=since.unsettled)
        if not changes.at_end:
            return backlog
        ids = {*changes.ids, *since.unsettled}
        differing = _differing(databases, folder, source, changes, ids) if ids else {}
    if len(differing) > MAX_UNSETTLED:
        return backlog
    if differing and (run_id := unfinished_pass()):
        return replace(backlog, backlog=False, waits_for=run_id)
    unsettled = {each: _unsettled(since, changes, each, is_refused) for each, is_refused in differing.items()}
    change_position.advance(folder, since, changes.position, unsettled)
    due: list[SourceId] = []
    tried: list[SourceId] = []
    for each, what in unsettled.items():
        if changes.age_s(changes.ids.get(each, what.since)) >= settle_s:
            (due if what.reason in _NOT_TRIED else tried).append(each)
    stored = change_position.read_position(folder)
    if stored is None:
        return _without_position(folder)
    return Look(
        stored, lag_s=changes.lag_s, events=changes.events, compared=len(ids), due=due, tried=tried, unsettled=unsettled
    )


def _without_position(folder: StateFolder) -> Look:
    return Look(None, change_position.read_lost(folder))


def _unsettled(since: StoredPosition, changes: Changes, source_id: SourceId, is_refused: bool) -> Unsettled:
    """A product that has changed again is a new one to a run, but it differs since the first time."""
    before, at = since.unsettled.get(source_id), changes.ids.get(source_id)
    if before is None or at is not None:
        first = before.since if before else changes.ids[source_id]
        return Unsettled(first, UnsettledReason.REFUSED if is_refused else UnsettledReason.WAITS_FOR_RUN)
    return before


def _differing(
    databases: Databases, folder: StateFolder, source: Source, changes: Changes, ids: Collection[SourceId]
) -> dict[SourceId, bool]:
    """Which of these products differ now, or enter or leave the quarantine, each with whether the database has refused
    it with the same values. Two documents with one text are one product."""
    row_schema = databases.row_schema
    source.read_after(changes.position)
    texts = {each.text for each in ids if each.type != IdType.OTHER}
    others = [each for each in ids if each.type == IdType.OTHER]
    batch = source.fetch([*(each for text in texts for each in possible_ids(text)), *others])
    key_type = row_schema.key.type
    target = databases.reader().fetch(sorted(text for text in texts if can_be_in(key_type, text)))
    quarantine = folder.sound_quarantine()
    rejected = _rejected(batch)
    refused = refused_rows(quarantine, row_schema) if quarantine else row_schema.source_schema.empty_table()
    rows = pa.Table.from_batches([batch.rows])
    found: dict[str, bool] = {}
    for is_refused, _, table in compare_rows(row_schema, rows, target, pa.array(rejected, pa.string()), refused):
        found |= dict.fromkeys(table["id"].to_pylist(), is_refused)
    differing = {each: found[each.text] for each in ids if each.type != IdType.OTHER and each.text in found}
    keys = {each.source_key for each in batch.rejects if each.source_id is None}
    known = entries_of(quarantine, texts, {*map(key_of, others)}) if quarantine else []
    moves = set(rejected) ^ ({entry["id"] for entry in known} - found.keys())
    differing |= {each: False for each in ids if each.type != IdType.OTHER and each.text in moves}
    if keys != {entry["source_key"] for entry in known if entry["id"] is None}:
        differing |= dict.fromkeys(others, False)
    return differing


def _rejected(batch: SourceBatch) -> list[str]:
    """The ids that a row cannot be compared for: of rejects, and of several documents with one text."""
    texts = [reject.source_id.text for reject in batch.rejects if reject.source_id]
    seen: set[str] = set(texts)
    for text in batch.rows.column(1).to_pylist():
        if text in seen:
            texts.append(text)
        seen.add(text)
    return sorted(set(texts))
