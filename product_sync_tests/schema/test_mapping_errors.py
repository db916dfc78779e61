"""A mapping that is wrong is refused with all of its mistakes: the file, the line, the keys that are allowed, the
nearest key, and never a text of the validation library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from product_sync.errors import ConfigurationError, MappingError
from product_sync.schema.column_spec import ColumnSpec
from product_sync.schema.definition import Labels, SourceSpec, SyncDefinition, TargetSpec, load_definition

COLUMN = f"Allowed: {', '.join(ColumnSpec.model_fields)}."
FILE = "Allowed: name, source, target, columns, labels."
_CASE = re.compile(r"=== (.+)\n((?:.*\n)*?)--- is refused:\n((?:.+\n)+)")


def mistakes() -> Iterator[Any]:
    """Each mapping of the file, and all that is said about it. ``\\t`` and ``\\a`` stand for the characters."""
    text = Path(__file__).with_name("mistakes.txt").read_text()
    for name, mapping, told in _CASE.findall(text.replace("{COLUMN}", COLUMN).replace("{FILE}", FILE)):
        yield pytest.param(mapping.replace("\\t", "\t").replace("\\a", "\a"), told, id=name)


def refusal(tmp_path: Path, text: str | bytes) -> MappingError:
    path = tmp_path / "product.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(MappingError) as caught:
        load_definition(path)
    assert isinstance(caught.value, ConfigurationError)
    assert caught.value.exit_status == 2
    return caught.value


@pytest.mark.parametrize(("mapping", "told"), list(mistakes()))
def test_a_mistake_has_its_place_and_its_way_out(tmp_path: Path, mapping: str, told: str) -> None:
    assert f"{refusal(tmp_path, mapping).message}\n".replace(f"{tmp_path}/", "") == told


def test_a_file_that_is_not_utf8_has_the_line_of_the_byte(tmp_path: Path) -> None:
    said = refusal(tmp_path, b"source:\n  collection: caf\xe9").message
    assert said == f"{tmp_path}/product.yaml, line 2: this is not valid YAML: the file is not UTF-8."


def test_all_mistakes_are_named_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """source: {collection: a}
target: {table: a}
columns:
  id: {source: _id}
  a: {sorce: a}
  b: {source: b, requird: false}
  b: {source: c}
  c: {source: _id}
  d: {source: d..e}
labels: {iten: x}
scedule: 5
"""
    lines = refusal(tmp_path, text).message.split("\n")
    assert [re.sub(r".*(line \d+: \S+).*", r"\1", line) for line in lines] == [
        "line 5: columns.a",
        "line 7: columns.b",
        "line 8: columns.c.source",
        "line 9: columns.d.source",
        "line 10: labels",
        "line 11: the",
    ]


def test_in_python_a_mistake_is_named_without_a_line() -> None:
    given: dict[str, Any] = {
        "source": {"collection": "a"},
        "target": {"table": "a"},
        "columns": {"id": {"sorce": "_id"}},
    }
    told = f'columns.id has the key "sorce", did you mean "source"? {COLUMN}'
    with pytest.raises(MappingError) as caught:
        SyncDefinition.model_validate(given)
    assert caught.value.message == told
    with pytest.raises(MappingError) as caught:
        SyncDefinition(**given)
    assert caught.value.message == told


@pytest.mark.parametrize("value", [None, True, 5, 1.5, "", "a b", [1], {"a": 1}, "x" * 99], ids=repr)
def test_no_text_of_the_validation_library_shows_through(value: object) -> None:
    """Whatever stands at whatever key."""
    valid: dict[str, Any] = {
        "name": "a", "source": {"collection": "a"}, "target": {"table": "a"}, "labels": {},
        "columns": {"id": {"source": "_id"}, "a": {"source": "a"}},
    }  # fmt: skip
    wrong = [{**valid, key: value} for key in valid]
    for key, fields in (
        ("source", SourceSpec.model_fields),
        ("target", TargetSpec.model_fields),
        ("labels", Labels.model_fields),
    ):
        wrong += [{**valid, key: {**valid[key], field.alias or name: value}} for name, field in fields.items()]
    wrong += [
        {**valid, "columns": {**valid["columns"], "a": {**valid["columns"]["a"], name: value}}}
        for name in ColumnSpec.model_fields
    ]
    refused = 0
    for given in wrong:
        said = ""
        try:
            SyncDefinition.model_validate(given)
        except MappingError as error:
            said, refused = str(error), refused + 1
        assert not re.search(r"Input|should|Field|inputs|[Vv]alidation|pydantic|another value", said)
    assert refused
