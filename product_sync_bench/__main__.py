"""``python -m product_sync_bench``: what `make bench` calls.

The report goes to docs/benchmarks.md when each figure is a median of at least three runs, else beside the data, so that
trying it out does not replace figures that mean something.
"""

from __future__ import annotations

from pathlib import Path

import click

from product_sync.embedded.servers import running
from product_sync.errors import ProductSyncError
from product_sync_bench import contestants, options, report, results
from product_sync_bench.catalogue import Catalogue
from product_sync_bench.contestants import MissingContestantError
from product_sync_bench.race import CHANGED_BEFORE, Race
from product_sync_bench.results import SCENARIOS, Section

_START_PRODUCTS = 100
_ENOUGH_ROUNDS = 3
_REPORT = Path("docs/benchmarks.md")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--products", type=click.IntRange(min=1_000), multiple=True, default=(100_000, 1_000_000), show_default=True,
    help="Size of a catalogue; may be given several times.",
)  # fmt: skip
@options.rounds
@click.option("--only", multiple=True, metavar="NAME", help="Only this contestant; may be given several times.")
@click.option(
    "--scenario", "scenarios", multiple=True, type=click.Choice([*SCENARIOS, *tuple(CHANGED_BEFORE)[1:]]),
    help="Only this scenario; may be given several times. Passes go on from a full sync:"
    " they need 'nothing changed' too.",
)  # fmt: skip
@options.folder
@options.report
@options.write_only
def main(
    products: tuple[int, ...],
    rounds: int,
    only: tuple[str, ...],
    scenarios: tuple[str, ...],
    folder: Path,
    report_file: Path | None,
    write_only: bool,
) -> None:
    """Measure product_sync, its peers and the floors, and write the report: into docs/ from three rounds on."""
    report_file = report_file or (_REPORT if rounds >= _ENOUGH_ROUNDS else folder / "benchmarks.md")
    figures = report_file.with_suffix(".json")
    sections = results.read(figures)

    def keep(section: Section) -> None:
        sections[section.products] = section
        results.write(figures, sections)
        report_file.write_text(report.render(sections))

    if write_only:
        report_file.write_text(report.render(sections))
        return
    try:
        known = contestants.names()
        if unknown := set(only) - known:
            raise click.BadParameter(f"{', '.join(unknown)}: there are {', '.join(sorted(known))}", param_hint="--only")
        with running(folder / "servers", durable=True, say=click.echo) as servers:
            # The start is a comparison of two: half of it would replace the whole.
            for size in products if only or scenarios else (_START_PRODUCTS, *products):
                race = Race(servers, Catalogue(size), folder.resolve(), click.echo)
                section = race.run(rounds, only, scenarios, keep)
                click.echo(f"\n{report.summary(section)}\n")
    except (MissingContestantError, ProductSyncError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{report_file} and {figures}")


if __name__ == "__main__":
    main()
