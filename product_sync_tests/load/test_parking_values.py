"""A parked value fits its column and is unlike any other, whatever the type."""

from __future__ import annotations

import pyarrow as pa
import pytest

from product_sync.load.parking_values import parking_places
from product_sync_tests.target_contract import EVERY_TYPE, every_type_row_schema

ROW_SCHEMA = every_type_row_schema(not_updated=("name",))


@pytest.mark.parametrize("name", [name for name in EVERY_TYPE if name not in ("id", "name")])
def test_null_comes_first_and_then_values_that_the_column_holds(name: str) -> None:
    places = list(parking_places(ROW_SCHEMA, [name]))
    assert places[0] == {name: None}
    values = [place[name] for place in places[1:]]
    assert len(values) == (0 if name == "active" else 3)
    assert pa.array(values, EVERY_TYPE[name].arrow).null_count == 0
    if name not in ("active", "small"):
        assert len({*values}) == len(values)


def test_a_column_that_is_not_updated_and_the_key_are_no_places_to_park() -> None:
    assert list(parking_places(ROW_SCHEMA, ["id", "name"])) == []


def test_of_several_columns_text_is_tried_before_numbers() -> None:
    places = list(parking_places(ROW_SCHEMA, ["small", "title"]))
    assert [name for place in places for name in place] == ["small", "title"] + ["title"] * 3 + ["small"] * 3
