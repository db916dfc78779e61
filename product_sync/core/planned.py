"""Narrows a fresh diff to the rows of a plan that somebody has looked at.

Between a dry run and its execution the events go on. A row is carried out only if both sides still hold what the
plan shows: the same operation, the same new values, the same old ones. Without this "execute that plan" would mean
"execute whatever differs by now", which nobody has read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from product_sync.core.batching import count_rows
from product_sync.core.layout import Layout
from product_sync.core.model import Op
from product_sync.core.tables import duckdb_connection, write_parquet

_PAGE_ROWS = 8_192


def keep_planned(
    layout: Layout, planned: Path, fresh: Path, out: Path, ops: Collection[Op], *, metadata: Mapping[str, str]
) -> int:
    """Write to ``out`` the rows of the diff ``fresh`` that the diff ``planned`` has too, in the order of a diff.

    Returns how many planned rows of ``ops`` are not among them: they have changed since, on either side. Columns that
    are never updated do not keep an update from being the same.
    """
    with duckdb_connection(out.parent) as connection:
        paths = {"fresh": str(fresh), "planned": str(planned)}
        reader = connection.sql(_kept_sql(layout), params=paths).to_arrow_reader(_PAGE_ROWS)
        write_parquet(out, layout.diff_schema, _typed(reader, layout), metadata=metadata)
    return count_rows(planned, ops) - count_rows(out, ops)


def _kept_sql(layout: Layout) -> str:
    """Columns go by position, because DuckDB's names ignore letter case and PostgreSQL's do not."""
    places = range(len(layout.values))
    values = [*(f"s{place}" for place in places), *(f"t{place}" for place in places)]
    columns = ", ".join(["op", "id", "id_type", "refused_before", *values])
    same = ["fresh.op = planned.op", "fresh.id = planned.id", "fresh.id_type IS NOT DISTINCT FROM planned.id_type"]
    for value in values:
        equal = f"fresh.{value} IS NOT DISTINCT FROM planned.{value}"
        same.append(equal if layout.values[int(value[1:])].update else f"(fresh.op = 'update' OR {equal})")
    return f"""
    SELECT fresh.*
    FROM read_parquet($fresh) AS fresh ({columns})
    SEMI JOIN read_parquet($planned) AS planned ({columns}) ON {" AND ".join(same)}
    ORDER BY refused_before, CASE op WHEN 'insert' THEN 0 WHEN 'update' THEN 1 ELSE 2 END, id
    """  # noqa: S608 - made of places of columns only; paths are bound


def _typed(reader: Any, layout: Layout) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        columns = [column.cast(field.type) for column, field in zip(batch.columns, layout.diff_schema, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, schema=layout.diff_schema)
