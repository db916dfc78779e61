"""What a run looks at: everything, the products that a person names, or those that the source has changed.

The readers of both sides take the scope. Comparing, loading and verifying do not know it: they take what was read. A
verdict always names its scope, because a few products that agree do not show that the copy agrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from product_sync.schema.records import SourceId


@dataclass(frozen=True, slots=True)
class Everything:
    """Every document and every row."""

    kind = "everything"

    def __str__(self) -> str:
        return "everything"


@dataclass(frozen=True, slots=True)
class Ids:
    """Some products. ``texts`` are ids as the target has them: every document whose ``_id`` has that text is read.
    ``others`` are ``_id``s of BSON types that no row can have: only the quarantine may hold their documents."""

    texts: Sequence[str]
    others: Sequence[SourceId] = ()

    kind = "ids"

    def __len__(self) -> int:
        return len(self.texts) + len(self.others)

    def __str__(self) -> str:
        return f"{len(self):,} named {'product' if len(self) == 1 else 'products'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed(Ids):
    """The products that the source has changed after ``since``, and ``unsettled`` ones that a run before could not
    settle."""

    since: datetime
    unsettled: int

    kind = "changes"

    def __str__(self) -> str:
        products = f"{len(self):,} {'product' if len(self) == 1 else 'products'}"
        before = " or were not settled then" if self.unsettled else ""
        return f"{products} that changed since {self.since:%Y-%m-%d %H:%M:%S} UTC{before}"


Scope = Everything | Ids
EVERYTHING: Final = Everything()
