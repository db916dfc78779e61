"""Reads the YAML of a mapping file: names stay as they are written, and a key that is given twice is refused."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

#: Keys whose values are names.
_NAMES = frozenset({"name", "source", "collection", "schema", "table"})


class MappingLoader(yaml.SafeLoader):
    """YAML whose names are taken as they are written, and that refuses a key given twice.

    To YAML 1.1 `no`, `on` and `yes` are booleans, `null` is nothing and `1` a number; a column or a field may have
    such a name. Of two lines for one column, PyYAML would drop the first in silence.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        is_query = getattr(node, "is_query", False)
        for key, value in node.value:
            _as_written(key)
            if is_query or key.value in ("filter", "expression"):  # its values are those of documents
                _mark_as_query(value)
            elif key.value in _NAMES:
                _as_written(value)
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", node.value[position][0].start_mark
                )
        return super().construct_mapping(node, deep)


def _mark_as_query(node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode):
        node.is_query = True  # type: ignore[attr-defined] # PyYAML builds nested mappings later
    elif isinstance(node, yaml.SequenceNode):
        for member in node.value:
            _mark_as_query(member)


def _as_written(node: yaml.Node) -> None:
    """Make a text of a plain scalar. A merge key stays one."""
    if isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:merge":
        node.tag = "tag:yaml.org,2002:str"
