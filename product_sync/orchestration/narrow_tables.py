"""Tables that are narrow enough for the UI to show them whole.

An asset's page on a laptop has room for about fifty characters beside the navigation. The UI cuts wider tables off
without a sign, and cells do not wrap. So a difference has two columns: the id, and a phrase that is cut around the
place where the two values differ. The full values are behind *Show JSON*.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import dagster as dg

from product_sync.compare.diff_lines import Difference, or_null
from product_sync.conversion.extended_json import readable
from product_sync.results import SampleValue
from product_sync.schema.records import Op
from product_sync.schema.row_schema import RowSchema

#: The columns of a difference and of a document that cannot be copied, in full.
DIFFERENCE = ("op", "id", "column", "old", "new")
ENTRY = ("source_key", "reasons", "columns", "values", "stage")
_PHRASE, _VALUE, _BEFORE = 48, 20, 6


def by_kind(first: Sequence[Difference]) -> dict[str, dg.TableMetadataValue]:
    """The first differences, one table for each kind."""
    tables = {"first_changed": Op.UPDATE, "first_missing": Op.INSERT, "first_extra": Op.EXTRA}
    phrases = {Op.UPDATE: "old → new", Op.INSERT: "the source has", Op.EXTRA: "the target has"}
    return {
        name: table(
            ({"id": line.id, phrases[op]: in_short(line)} for line in first if line.op is op), ("id", phrases[op])
        )
        for name, op in tables.items()
    }


def in_short(line: Difference) -> str:
    """A difference as a phrase: the two values of a column around where they differ, or how the product begins."""
    if line.op is not Op.UPDATE:
        return cut(line.new or line.old or "", _PHRASE)
    old, new = _where_they_differ(or_null(line.old), or_null(line.new))
    return f"{line.column}: {old} → {new}"


def named(line: Difference) -> str:
    """The same, shorter if only the kind matters."""
    return {Op.INSERT: "missing", Op.EXTRA: "extra"}.get(line.op) or in_short(line)


def entries(found: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Documents that cannot be copied: which, and for each column why."""
    rows = ({"document": cut(readable(entry["source_key"]), _PHRASE), "why": _why(entry)} for entry in found)
    return table(rows, ("document", "why"))


def whole_entries(found: Iterable[Mapping[str, Any]]) -> dg.JsonMetadataValue:
    """The same as `entries`, uncut, with the first time seen if it is known."""
    return dg.MetadataValue.json([_whole_entry(entry) for entry in found])


def _whole_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    since = {"first_seen": entry["first_seen"].isoformat(timespec="seconds")} if "first_seen" in entry else {}
    return {**{name: entry[name] for name in ENTRY}, **since}


def whole_differences(first: Iterable[Difference]) -> dg.JsonMetadataValue:
    """The same as `by_kind`, uncut."""
    return dg.MetadataValue.json([line_of(line) for line in first])


def line_of(line: Difference) -> dict[str, str | None]:
    return {**asdict(line), "op": str(line.op)}


def by_name(values: Mapping[Any, int]) -> dg.TableMetadataValue:
    schema = dg.TableSchema(columns=[dg.TableColumn("name", "string"), dg.TableColumn("rows", "int")])
    records = [dg.TableRecord({"name": str(name), "rows": value}) for name, value in values.items()]
    return dg.MetadataValue.table(records=records, schema=schema)


def found_by_column(row_schema: RowSchema, found: Mapping[str, int]) -> dg.TableMetadataValue:
    counted = [column for column in row_schema.columns if column.name in found]
    rows = ({"column": each.name, "from": cut(each.origin, _VALUE), "documents": found[each.name]} for each in counted)
    return table(rows, ("column", "from", "documents"))


def sample(product: Iterable[SampleValue]) -> dg.TableMetadataValue:
    phrase = "source → target"
    return table(({"column": value.column, phrase: _becomes(value)} for value in product), ("column", phrase))


def _becomes(value: SampleValue) -> str:
    short = replace(value, value=value.value and cut(value.value, _VALUE))
    return f"{short.given} → {cut(value.reason or or_null(value.target), _VALUE)}"


def table(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dg.TableMetadataValue:
    """The named columns as text; what is absent stays empty, lists are joined."""
    schema = dg.TableSchema(columns=[dg.TableColumn(name, "string") for name in names])
    records = [dg.TableRecord({name: text(row[name]) for name in names}) for row in rows]
    return dg.MetadataValue.table(records=records, schema=schema)


def text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def cut(value: str, length: int) -> str:
    return value if len(value) <= length else f"{value[: length - 1]}…"


def _where_they_differ(old: str, new: str) -> tuple[str, str]:
    """Both values without the long beginning that they share, cut."""
    shared = next(
        (place for place, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(map(len, (old, new)))
    )
    start = shared - _BEFORE
    if start > 1 and max(len(old), len(new)) > _VALUE:
        old, new = f"…{old[start:]}", f"…{new[start:]}"
    return cut(old, _VALUE), cut(new, _VALUE)


def _why(entry: Mapping[str, Any]) -> str:
    told = zip(entry["columns"], entry["reasons"], entry["values"], strict=True)
    return "; ".join(f"{column}: {reason} ({cut(readable(value or 'null'), _VALUE)})" for column, reason, value in told)
