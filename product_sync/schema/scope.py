"""What a run looks at: everything, the products that a person names, or those that the source has changed.

The readers of both sides take the scope. Comparing, loading and verifying do not know it: they take what was read. A
verdict always names its scope, because a few products that agree do not show that the copy agrees. A run of everything
may be cut into shards: then each shard reads a range of ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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
class KeyRange:
    """The products whose id, as text, is not below ``first`` and below ``end``, if there is an end. The order is that
    of the bytes of UTF-8, whatever the databases' collations are. A document whose ``_id`` has no text is in one of the
    ranges too. The first one begins with the empty text.

    Both bounds are printable ASCII without a blank at the end, so that they mean the same in every encoding and in
    char(n). It is range ``number`` of ``of``, counted from 0."""

    first: str = ""
    end: str | None = None
    number: int = 0
    of: int = 1

    kind = "range"

    def __contains__(self, text: str) -> bool:
        return self.first <= text and (self.end is None or text < self.end)

    def __str__(self) -> str:
        return f"shard {self.number + 1} of {self.of}"


@dataclass(frozen=True, slots=True)
class Ids:
    """Some products. ``texts`` are ids as the target has them: every document whose ``_id`` has that text is read.
    ``others`` are ``_id``s of BSON types that no row can have: only the quarantine may hold their documents.
    ``called`` is what people call one of them, and several."""

    texts: Sequence[str]
    others: Sequence[SourceId] = ()
    called: tuple[str, str] = ("product", "products")

    kind = "ids"

    def __len__(self) -> int:
        return len(self.texts) + len(self.others)

    def __str__(self) -> str:
        return f"{len(self):,} named {self.called[len(self) != 1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed(Ids):
    """The products that the source has changed after ``since``, and ``unsettled`` ones that a run before could not
    settle."""

    since: datetime
    unsettled: int

    kind = "changes"

    def __str__(self) -> str:
        products = f"{len(self):,} {self.called[len(self) != 1]}"
        before = " or were not settled then" if self.unsettled else ""
        return f"{products} that changed since {self.since:%Y-%m-%d %H:%M:%S} UTC{before}"


Scope = Everything | Ids
#: What a reader of one side reads.
ReadScope = Scope | KeyRange
EVERYTHING: Final = Everything()
#: The most characters of a bound: an id may have megabytes.
_LONGEST_BOUND: Final = 64
_NOT_IN_BOUND: Final = re.compile(r"[^ -~]")


def key_ranges(sample: Iterable[str], count: int) -> list[KeyRange]:
    """At most ``count`` ranges of about the same size that together hold every id. ``sample`` are ids at random; with
    few different ones there are fewer ranges."""
    texts = sorted(sample)
    chosen = (texts[len(texts) * number // count] for number in range(1, count)) if texts else ()
    bounds = sorted({_bound(text) for text in chosen} - {""})
    pairs = zip(["", *bounds], [*bounds, None], strict=True)
    return [KeyRange(first, end, number, len(bounds) + 1) for number, (first, end) in enumerate(pairs)]


def _bound(text: str) -> str:
    return _NOT_IN_BOUND.split(text[:_LONGEST_BOUND], maxsplit=1)[0].rstrip()
