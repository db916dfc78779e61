"""The mapping file: what it may say."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any

import pytest

from product_sync.errors import MappingError
from product_sync.schema.column_spec import Kind
from product_sync.schema.definition import DEFAULT_MAPPING, SyncDefinition, load_definition
from product_sync.schema.source_filter import query_of

HEAD = "source: {collection: products}\ntarget: {table: product}\n"


def load(tmp_path: Path, text: str | bytes) -> SyncDefinition:
    path = tmp_path / "mapping.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_definition(path)


def columns(*lines: str) -> str:
    """A mapping with the id and these columns."""
    return HEAD + "\n  ".join(["columns:", "id: {source: _id}", *lines])


def test_names_are_taken_as_they_are_written(tmp_path: Path) -> None:
    names = ("no", "on", "yes", "null", "~", "12", "1.0", "2024-05-01", "0x1f", "true", "=")
    text = columns(*(f"{name}: {{source: {name}, required: false}}" for name in names if name != "1.0"))
    mapping = load(tmp_path, text.replace("products", "on").replace("{table: product}", "{schema: no, table: 7}"))
    assert mapping.columns.keys() == {"id", *names} - {"1.0"}
    assert all(spec.source == name for name, spec in mapping.columns.items() if name != "id")
    assert (mapping.source.collection, mapping.target.db_schema, mapping.target.table) == ("on", "no", "7")


@pytest.mark.parametrize("name", ["filter", "expression", "value", "default", "source", "columns"])
def test_a_column_may_be_called_like_a_key(tmp_path: Path, name: str) -> None:
    mapping = load(tmp_path, columns(f"{name}: {{source: on, default: {{name: 5, source: [no]}}}}"))
    assert mapping.columns[name].source == "on"
    assert mapping.columns[name].default == {"name": 5, "source": [False]}, "it is a value of a document"


def test_a_default_is_no_name(tmp_path: Path) -> None:
    mapping = load(tmp_path, columns("sold: {source: sold, default: no}", "sort: {source: sort, default: 1}"))
    assert (mapping.columns["sold"].default, mapping.columns["sort"].default) == (False, 1)


def test_the_default_is_the_six_fields() -> None:
    mapping = load_definition()
    assert mapping.source.collection == "products"
    assert (mapping.target.db_schema, mapping.target.table) == ("public", "product")
    assert {name: spec.source for name, spec in mapping.columns.items()} == {
        "id": "_id",
        "title": "title",
        "price": "price",
        "image": "image",
        "sellerId": "sellerId",
        "quantity": "quantity",
    }
    assert [name for name, spec in mapping.columns.items() if spec.kind is Kind.REFERENCE] == ["sellerId"]
    assert {name: spec.default for name, spec in mapping.columns.items() if spec.has_default} == {"quantity": 0}
    assert all(spec.update and spec.required for spec in mapping.columns.values())


def test_a_file_can_say_all_that_the_design_promises(tmp_path: Path) -> None:
    mapping = load(
        tmp_path,
        """
        source: {collection: items}
        target: {schema: cart, table: Items}
        columns:
          sku: {source: _id}
          price: {source: price.net.amount, default: 9.99, update: false}
          since: {source: since, required: false, default: 2024-01-31}
          seller: {source: seller, kind: reference}
        """,
    )
    price, since = mapping.columns["price"], mapping.columns["since"]
    assert price.path == ("price", "net", "amount")
    assert (price.default, price.update) == (9.99, False)
    assert since.default == dt.date(2024, 1, 31)
    assert mapping.target.db_schema == "cart"
    assert mapping.columns["sku"].is_id


@pytest.mark.parametrize("default", ["0", "false", "''", "0.0"])
def test_a_default_that_is_false_in_python_is_a_default(tmp_path: Path, default: str) -> None:
    text = columns(f"a: {{source: a, default: {default}}}")
    assert load(tmp_path, text).columns["a"].has_default


def test_a_default_of_null_is_none(tmp_path: Path) -> None:
    text = columns("a: {source: a, default: null}")
    assert not load(tmp_path, text).columns["a"].has_default


IDS = "columns: {id: {source: _id}, a: {source: a}}"
FILTER = "source: {{collection: a, filter: {}}}\ntarget: {{table: a}}\n" + IDS.replace("{", "{{").replace("}", "}}")


def test_a_filter_holds_values_as_documents_do(tmp_path: Path) -> None:
    text = FILTER.format("{name: 5, source: yes, at: {$gte: 2024-01-31}, $or: [{schema: 1}, {a: {$in: [no, null]}}]}")
    loaded = load(tmp_path, text).source.filter
    assert query_of(loaded) == {
        "name": 5,
        "source": True,
        "at": {"$gte": dt.datetime(2024, 1, 31, tzinfo=dt.UTC)},
        "$or": [{"schema": 1}, {"a": {"$in": [False, None]}}],
    }


def test_a_filter_keeps_the_operators_beside_a_pattern(tmp_path: Path) -> None:
    text = FILTER.format("{a: {$regex: ^x, $ne: xx}, b: {$regularExpression: {pattern: ^x, options: i}}}")
    query = query_of(load(tmp_path, text).source.filter)
    assert query["a"] == {"$regex": "^x", "$ne": "xx"}
    assert (query["b"].pattern, query["b"].flags) == ("^x", re.IGNORECASE)


def test_a_file_that_cannot_be_read_says_which_variable_to_set(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"No such file.*PRODUCT_SYNC_MAPPING"):
        load_definition(tmp_path / "nowhere.yaml")


def test_a_mapping_cannot_be_changed_afterwards() -> None:
    spec: Any = load_definition(DEFAULT_MAPPING).columns["price"]
    with pytest.raises(ValueError, match="frozen"):
        spec.default = 1
