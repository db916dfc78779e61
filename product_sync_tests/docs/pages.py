"""The project's pages of Markdown as data: their tables, headings, links and fenced blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

Row = dict[str, str]


@dataclass(frozen=True)
class Fence:
    """A fenced block: ``language`` as written behind the fence, ``before`` the last line that is not empty above it."""

    language: str
    text: str
    before: str


@dataclass(frozen=True)
class Page:
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.DOTALL | re.MULTILINE)

    @cached_property
    def anchors(self) -> set[str]:
        """What a link may name behind ``#``, as GitHub makes it of the headings."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}

    @cached_property
    def links(self) -> list[str]:
        """The targets of all links and images."""
        return re.findall(r"\]\(<?([^)\s>]+)>?\)", re.sub(r"`[^`\n]*`", "", self.prose))

    @cached_property
    def tables(self) -> list[list[Row]]:
        """The rows of each table, by the names in its head. Two columns of one name become one."""
        return list(_tables(self.prose.splitlines()))

    @cached_property
    def fences(self) -> list[Fence]:
        return list(_fences(self.text.splitlines()))

    @cached_property
    def sections(self) -> dict[str, Section]:
        """What stands below each heading of the second level."""
        parts = re.split(r"^## (.+)$", self.text, flags=re.MULTILINE)[1:]
        return {heading: Section(self.path, text) for heading, text in zip(parts[::2], parts[1::2], strict=True)}

    def rows(self, *columns: str) -> list[Row]:
        """All rows of the tables that have these columns."""
        return [row for table in self.tables for row in table if row.keys() >= set(columns)]


@dataclass(frozen=True)
class Section(Page):
    """A part of a page."""

    content: str

    @cached_property
    def text(self) -> str:
        return self.content


def page(name: str) -> Page:
    return Page(DOCS / name)


def all_pages() -> list[Page]:
    """Everything that a reader of the project is given, decisions and reports too."""
    return [Page(ROOT / "README.md"), Page(ROOT / "CONTRIBUTING.md"), *map(Page, sorted(DOCS.rglob("*.md")))]


def codes(cell: str) -> list[str]:
    """What stands between backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def _tables(lines: list[str]) -> Iterator[list[Row]]:
    head: list[str] = []
    rows: list[Row] = []
    for line in [*lines, ""]:
        if not line.startswith("|"):
            if head:
                yield rows
            head, rows = [], []
        elif not head:
            head = _cells(line)
        elif set(line) - set("|-: "):
            cells = _cells(line)
            assert len(cells) == len(head), f"a row of {len(cells)} cells under {head}: {line}"
            rows.append(dict(zip(head, cells, strict=True)))


def _cells(line: str) -> list[str]:
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])]


def _fences(lines: list[str]) -> Iterator[Fence]:
    before, language, block = "", None, list[str]()
    for line in lines:
        if line.startswith("```"):
            if language is None:
                language, block = line[3:].strip(), []
            else:
                yield Fence(language, "\n".join(block), before)
                language, before = None, ""
        elif language is not None:
            block.append(line)
        elif line.strip():
            before = line.strip()
    assert language is None, "a fenced block without an end"
