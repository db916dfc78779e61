"""``python -m product_sync_bench.shards``: what `make bench-shards` calls.

The report goes to docs/shards.md when all sizes are measured, else beside the data, so that trying it out does not
replace figures that belong together. A run replaces the one of its kind in the report; those of another machine or
commit are not kept.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import click
import psutil

from product_sync.runtime.process import collect_again, collect_seldom, stay_small

# The steps are forked from this process, which is prepared as a worker is, and has imported what a worker has.
stay_small()
collect_seldom()

import product_sync.definitions  # noqa: E402, F401
from product_sync.embedded.servers import running  # noqa: E402
from product_sync.errors import ProductSyncError  # noqa: E402
from product_sync_bench import machine, options  # noqa: E402
from product_sync_bench.shards import measuring, report, results  # noqa: E402
from product_sync_bench.shards.results import Results, Run  # noqa: E402
from product_sync_tests.object_store import S3Server  # noqa: E402

_REPORT = Path("docs/shards.md")
_SIZES = (100_000, 1_000_000, 10_000_000)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--products", type=click.IntRange(min=1_000), multiple=True, default=_SIZES, show_default=True,
    help="Size of a catalogue; may be given several times.",
)  # fmt: skip
@options.folder
@options.report
@click.option("--prepare", is_flag=True, help="Only make the catalogues.")
@options.write_only
def main(products: tuple[int, ...], folder: Path, report_file: Path | None, prepare: bool, write_only: bool) -> None:
    """Measure what shards cost, and write the report with the model: into docs/ if all sizes are measured."""
    collect_again()
    report_file = report_file or (_REPORT if {*_SIZES} <= {*products} else folder / "shards.md")
    figures = report_file.with_suffix(".json")
    logging.disable(logging.WARNING)
    found = results.read(figures)
    if not write_only:
        try:
            found = _measure(found, products, folder.resolve(), figures, prepare=prepare)
        except ProductSyncError as error:
            raise click.ClickException(str(error)) from error
    if found is not None and not prepare:
        report_file.write_text(report.render(found))
        click.echo(f"{report_file} and {figures}")


def _measure(
    before: Results | None, products: tuple[int, ...], folder: Path, figures: Path, *, prepare: bool
) -> Results:
    load_before = machine.load()
    with running(folder / "servers", durable=True, say=click.echo) as servers, closing(_Store(folder)) as store:
        found = Results(
            machine=machine.describe(),
            processors=psutil.cpu_count() or 1,
            versions=machine.server_versions(servers) | machine.commit(),
            measured_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            load_before=load_before,
        )
        if before:
            found.keep(before)

        def keep(run: Run) -> None:
            found.add(run)
            results.write(figures, found)

        for size in products:
            with closing(measuring.Bench(servers, store.server, folder / "shards", size, click.echo)) as bench:
                bench.prepare()
                if not prepare:
                    heats, scenarios = measuring.heats(size)
                    for heat in heats:
                        bench.measure(heat, scenarios, keep)
    return found


class _Store:
    """An S3 server whose data nobody keeps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "store"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.server = S3Server(self._folder)
        self.server.start()

    def close(self) -> None:
        self.server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


if __name__ == "__main__":
    main()
