"""Tables for the UI: narrow, and telling where two values differ."""

from __future__ import annotations

from product_sync.compare.diff_lines import Difference
from product_sync.orchestration.narrow_tables import by_kind, entries, in_short, whole_differences
from product_sync.schema.records import Op

LONG = "Marlow Mini Merino Throw 130 cm, Navy"


def changed(old: str | None, new: str | None) -> Difference:
    return Difference(Op.UPDATE, "a", "title", old, new)


def test_short_values_are_told_as_they_are() -> None:
    assert in_short(changed("7", "500")) == "title: 7 → 500"
    assert in_short(changed(None, "")) == 'title: NULL → ""'


def test_long_values_are_told_where_they_differ() -> None:
    assert in_short(changed(f"{LONG} (2022 model)", LONG)) == "title: …, Navy (2022 model) → …, Navy"
    assert in_short(changed("x" * 300, "y" * 300)) == f"title: {'x' * 19}… → {'y' * 19}…"


def test_no_difference_makes_a_table_wide_and_all_of_it_is_kept_beside() -> None:
    lines = [changed(LONG * 3, LONG * 4), Difference(Op.INSERT, "b", "", None, f"title: {LONG * 3}")]
    tables = by_kind(lines)
    assert max(len(cell) for table in tables.values() for row in table.records for cell in row.data.values()) <= 56  # type: ignore[arg-type]
    assert [len(table.records) for table in tables.values()] == [1, 1, 0], "none is told by an empty table"
    assert [line["new"] for line in whole_differences(lines).value] == [LONG * 4, f"title: {LONG * 3}"]  # type: ignore[union-attr,index]


def test_an_object_id_is_its_digits_a_number_is_itself_and_a_text_stands_in_quotes() -> None:
    values = ['{"$numberDouble": "19.99"}', None]
    defect = {"columns": ["price", "title"], "reasons": ["not_exact", "missing_field"], "values": values}
    found = entries([{"source_key": '{"$oid": "507f1f77bcf86cd799439011"}', **defect}, {"source_key": '"a"', **defect}])
    assert [row.data["document"] for row in found.records] == ["507f1f77bcf86cd799439011", '"a"']
    assert found.records[0].data["why"] == "price: not_exact (19.99); title: missing_field (null)"
