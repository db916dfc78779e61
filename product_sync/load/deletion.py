"""Decides whether, and which, extra rows may be deleted.

The next run cannot repair a deletion. So a row is kept if there is any reason for it (design section 6): the source was
not read completely, its id exists with another BSON type, too many rows are extra, or a constraint would change the
rows of other tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.compare import diff_rows
from product_sync.conversion.ids import possible_ids
from product_sync.schema.ports import Source

MAX_DELETE_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class DeletionFacts:
    """What the decision needs. ``cascading_foreign_keys`` names the foreign keys onto the table whose ON DELETE is
    CASCADE, SET NULL or SET DEFAULT; ``source_complete`` says that the source snapshot passed its check."""

    extra: int
    target_count: int
    source_complete: bool
    cascading_foreign_keys: Sequence[str]
    max_delete_share: float = MAX_DELETE_SHARE


def reason_to_keep(facts: DeletionFacts) -> str | None:
    """Why no extra row may be deleted, or ``None`` if they may be."""
    if not facts.source_complete:
        return "The source snapshot did not pass its check, so rows may be called extra by mistake."
    if facts.cascading_foreign_keys:
        return (
            f"Deleting would change other tables: {', '.join(facts.cascading_foreign_keys)} "
            "has ON DELETE CASCADE, SET NULL or SET DEFAULT."
        )
    if facts.extra > facts.max_delete_share * facts.target_count:
        return (
            f"{facts.extra:,} of {facts.target_count:,} rows are extra, which is more than "
            f"{100 * facts.max_delete_share:g} %: check them, then raise max_delete_share if they should be deleted."
        )
    return None


def confirmed_absent(rows: pa.Table, source: Source) -> pa.Table:
    """The extra rows of the diff for which no document exists now, under any ``_id`` that maps to the row's id."""
    present = present_in_source(diff_rows.ids(rows), source)
    return rows.filter(pc.invert(pc.is_in(rows["id"], value_set=pa.array(sorted(present), pa.string()))))


def present_in_source(ids: Sequence[str], source: Source) -> set[str]:
    """The text ids that exist in the source now, with any BSON type."""
    candidates = [candidate for text in ids for candidate in possible_ids(text)]
    return {found.text for found in source.existing(candidates)}
