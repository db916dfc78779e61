"""Joining the mapping with the table: what does not fit is named before anything is read."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa
import pytest

from product_sync.errors import MappingError, TableError
from product_sync.schema.column_spec import Kind
from product_sync.schema.definition import load_definition
from product_sync.schema.records import TableColumn
from product_sync.schema.row_schema import resolve_mapping
from product_sync.schema.types import ColumnType, TypeName
from product_sync_tests.row_schemas import INTEGER, TEXT, mapping_of, row_schema_of, table_of

MONEY = ColumnType(TypeName.NUMERIC, precision=10, scale=2)
CLOCKS = [ColumnType(TypeName.TIMESTAMP, zone=zone) for zone in ("UTC", "Europe/Berlin")]
SIX = {"id": TEXT, "title": TEXT, "price": MONEY, "image": TEXT, "sellerId": TEXT, "quantity": INTEGER}


def test_the_default_mapping_fits_the_original_table() -> None:
    row_schema = resolve_mapping(load_definition(), table_of(SIX, nullable=False))
    assert row_schema.collection == "products"
    assert row_schema.key.name == "id"
    assert [column.name for column in row_schema.values] == ["title", "price", "image", "sellerId", "quantity"]
    assert row_schema.values[3].kind is Kind.REFERENCE
    assert (row_schema.values[4].has_default, row_schema.values[4].default) == (True, 0)
    assert row_schema.values[1].type == MONEY


def test_the_key_comes_first_wherever_the_mapping_has_it() -> None:
    mapping = mapping_of({"price": {"source": "price"}, "id": {"source": "_id"}})
    row_schema = resolve_mapping(mapping, table_of({"price": INTEGER, "id": TEXT}))
    assert [column.name for column in row_schema.columns] == ["id", "price"]


def test_the_schemas_say_what_travels() -> None:
    row_schema = row_schema_of({"price": MONEY, "stock": INTEGER}, {"stock": {"update": False}})
    assert row_schema.target_schema == pa.schema({"id": pa.string(), "price": pa.string(), "stock": pa.int32()})
    assert row_schema.source_schema.names == ["source_id_type", "id", "price", "stock"]
    assert row_schema.diff_schema.names == [
        "op", "id", "source_id_type", "refused_before", "new_price", "new_stock", "old_price", "old_stock",
    ]  # fmt: skip
    assert row_schema.diff_schema.field("old_stock").type == pa.int32()


def test_a_column_that_is_not_updated_is_not_compared() -> None:
    row_schema = row_schema_of({"price": MONEY, "stock": INTEGER}, {"stock": {"update": False}})
    assert [column.name for column in row_schema.compared] == ["price"]


def test_one_field_may_fill_two_columns() -> None:
    row_schema = row_schema_of({"price": INTEGER, "list_price": INTEGER}, {"list_price": {"source": "price"}})
    assert [column.path for column in row_schema.values] == [("price",), ("price",)]


@pytest.mark.parametrize(
    ("types", "specs", "error", "message"),
    [
        ({"id": TEXT}, {"price": {}}, TableError, r"no column 'price'.*it has: id"),
        ({"id": TEXT, "price": None}, {"price": {}}, TableError, "product.price has the type money, which is not"),
        ({"id": MONEY, "price": INTEGER}, {"price": {}}, TableError, "product.id has the type numeric"),
        ({"id": TEXT, "price": INTEGER}, {"price": {"kind": "reference"}}, TableError, "price has the type integer, "),
        ({"id": TEXT, "title": TEXT, "price": INTEGER}, {"title": {}, "price": {"source": None, "now": True}},
         TableError, "price has the type integer, which cannot hold the time of the write"),
    ],
)  # fmt: skip
def test_a_column_that_does_not_fit_is_named(
    types: dict[str, ColumnType | None], specs: dict[str, dict[str, Any]], error: type[Exception], message: str
) -> None:
    mapping = mapping_of({name: {"source": name} | spec for name, spec in specs.items()})
    with pytest.raises(error, match=message):
        resolve_mapping(mapping, table_of(types))


def test_all_missing_and_all_unsupported_columns_are_named_at_once() -> None:
    mapping = mapping_of({name: {"source": name} for name in ("price", "cost", "area", "title", "shape")})
    table = table_of({"id": TEXT, "title": TEXT, "area": None, "shape": None})
    with pytest.raises(TableError) as caught:
        resolve_mapping(mapping, table)
    assert caught.value.message == (
        "Table public.product has no columns 'price', 'cost', which the mapping names (it has: id, title, area, shape)."
        " Column public.product.area has the type money, which is not supported."
        " Column public.product.shape has the type money, which is not supported."
    )


@pytest.mark.parametrize(
    ("column_type", "spec", "message"),
    [
        (ColumnType(TypeName.TIMESTAMP), {}, r"timestamp of public.product \(price\) has no time zone"),
        (INTEGER, {"zone": "UTC"}, "gives `zone` for 'price', but column public.product.price has the type integer"),
        (ColumnType(TypeName.TIMESTAMPTZ), {"zone": "UTC"}, "has the type timestamptz"),
    ],
)
def test_a_timestamp_needs_a_zone_and_only_a_date_may_have_one_too(
    column_type: ColumnType, spec: dict[str, Any], message: str
) -> None:
    mapping, table = mapping_of({"price": {"source": "price"} | spec}), table_of({"id": TEXT, "price": column_type})
    with pytest.raises(MappingError, match=message):
        resolve_mapping(mapping, table)


def test_a_column_that_may_be_absent_must_be_nullable_or_have_a_default() -> None:
    table = table_of({"id": TEXT, "price": INTEGER}, nullable=False)
    with pytest.raises(MappingError, match=r"required: false. for 'price'.*NOT NULL"):
        resolve_mapping(mapping_of({"price": {"source": "price", "required": False}}), table)
    assert resolve_mapping(mapping_of({"price": {"source": "price", "required": False, "default": 0}}), table)


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ((), 'ADD PRIMARY KEY ("id")'),
        ((("price",),), 'ADD UNIQUE ("id")'),
        ((("id", "price"),), "Give price a constant `value` in the mapping"),
    ],
)
def test_the_column_of_the_id_must_identify_a_row(keys: tuple[tuple[str, ...], ...], hint: str) -> None:
    table = table_of({"id": TEXT, "price": INTEGER})
    table = dataclasses.replace(table, has_primary_key=bool(keys), keys=keys)
    named = "; ".join(map(", ".join, keys)) or "none"
    with pytest.raises(TableError, match=f"does not identify a row.*: {named}") as caught:
        resolve_mapping(mapping_of({"price": {"source": "price"}}), table)
    assert hint in caught.value.hint


def test_the_id_may_be_in_another_unique_column_than_the_primary_key() -> None:
    table = table_of({"id": TEXT, "price": INTEGER})
    table = dataclasses.replace(table, keys=(("id",), ("price",)))
    assert resolve_mapping(mapping_of({"price": {"source": "price"}}), table).key_names == ("id",)


@pytest.mark.parametrize(
    ("keys", "key_names"),
    [
        ([("shop", "id")], ("shop", "id")),
        ([("id", "shop")], ("shop", "id")),
        ([("id",), ("shop", "id")], ("shop", "id")),
        ([("id",), ("price", "id"), ("shop",)], ("id",)),
        ([("id", "price", "shop"), ("id", "shop")], ("shop", "id")),
    ],
)
def test_a_key_is_the_id_with_all_constants_that_it_can_have(
    keys: list[tuple[str, ...]], key_names: tuple[str, ...]
) -> None:
    table = dataclasses.replace(table_of({"id": TEXT, "shop": TEXT, "price": INTEGER}), keys=tuple(keys))
    row_schema = resolve_mapping(mapping_of({"shop": {"value": "eu"}, "price": {"source": "price"}}), table)
    assert row_schema.key_names == key_names
    assert [column.name for column in row_schema.compared] == (["price"] if "shop" in key_names else ["shop", "price"])


@pytest.mark.parametrize("name", [TypeName.INTEGER, TypeName.BIGINT])
def test_an_id_in_an_integer_column_is_text_in_the_program(name: TypeName) -> None:
    row_schema = row_schema_of({"price": INTEGER}, key=ColumnType(name))
    assert (str(row_schema.key.type), row_schema.key.type.arrow) == (str(name), pa.string())
    assert row_schema.values[0].type.arrow == pa.int32()


@pytest.mark.parametrize(
    ("nullable", "has_default", "refused"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_an_unmapped_column_must_be_able_to_fill_itself(nullable: bool, has_default: bool, refused: bool) -> None:
    table = table_of({"id": TEXT, "price": INTEGER})
    extra = TableColumn(name="brand", declared="money", type=None, nullable=nullable, has_default=has_default)
    table = dataclasses.replace(table, columns=(*table.columns, extra))
    mapping = mapping_of({"price": {"source": "price"}})
    if refused:
        with pytest.raises(TableError, match="NOT NULL columns without a default that are not mapped: brand"):
            resolve_mapping(mapping, table)
    else:
        assert resolve_mapping(mapping, table)


def test_state_is_kept_apart_by_all_that_changes_the_meaning_of_a_row() -> None:
    base = {"price": INTEGER}
    keys = [
        row_schema_of(base).state_key("mongo", "postgres"),
        row_schema_of(base).state_key("mongo2", "postgres"),
        row_schema_of(base).state_key("mongo", "postgres2"),
        row_schema_of({"price": MONEY}).state_key("mongo", "postgres"),
        row_schema_of({"price": ColumnType(TypeName.NUMERIC)}).state_key("mongo", "postgres"),
        row_schema_of({"cost": INTEGER}).state_key("mongo", "postgres"),
        row_schema_of(base, {"price": {"source": "cost"}}).state_key("mongo", "postgres"),
        row_schema_of(base, {"price": {"expression": "$cost"}}).state_key("mongo", "postgres"),
        row_schema_of(base, {"price": {"expression": {"$ifNull": ["$cost", 0]}}}).state_key("mongo", "postgres"),
        row_schema_of(base, {"price": {"required": False}}).state_key("mongo", "postgres"),
        row_schema_of(base, {"price": {"default": 0}}).state_key("mongo", "postgres"),
        row_schema_of(base, {"price": {"default": 0.0}}).state_key("mongo", "postgres"),
        row_schema_of(base, {"price": {"update": False}}).state_key("mongo", "postgres"),
        *(row_schema_of({"price": clock}).state_key("mongo", "postgres") for clock in CLOCKS),
    ]
    assert len(set(keys)) == len(keys)
    assert row_schema_of(base).state_key("mongo", "postgres") == keys[0]
