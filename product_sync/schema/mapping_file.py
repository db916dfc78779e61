"""Reads the YAML of a mapping file, with the line of each key.

To YAML 1.1 `no`, `on` and `yes` are booleans, `null` is nothing and `1` a number; a column or a field may have such a
name, so names are taken as they are written. Of two lines for one column, PyYAML would drop the first in silence.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from product_sync.errors import MappingError, Mistake
from product_sync.schema.mapping_errors import Place, named, shown

#: Keys whose values are names.
_NAMES = frozenset({"name", "source", "collection", "schema", "table"})
#: Keys of a column whose values are those of documents, as those of a filter are.
_OF_DOCUMENTS = (["expression"], ["value"], ["default"])
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True)
class MappingFile:
    """The content of a mapping file, and the mistakes of its YAML that do not keep it from being read."""

    path: Path
    content: Any
    mistakes: list[Mistake]
    root: yaml.Node | None

    def line(self, place: Place) -> int:
        """The line of the last key at ``place``, or of the nearest one above it; 0 if there is none."""
        node, line = self.root, 0
        for name in place:
            found = [(key, value) for member, key, value in _direct(node) if member == name]
            if not found:
                break
            key, node = found[-1]
            line = key.start_mark.line + 1
        return line

    def where(self, place: Place) -> str:
        """For people: the file and the line."""
        line = self.line(place)
        return f"{self.path}, line {line}: " if line else f"{self.path}: "


def read_mapping(path: Path, raw: bytes) -> MappingFile:
    """Raises `MappingError` for a text that is not YAML."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_yaml(path, raw[: error.start].count(b"\n"), "the file is not UTF-8") from error
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        # Before the content is made of them, because a merge key adds members.
        members = list(_members(root, (), set())) if root else []
        _take_names_as_written(members)
        content = loader.construct_document(root) if root else None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n")
        raise _not_yaml(path, line, f"the character U+{error.character:04X} is not allowed") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(filter(None, (error.context, error.problem)))
        if "'\\t'" in problem:
            problem = "there is a tab; indent with spaces"
        raise _not_yaml(path, mark.line if mark else 0, problem) from error
    invalid = [
        Mistake(place, f"{named(place)} is {shown(value.value)}; expected a date or a number that exists.")
        for place, _, value in members
        if value in loader.invalid
    ]
    return MappingFile(path, content, [*_repeated(members), *invalid], root)


def _not_yaml(path: Path, line: int, problem: str) -> MappingError:
    return MappingError(
        f"{path}, line {line + 1}: this is not valid YAML: {problem}.",
        hint="Correct the line, or the one before it.",
    )


class _Loader(yaml.SafeLoader):
    """Notes the values that cannot be what they look like."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.invalid: list[yaml.Node] = []

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError:  # such as the date 2024-02-30
            self.recursive_objects.pop(node, None)
            self.invalid.append(node)
            return node.value


def _take_names_as_written(members: Iterable[tuple[Place, yaml.Node, yaml.Node]]) -> None:
    for place, key, value in members:
        names = [name for name in place if isinstance(name, str) and name != "<<"]
        is_of_document = names[:2] == ["source", "filter"] or (names[:1] == ["columns"] and names[2:3] in _OF_DOCUMENTS)
        if isinstance(place[-1], str):
            _as_written(key)
            if names[-1:] and names[-1] in _NAMES and not is_of_document:
                _as_written(value)


def _as_written(node: yaml.Node) -> None:
    """Make a text of a plain scalar. A merge key stays one."""
    if isinstance(node, yaml.ScalarNode) and node.tag != _MERGE:
        node.tag = "tag:yaml.org,2002:str"


def _members(node: yaml.Node, place: Place, seen: set[int]) -> Iterator[tuple[Place, yaml.Node, yaml.Node]]:
    """The place, the key and the value of all members, at any depth. What an alias repeats comes once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    for name, key, value in _direct(node):
        yield (*place, name), key, value
        yield from _members(value, (*place, name), seen)


def _direct(node: yaml.Node | None) -> list[tuple[str | int, yaml.Node, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        return [(key.value, key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
    if isinstance(node, yaml.SequenceNode):
        return [(number, member, member) for number, member in enumerate(node.value)]
    return []


def _repeated(members: list[tuple[Place, yaml.Node, yaml.Node]]) -> Iterator[Mistake]:
    first, twice = dict[Place, int](), set[Place]()
    for place, key, _ in members:
        if place in first and key.tag != _MERGE and not any(place[:depth] in twice for depth in range(len(place))):
            twice.add(place)
            yield Mistake(place, f"{named(place)} is given twice; the first time in line {first[place]}.")
        first.setdefault(place, key.start_mark.line + 1)
