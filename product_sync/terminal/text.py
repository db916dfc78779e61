"""Writes text to a terminal: lines that are never broken, ids that can be pasted, tables that fit.

Rich breaks a line that is wider than the terminal, and cuts a table that it cannot shrink. Nobody can copy a broken id
or command, so each has a line of its own, which the terminal wraps.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from product_sync.runtime import hints

#: The width of an output that has none, such as a log.
WIDTH_WITHOUT_TERMINAL = 120


def output() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL)


def line(text: str = "", style: str = "") -> None:
    """One line of any length, without control characters."""
    output().print(Text(printable(text), style), soft_wrap=True, highlight=False)


def heading(text: str) -> None:
    line(text, "bold")


def command(text: str) -> None:
    """A command on a line of its own, to be copied."""
    line(f"  {text}")


def table(rows: Iterable[tuple[str, ...]], numbers: Iterable[int] = ()) -> None:
    """A table without a head. The columns ``numbers`` are aligned to the right and never broken; a narrow terminal
    folds the others."""
    shown, right, listed = Table(show_header=False), set(numbers), list(rows)
    for place in range(max(map(len, listed), default=0)):
        number = place in right
        shown.add_column(justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in listed:
        shown.add_row(*(escape("\n".join(map(printable, cell.split("\n")))) for cell in row))
    output().print(shown)


def printable(text: str) -> str:
    """Shows control characters instead of sending them: a product may contain some that move the cursor, or worse."""
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def pasted(product_id: str) -> str:
    """A whole id as a shell takes it, quoted if necessary."""
    if product_id.isprintable():
        return shlex.quote(product_id)
    quoted = product_id.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable(quoted)}'"


def show_command(product_id: str, options: Sequence[str] = ()) -> str:
    """The command that shows everything about a product."""
    dashes = ["--"] if product_id.startswith("-") else []
    return f"{hints.shell('product-sync', 'show', *options, *dashes)} {pasted(product_id)}"


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def moment(iso: str) -> str:
    """A moment in ISO 8601 as people read it, in UTC."""
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def runs(number_of: int) -> str:
    return "1 run" if number_of == 1 else f"{number_of:,} runs"


def counts(by_name: Mapping[str, int]) -> str:
    """``wrong_type: 2, missing_field: 1``"""
    return ", ".join(f"{name}: {count:,}" for name, count in by_name.items() if count)
