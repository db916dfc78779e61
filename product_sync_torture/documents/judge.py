"""Decides after a run whether every document is where it belongs, in the target or in the quarantine, and why."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from product_sync_torture.documents import values
from product_sync_torture.documents.catalogue import Made
from product_sync_torture.documents.columns import Column
from product_sync_torture.documents.oracle import equal

#: The title of the outdated rows that a sync must not overwrite if the document is bad.
OLD_TITLE: Final = "left from before"
LONGEST_KEY: Final = 1_000
_KEY_BEGINNING: Final = 200

#: Rows by id, or entries of the quarantine by their key.
Found = Mapping[str, dict[str, Any]]
_Reasons = frozenset[tuple[str, str]]


def wrong_places(
    made: Sequence[Made],
    rows: Found,
    entries: Found,
    columns: Sequence[Column],
    counts: Counter[str],
    reasons: Counter[str],
    deleted: Collection[str | None] = (),
) -> list[str]:
    """Every document that is not where it belongs, every row and entry that belongs to none.

    The rows of documents in ``deleted`` are extra, and stay. ``counts`` and ``reasons`` are added up.
    """
    problems: list[str] = []
    nameless: list[_Reasons] = []
    named: set[str] = set()
    expected_rows: set[str] = set()
    for one in made:
        key = _key(one)
        entry = entries.get(key) if key else None
        if one.row is not None and (entry is None or not one.may_be_refused):
            expected_rows.add(one.text_id or "")
            problems += _wrong_row(one, rows.get(one.text_id or ""), columns)
            if entry:
                problems.append(f"{_short(one)}: in quarantine for {_reasons(entry)}, but nothing is wrong with it")
            counts["in the target"] += 1
            continue
        wrong = one.wrong if one.row is None else frozenset({("id", "refused_by_database")})
        counts["in quarantine" if one.row is None else "refused by the database"] += 1
        reasons.update({reason for _, reason in wrong})
        if key is None:
            nameless.append(wrong)
            continue
        named.add(key)
        if entry is None:
            problems.append(f"{_short(one)}: not in quarantine, where it belongs for {sorted(wrong)}")
        elif not _agree(_reasons(entry), wrong):
            problems.append(f"{_short(one)}: in quarantine for {sorted(_reasons(entry))}, not {sorted(wrong)}")
        if (old := rows.get(one.text_id or "")) is not None:
            expected_rows.add(one.text_id or "")
            if old["title"] != OLD_TITLE:
                problems.append(f"{_short(one)}: its row was overwritten although it is in quarantine")
    problems += _wrong_without_name(nameless, [_reasons(entry) for key, entry in entries.items() if key not in named])
    extra = {row_id for row_id in rows.keys() - expected_rows if row_id not in deleted}
    problems += [f"row {row_id[:80]!r} belongs to no document" for row_id in sorted(extra)]
    return problems


def _agree(found: _Reasons, wrong: _Reasons) -> bool:
    """Whether ``found`` are the expected reasons. After a repeated field the server may leave out other fields
    (``docs/decisions/0025``); then ``found`` may lack some reasons but must name the repeated field."""
    repeated = {pair for pair in wrong if pair[1] == "repeated_field"}
    return bool(found <= wrong and found & repeated) if repeated else found == wrong


def _wrong_without_name(expected: Sequence[_Reasons], found: Sequence[_Reasons]) -> list[str]:
    """Compares entries without a text id by their reasons."""
    left = list(found)
    missing = []
    for wrong in sorted(expected, key=len):
        # The entry with the most reasons: one with fewer may belong to another document.
        match = max((reasons for reasons in left if _agree(reasons, wrong)), key=len, default=None)
        if match is None:
            missing.append(sorted(wrong))
        else:
            left.remove(match)
    if missing or left:
        return [f"without a text id: not found {missing}, found instead {[sorted(reasons) for reasons in left]}"]
    return []


def _wrong_row(one: Made, row: dict[str, Any] | None, columns: Sequence[Column]) -> list[str]:
    if row is None:
        return [f"{_short(one)}: neither in the target nor in quarantine"]
    assert one.row is not None  # noqa: S101 - for the type checker
    return [
        f"{_short(one)}: {column.name} is {str(row[column.name])[:80]!r}, not {str(one.row[column.name])[:80]!r}"
        for column in columns
        if not equal(row[column.name], one.row[column.name])
    ]


def _reasons(entry: dict[str, Any]) -> frozenset[tuple[str, str]]:
    return frozenset(zip(entry["columns"], entry["reasons"], strict=True))


def _short(one: Made) -> str:
    return f"{one.text_id or one.bson_id.kind!r}"[:80]


def _key(one: Made) -> str | None:
    """How the quarantine names a document whose _id has a text: the canonical extended JSON of it, bounded."""
    value = one.bson_id
    if one.text_id is None:
        return None
    if value.kind == values.TEXT:
        key = json.dumps(one.text_id, ensure_ascii=False)
    elif value.kind == values.OBJECT_ID:
        key = f'{{"$oid": "{one.text_id}"}}'
    elif value.kind == values.UUID:
        content = base64.b64encode(value.meaning.bytes).decode()
        key = f'{{"$binary": {{"base64": "{content}", "subType": "04"}}}}'
    else:
        key = f'{{"{"$numberInt" if value.integer == 32 else "$numberLong"}": "{one.text_id}"}}'
    if len(key) <= LONGEST_KEY:
        return key
    return f"{key[:_KEY_BEGINNING]}… sha256:{hashlib.sha256(key.encode()).hexdigest()}"
