"""The command line's options of a run, made from `RunOptions`."""

from __future__ import annotations

import click

from product_sync.runtime.typed_settings import Setting
from product_sync.settings import RunOptions


def run_options(*names: str) -> list[click.Option]:
    """These options of `RunOptions`, or all of them."""
    return [_option(option) for name, option in RunOptions.each().items() if name in names or not names]


def _option(option: Setting) -> click.Option:
    names = [option.flag, option.name]
    if option.type is bool:
        value, text = not option.default, option.explained
        help_ = text if value else f"Do not {text[0].lower()}{text[1:]}"
        return click.Option(names, is_flag=True, flag_value=value, default=None, help=help_)
    if option.is_list:
        # An empty list would be a value; an option that is not given says nothing.
        given = lambda _context, _option, texts: list(texts) or None  # noqa: E731
        return click.Option(names, multiple=True, metavar=option.unit.upper(), callback=given, help=option.help)
    kind = click.Choice(option.choices) if option.choices else option.type
    metavar = None if option.choices else option.unit.partition(" ")[0].upper()
    return click.Option(names, type=kind, metavar=metavar, help=option.help)
