"""Finds violations in the histories, by the sync or by the consumer of the events.

It uses no code of `product_sync`, only the shop's versions, the audit of the target and the times of each run.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from product_sync_torture.live.histories import ShopHistory, Written


@dataclass(frozen=True, slots=True)
class Run:
    """One sync. ``complaint`` is its error, if any; ``named`` are the products that the error calls missing or
    changed."""

    started: float
    ended: float
    settle_s: float
    complaint: str = ""
    named: tuple[str, ...] = ()


@dataclass
class Verdict:
    """``violations`` are those of the sync, as sentences. ``counts`` say how much was checked."""

    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def judge_writes(shop: ShopHistory, audit: Sequence[Written], runs: Sequence[Run]) -> Verdict:
    """Checks every write of the sync against the shop's versions during that run."""
    judged = Verdict()
    newest: dict[str, int] = {}
    appeared: dict[str, float] = {}
    for entry in audit:
        who = "ours" if entry.by_us else "consumer's"
        judged.counts[f"{who}: {_kind(entry)}"] += 1
        if entry.new is not None and entry.old is not None and entry.new < entry.old:
            judged.counts[f"{who}: went back"] += 1
        if entry.by_us:
            judged.violations += _faults(
                shop, entry, _run_of(entry, runs), appeared.get(entry.id, 0.0), newest.get(entry.id, 0)
            )
        if entry.old is None:
            appeared[entry.id] = entry.at
        newest[entry.id] = max(newest.get(entry.id, 0), entry.new or 0)
    return judged


def _kind(entry: Written) -> str:
    return "insert" if entry.old is None else "delete" if entry.new is None else "update"


def _run_of(entry: Written, runs: Sequence[Run]) -> Run:
    return next(run for run in reversed(runs) if run.started <= entry.at)


def _faults(shop: ShopHistory, entry: Written, run: Run, appeared: float, newest: int) -> list[str]:
    """``appeared`` is when the row was inserted, ``newest`` its newest version so far."""
    at_the_time = shop.versions_between(entry.id, run.started, entry.at)
    faults = []
    if entry.new is None:
        if None not in shop.versions_between(entry.id, max(run.started, appeared), entry.at):
            faults.append(f"{entry.id}: deleted although the shop always had it")
    elif entry.new not in at_the_time:
        faults.append(f"{entry.id}: got version {entry.new}, which the shop did not hold during the run")
    if entry.old is not None and entry.new is not None and entry.new <= entry.old:
        faults.append(f"{entry.id}: went back from version {entry.old} to {entry.new}")
    if entry.old is None and entry.new is not None and entry.new < newest and None not in at_the_time:
        faults.append(
            f"{entry.id}: inserted again as version {entry.new} after version {newest}, without a delete in the shop"
        )
    return faults


def judge_reinserted(shop: ShopHistory, audit: Sequence[Written], deletions: Mapping[str, float]) -> Verdict:
    """Finds rows that the sync inserted after the consumer had applied the delete event of the product.

    ``audit`` was read after all events had arrived; ``deletions`` has the time of each applied delete event. The sync
    must remove such a row in the same run, before any other write to it.
    """
    judged = Verdict()
    entries: dict[str, list[Written]] = defaultdict(list)
    for entry in audit:
        entries[entry.id].append(entry)
    alive = shop.now()
    for row_id, history in entries.items():
        for entry, following in zip(history, [*history[1:], None], strict=True):
            if following is None:
                if entry.new is not None and row_id not in alive:
                    _judge_left(judged, entry, row_id in deletions)
            elif _is_late_removal(entry, following, deletions.get(row_id, math.inf)):
                judged.violations.append(_reinserted(entry))
    return judged


def _is_late_removal(entry: Written, following: Written, deletion: float) -> bool:
    """Whether a later run of the sync removed the row that a run had inserted, after its delete event was applied."""
    by_another_run = following.by_us and following.writer != entry.writer
    return entry.by_us and entry.old is None and following.new is None and by_another_run and deletion < following.at


def _judge_left(judged: Verdict, entry: Written, was_applied: bool) -> None:
    """The row of a deleted product at the end. If its delete event was applied, the row was written afterwards."""
    if not was_applied:
        judged.counts["left: its delete event was lost"] += 1
    elif entry.by_us:
        judged.violations.append(_reinserted(entry))
    else:
        judged.counts["left: inserted by a late event"] += 1


def _reinserted(entry: Written) -> str:
    return f"{entry.id}: deleted, and inserted again by the sync as version {entry.new}"


def judge_runs(shop: ShopHistory, audit: Sequence[Written], runs: Sequence[Run]) -> Verdict:
    """Every error must name products that really differed while the run verified them."""
    judged = Verdict(counts=Counter({"runs": len(runs)}))
    for run in runs:
        if not run.complaint:
            continue
        judged.counts["runs: red"] += 1
        if not run.named:
            judged.violations.append(f"failed without a product: {run.complaint}")
        for product_id in run.named:
            in_shop = shop.versions_between(product_id, run.ended - run.settle_s, run.ended)
            in_cart = _row_versions(audit, product_id, run.ended - run.settle_s, run.ended)
            if in_shop & in_cart and len(in_shop) == 1 == len(in_cart):
                judged.violations.append(f"failed because of {product_id}, which was equal: {run.complaint}")
            else:
                judged.counts["runs: products that were stale"] += 1
    return judged


def _row_versions(audit: Sequence[Written], row_id: str, start: float, end: float) -> set[int | None]:
    entries = [entry for entry in audit if entry.id == row_id and entry.at <= end]
    before = [entry.new for entry in entries if entry.at <= start]
    return {before[-1] if before else None} | {entry.new for entry in entries if entry.at > start}


def judge_end(shop: ShopHistory, source: Mapping[str, int | None], target: Mapping[str, int | None]) -> Verdict:
    """Both sides must have the last version of every product, and nothing else."""
    judged = Verdict()
    expected = shop.now()
    for side, found in (("shop", source), ("target", target)):
        wrong = {row_id for row_id in expected.keys() | found.keys() if expected.get(row_id) != found.get(row_id)}
        judged.violations += [
            f"{row_id}: version {found.get(row_id)} in the {side} at the end, not {expected.get(row_id)}"
            for row_id in sorted(wrong)
        ]
    judged.counts["products at the end"] = len(expected)
    return judged


def together(parts: Sequence[Verdict]) -> Verdict:
    """Merge the verdicts."""
    return Verdict(
        [violation for part in parts for violation in part.violations], sum((part.counts for part in parts), Counter())
    )
