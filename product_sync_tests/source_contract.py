"""What every `product_sync.schema.ports.Source` promises: run on MongoDB, and on the fake that stands for it.

A subclass provides the fixture ``source_of``: given documents (Python values as BSON has them), or ``None`` for a
collection that does not exist, it returns a source of them with the row schema of `product_row_schema`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import bson
import pyarrow as pa
import pytest
from bson.int64 import Int64
from bson.objectid import ObjectId

from product_sync.errors import SourceMissing
from product_sync.schema.definition import load_definition
from product_sync.schema.ports import Source
from product_sync.schema.records import IdType, Reason, SourceBatch, SourceId, TableColumn, TargetTable
from product_sync.schema.row_schema import ID_TYPE, RowSchema, resolve_mapping
from product_sync.schema.types import ColumnType, TypeName

Documents = Sequence[Mapping[str, Any]]
SourceOf = Callable[[Documents | None], Source]

OBJECT_ID = ObjectId("507f1f77bcf86cd799439011")
UUID_ID = UUID("12345678-1234-5678-1234-567812345678")
SELLER = ObjectId("5e11e5000000000000000001")


def product_row_schema(collection: str = "products") -> RowSchema:
    """The default mapping, bound to the cart's original table."""
    types = {
        "id": TypeName.TEXT,
        "title": TypeName.TEXT,
        "price": TypeName.INTEGER,
        "image": TypeName.TEXT,
        "sellerId": TypeName.TEXT,
        "quantity": TypeName.INTEGER,
    }
    columns = tuple(TableColumn(name, str(type_), ColumnType(type_), False, False) for name, type_ in types.items())
    mapping = load_definition()
    source = mapping.source.model_copy(update={"collection": collection})
    return resolve_mapping(
        mapping.model_copy(update={"source": source}), TargetTable("public", "product", columns, True, (("id",),))
    )


def product(product_id: object, **changes: object) -> dict[str, object]:
    """A product that can be copied; a field is left out where its value is ``...``."""
    document = {
        "_id": product_id,
        "title": "Ring",
        "price": 995,
        "image": "ring.png",
        "sellerId": SELLER,
        "quantity": 3,
    }
    return {name: value for name, value in (document | changes).items() if value is not ...}


def id_rows(source_ids: list[SourceId]) -> pa.Table:
    """The columns by which rows of the diff name their documents."""
    types, texts = [str(each.type) for each in source_ids], [each.text for each in source_ids]
    return pa.table([pa.array(types, pa.string()), pa.array(texts, pa.string())], names=[ID_TYPE, "id"])


def ids_of(batches: Sequence[SourceBatch]) -> list[SourceId]:
    """The ids of all rows, in the order in which they came."""
    return [
        SourceId(*pair)
        for batch in batches
        for pair in zip(batch.rows["source_id_type"].to_pylist(), batch.rows["id"].to_pylist(), strict=True)
    ]


def rows_of(batches: Sequence[SourceBatch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.rows.to_pylist()]


class SourceContract:
    @pytest.fixture
    def source_of(self) -> SourceOf:
        raise NotImplementedError

    def test_a_sample_has_whole_documents(self, source_of: SourceOf) -> None:
        source = source_of([product("a", unmapped={"deep": 1})])
        assert [bson.decode(document)["unmapped"] for document in source.sample()] == [{"deep": 1}]

    def test_every_document_is_read_once_as_a_row_or_a_reject(self, source_of: SourceOf) -> None:
        batches = list(source_of([product("a"), product("b", price=2.5), product("c")]).snapshot())

        assert sorted(ids_of(batches)) == [("string", "a"), ("string", "c")]
        assert [reject.source_id for batch in batches for reject in batch.rejects] == [("string", "b")]
        assert sum(batch.documents for batch in batches) == 3
        assert all(batch.documents == batch.rows.num_rows + len(batch.rejects) for batch in batches)

    def test_rows_hold_canonical_values_in_the_schema_of_the_table(self, source_of: SourceOf) -> None:
        batches = list(source_of([product(OBJECT_ID, price=2.0, quantity=..., junk="x")]).snapshot())

        assert all(batch.rows.schema == product_row_schema().source_schema for batch in batches)
        assert rows_of(batches) == [
            {
                "source_id_type": "objectId",
                "id": str(OBJECT_ID),
                "title": "Ring",
                "price": 2,
                "image": "ring.png",
                "sellerId": str(SELLER),
                "quantity": 0,
            }
        ]

    def test_a_reject_names_every_value_that_cannot_be_copied(self, source_of: SourceOf) -> None:
        (batch,) = source_of([product("a", price="12", title=...)]).snapshot()

        (reject,) = batch.rejects
        assert {(defect.column, defect.reason) for defect in reject.defects} == {
            ("price", Reason.WRONG_TYPE),
            ("title", Reason.MISSING_FIELD),
        }

    def test_a_snapshot_can_be_taken_again(self, source_of: SourceOf) -> None:
        source = source_of([product("a")])

        assert rows_of(list(source.snapshot())) == rows_of(list(source.snapshot()))

    def test_a_collection_without_documents_has_no_rows(self, source_of: SourceOf) -> None:
        source = source_of([])

        assert sum(batch.documents for batch in source.snapshot()) == 0
        assert source.estimated_count() == 0

    def test_a_collection_that_does_not_exist_is_an_error_and_not_empty(self, source_of: SourceOf) -> None:
        with pytest.raises(SourceMissing):
            list(source_of(None).snapshot())

    def test_the_count_is_known_beforehand(self, source_of: SourceOf) -> None:
        source = source_of([product(1), product(2)])
        assert (source.estimated_count(), source.whole_count()) == (2, (2, True))

    @pytest.mark.parametrize(
        ("bson_id", "source_id"),
        [
            (OBJECT_ID, SourceId(IdType.OBJECT_ID, str(OBJECT_ID))),
            ("a b", SourceId(IdType.STRING, "a b")),
            (7, SourceId(IdType.INT, "7")),
            (Int64(2**40), SourceId(IdType.LONG, str(2**40))),
            (UUID_ID, SourceId(IdType.UUID, str(UUID_ID))),
        ],
    )
    def test_a_document_is_found_again_by_the_id_that_the_snapshot_gave(
        self, source_of: SourceOf, bson_id: object, source_id: SourceId
    ) -> None:
        source = source_of([product(bson_id), product("other")])

        assert source_id in ids_of(list(source.snapshot()))
        assert ids_of([source.fetch([source_id])]) == [source_id]
        assert source.existing([source_id]) == {source_id}

    def test_ids_of_one_text_and_two_types_are_two_documents(self, source_of: SourceOf) -> None:
        source = source_of([product(OBJECT_ID, title="by ObjectId"), product(str(OBJECT_ID), title="by string")])

        found = source.fetch([SourceId(IdType.STRING, str(OBJECT_ID))])

        assert [row["title"] for row in rows_of([found])] == ["by string"]

    def test_documents_that_are_gone_are_absent(self, source_of: SourceOf) -> None:
        source = source_of([product("a")])
        here, gone = SourceId(IdType.STRING, "a"), SourceId(IdType.STRING, "gone")

        assert ids_of([source.fetch([gone, here])]) == [here]
        assert source.existing([gone, here]) == {here}

    def test_all_are_said_to_exist_only_if_they_do(self, source_of: SourceOf) -> None:
        source = source_of([product(OBJECT_ID), product("a")])
        asked = [SourceId(IdType.OBJECT_ID, str(OBJECT_ID)), SourceId(IdType.STRING, "a")]
        gone = [SourceId(IdType.OBJECT_ID, "f" * 24), SourceId(IdType.STRING, "gone")]

        assert source.all_exist(id_rows([]))
        for missing in gone:
            assert not source.all_exist(id_rows([missing]))
            assert not source.all_exist(id_rows([*asked, missing]))
        assert not source.all_exist(id_rows([asked[0], gone[0]]))

    def test_a_document_that_can_no_longer_be_converted_is_fetched_as_a_reject(self, source_of: SourceOf) -> None:
        asked = SourceId(IdType.STRING, "a")
        source = source_of([product("a", price=2.5)])

        batch = source.fetch([asked])

        assert (batch.documents, batch.rows.num_rows) == (1, 0)
        assert [reject.source_id for reject in batch.rejects] == [asked]
        assert source.existing([asked]) == {asked}

    def test_asking_for_nothing_finds_nothing(self, source_of: SourceOf) -> None:
        source = source_of([product("a")])

        assert source.fetch([]).documents == 0
        assert source.fetch([]).rows.schema == product_row_schema().source_schema
        assert source.existing([]) == set()

    def test_an_integer_id_is_found_whatever_its_width_and_named_as_asked_for(self, source_of: SourceOf) -> None:
        source = source_of([product(Int64(5))])
        asked = SourceId(IdType.INT, "5")

        assert source.existing([asked]) == {asked}
        assert [row["id"] for row in rows_of([source.fetch([asked])])] == ["5"]
