"""How long a lost event stays unrepaired while the changes are followed.

It uses no code of `product_sync`: when the event was lost is known from the shop, when the row became right from the
audit of the target.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from product_sync_torture.live.histories import Fact, ShopHistory, Written


@dataclass
class Repairs:
    """Lost events by what became of them. ``delays_s`` are the seconds from each repaired one to its repair. A
    ``superseded`` one was followed by another write of its product, ``harmless`` ones left no difference. Each must
    end within ``bound_s``."""

    bound_s: float
    delays_s: list[float] = field(default_factory=list)
    superseded: int = 0
    harmless: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def distribution(self) -> str:
        """Median, 95th percentile and maximum."""
        if not self.delays_s:
            return "none"
        ordered = sorted(self.delays_s)
        at_95 = ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)]
        return f"{median(ordered):.1f} / {at_95:.1f} / {ordered[-1]:.1f}"


def judge_repairs(
    shop: ShopHistory, audit: Sequence[Written], lost: Sequence[tuple[str, Fact]], *, bound_s: float, ended: float
) -> Repairs:
    """Every lost event must be repaired within ``bound_s``, unless the product is written again before. ``ended`` is
    when the changes were no longer followed."""
    judged = Repairs(bound_s)
    rows: Mapping[str, list[Written]] = defaultdict(list)
    for entry in audit:
        rows[entry.id].append(entry)
    for product_id, fact in lost:
        history = rows[product_id]
        known = bisect_right(history, fact.done, key=lambda entry: entry.at)
        if (history[known - 1].new if known else None) == fact.version:
            judged.harmless += 1
            continue
        facts = shop.facts[product_id]
        superseded = next((each.begun for each in facts[facts.index(fact) + 1 :]), math.inf)
        repaired = next((entry.at for entry in history[known:] if entry.new == fact.version), math.inf)
        if repaired < superseded:
            judged.delays_s.append(repaired - fact.done)
        elif superseded < math.inf:
            judged.superseded += 1
        if (stood_s := min(repaired, superseded, ended) - fact.done) > bound_s:
            judged.violations.append(
                f"{product_id}: its lost event of version {fact.version} stood for {stood_s:.1f} s, not {bound_s:.1f} s"
            )
    return judged
