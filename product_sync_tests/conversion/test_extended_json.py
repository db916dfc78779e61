"""Values for people: bounded, readable, valid UTF-8, and never serialised whole."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, ObjectId, Regex
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st

from product_sync.conversion.extended_json import EXCERPT_LENGTH, canonical_json, cut, excerpt

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**31), 2**31 - 1),
        st.integers(-(2**63), 2**63 - 1).map(Int64),
        st.floats(),
        st.text(),  # lone surrogates among it, as decoding gives them
        st.binary(),
        st.uuids(),
        st.binary(min_size=12, max_size=12).map(ObjectId),
        st.integers(-(2**63), 2**63 - 1).map(DatetimeMS),
        st.sampled_from([Decimal128("1.50"), Regex("a", "i"), Code("x"), Code("x", {"y": 1}), DBRef("a", 1, "d")]),
        st.binary(max_size=300).map(lambda data: Binary(data, 128)),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_an_excerpt_is_the_beginning_of_the_whole_and_says_when_it_is_cut(value: Any) -> None:
    whole, shown = canonical_json(value), excerpt(value)
    if len(whole) <= EXCERPT_LENGTH:
        assert shown == whole
    elif isinstance(value, Binary) or "$binary" in whole or "$regularExpression" in whole:
        assert len(shown) == EXCERPT_LENGTH + 1
        assert shown[-1] == "…"
    else:
        assert shown == whole[:EXCERPT_LENGTH] + "…"


@given(VALUES)
def test_whatever_is_shown_can_be_stored_as_utf8(value: Any) -> None:
    assert canonical_json(value).encode().decode() == canonical_json(value)
    assert excerpt(value).encode().decode() == excerpt(value)


@pytest.mark.parametrize(
    "value",
    [
        "x" * 30_000_000,
        b"x" * 30_000_000,
        Binary(b"x" * 30_000_000, 128),
        Code("x" * 30_000_000),
        Regex("x" * 30_000_000),
        ["x" * 1000] * 30_000,
        {"x" * 30_000_000: 1},
        {"nested": DBRef("x" * 30_000_000, 1)},
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_huge_value_is_cut_before_it_is_serialised(value: Any) -> None:
    tracemalloc.start()
    try:
        assert len(excerpt(value)) == EXCERPT_LENGTH + 1
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"": inner}], ids=["arrays", "documents"])
def test_a_value_nested_however_deep_is_cut(wrap: Any) -> None:
    value: Any = 1
    for _ in range(100_000):
        value = wrap(value)
    assert excerpt(value)[-1] == "…"
    while isinstance(value, (list, dict)):  # freed level by level: the destructor recurses too
        value = value[0] if isinstance(value, list) else value[""]


def test_letters_stay_readable_and_a_broken_byte_becomes_its_escape() -> None:
    assert canonical_json("Grüße \udcff") == r'"Grüße \udcff"'
    assert json.loads(canonical_json("Grüße \udcff")) == "Grüße \udcff"


def test_a_message_is_bounded_and_encodable() -> None:
    assert cut("short") == "short"
    assert cut("x" * 1000) == "x" * EXCERPT_LENGTH + "…"
    assert cut("\udcff") == r"\udcff"
