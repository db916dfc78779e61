"""The options that all measurements have."""

from __future__ import annotations

from pathlib import Path

import click

folder = click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path), default=".data/bench", show_default=True,
    help="Data folder. The catalogues in it are kept for the next time.",
)  # fmt: skip
write_only = click.option(
    "--write-only", is_flag=True, help="Measure nothing: write the report again from the figures beside it."
)
report = click.option(
    "--report", "report_file", type=click.Path(dir_okay=False, path_type=Path),
    help="Where the report goes. By default into docs/, or beside the data if too little is measured.",
)  # fmt: skip
rounds = click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="How often each is measured."
)
