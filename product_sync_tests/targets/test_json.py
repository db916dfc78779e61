"""Two texts in the target are the same canonical value exactly if PostgreSQL calls them equal as jsonb."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from product_sync.schema.addresses import TargetAddress
from product_sync.schema.types import ColumnType, TypeName
from product_sync.targets.postgres import binary
from product_sync.targets.postgres.column_types import wire_format
from product_sync.targets.postgres.connection import connect

JSON, JSONB = ColumnType(TypeName.JSON), ColumnType(TypeName.JSONB)
_numbers = st.sampled_from(
    ["1", "1.0", "1.00", "10e-1", "0", "-0", "0.0", "-0.00", "100", "1e2", "1.5", "1.50", "1E+400"]
)
_names = st.sampled_from(['"a"', '"b"', '"bb"', '"é"', '"\\u00e9"', '"zz"', '""', '"1.0"'])
_blanks = st.sampled_from(["", " ", "\n\t"])
TEXTS = st.recursive(
    _numbers | _names | st.sampled_from(["null", "true", '"x, 1.00"', '"\\\\u0000 e100"', '"1.00"', '"\\u0001"']),
    lambda inner: (
        st.lists(inner, max_size=3).flatmap(lambda members: _blanks.map(lambda blank: f"[{f',{blank}'.join(members)}]"))
        | st.lists(st.tuples(_names, _blanks, inner), max_size=3).map(
            lambda members: f"{{{','.join(f'{name}{blank}:{blank}{value}' for name, blank, value in members)}}}"
        )
    ),
    max_leaves=6,
)
_READ = sql.SQL("SELECT {}, {} FROM unnest($1::text[]) AS t, LATERAL (SELECT t::json AS j, t::jsonb AS b) AS v")
_EQUAL = sql.SQL("SELECT x::jsonb = y::jsonb FROM unnest($1::text[]) AS x, unnest($1::text[]) AS y")


@pytest.fixture
def connection(cart_url: str) -> Iterator[psycopg.Connection]:
    with connect(TargetAddress(cart_url)) as opened:
        yield opened


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=2, max_size=12))
def test_equal_texts_are_equal_values(connection: psycopg.Connection, texts: list[str]) -> None:
    read = [wire_format(kind).shown(sql.Identifier("v", name)) for kind, name in ((JSON, "j"), (JSONB, "b"))]
    rows = connection.execute(_READ.format(*read), [binary.ids(texts)]).fetchall()
    as_json = binary.loaded([text for text, _ in rows], JSON).to_pylist()
    as_jsonb = binary.loaded([text for _, text in rows], JSONB).to_pylist()
    assert as_json == as_jsonb
    equal = [one for (one,) in connection.execute(_EQUAL, [binary.ids(texts)]).fetchall()]
    assert equal == [one == other for one in as_jsonb for other in as_jsonb]
