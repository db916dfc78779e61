"""A field that stands twice has no value that could be copied: such a document goes to the quarantine, and only it."""

from __future__ import annotations

import bson
import pytest

from product_sync.conversion.document import RowConverter
from product_sync.schema.records import Reason
from product_sync_tests.row_schemas import INTEGER, TEXT, document, element, row_schema_of, string

ROW_SCHEMA = row_schema_of({"title": TEXT, "price": INTEGER}, {"price": {"source": "price.amount", "required": True}})
ID = element(0x10, b"_id", b"\1\0\0\0")
TITLE = element(0x02, b"title", string(b"Tea"))
REGEX = element(0x0B, b"pattern", b"title\0i\0")


def integer(name: bytes, value: int) -> bytes:
    return element(0x10, name, value.to_bytes(4, "little"))


def price(*members: bytes) -> bytes:
    return element(0x03, b"price", document(*members))


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([TITLE, TITLE, price(integer(b"amount", 5))], [("title", Reason.REPEATED_FIELD)]),
        ([TITLE, price(integer(b"amount", 5), integer(b"amount", 6))], [("price", Reason.REPEATED_FIELD)]),
        ([TITLE, price(), REGEX, price(integer(b"amount", 5))], [("price", Reason.REPEATED_FIELD)]),
        (
            [element(0x08, b"title", b"\1"), price(integer(b"amount", 5)), price()],
            [("title", Reason.WRONG_TYPE), ("price", Reason.REPEATED_FIELD)],
        ),
        ([TITLE, TITLE], [("title", Reason.REPEATED_FIELD)]),  # and no price: the server may have left it out
        ([ID, TITLE, price(integer(b"amount", 5))], [("id", Reason.REPEATED_FIELD)]),
    ],
)
def test_a_mapped_field_that_stands_twice_is_a_reason(members: list[bytes], expected: list[tuple[str, Reason]]) -> None:
    (reject,) = RowConverter(ROW_SCHEMA).batch([document(ID, *members)]).rejects
    assert [(defect.column, defect.reason) for defect in reject.defects] == expected


@pytest.mark.parametrize(
    "members",
    [
        [TITLE, price(integer(b"amount", 5)), integer(b"other", 1), integer(b"other", 2)],
        [TITLE, price(integer(b"amount", 5), integer(b"title", 5), integer(b"tax", 1), integer(b"tax", 2))],
        [element(0x02, b"title", string(b"title\0price")[:-1] + b"\0"), price(integer(b"amount", 5))],
        [TITLE, REGEX, price(integer(b"amount", 5)), element(0x03, b"old", document(TITLE, TITLE))],
    ],
    ids=["not mapped", "beside the path", "only in a text", "in another document"],
)
def test_what_no_column_is_made_of_may_stand_twice(members: list[bytes]) -> None:
    batch = RowConverter(row_schema_of({"price": INTEGER}, {"price": {"source": "price.amount"}})).batch(
        [document(ID, *members)]
    )
    assert batch.rows["price"].to_pylist() == [5]


def test_two_ids_that_differ_only_in_what_a_decoder_drops_have_keys_of_their_own() -> None:
    ids = [[integer(b"a", 1), integer(b"a", 2)], [integer(b"a", 2)], [price(TITLE, TITLE)]]
    raws = [document(element(0x03, b"_id", document(*members))) for members in ids]
    first, second, third = RowConverter(ROW_SCHEMA).batch(raws).rejects
    assert len({first.source_key, second.source_key, third.source_key}) == 3
    assert second.source_key == '{"a": {"$numberInt": "2"}}'
    assert bson.decode(raws[0]) == bson.decode(raws[1]), "what the decoder makes of them is the same"
