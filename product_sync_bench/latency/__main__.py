"""``python -m product_sync_bench.latency``: what `make bench-latency` calls.

The report goes to docs/latency.md when each figure is a median of at least three rounds, else beside the data.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import click

from product_sync.embedded.servers import running
from product_sync.errors import ProductSyncError
from product_sync_bench import machine, options
from product_sync_bench.latency import measuring, report, results

_ENOUGH_ROUNDS = 3
_REPORT = Path("docs/latency.md")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rows", type=click.IntRange(min=1_000), default=100_000, show_default=True, help="Rows of the load.")
@options.rounds
@options.folder
@options.report
@options.write_only
def main(rows: int, rounds: int, folder: Path, report_file: Path | None, write_only: bool) -> None:
    """Measure what the target's users feel of a load at each pace, and write the report: into docs/ from three rounds
    on."""
    report_file = report_file or (_REPORT if rounds >= _ENOUGH_ROUNDS else folder / "latency.md")
    figures = report_file.with_suffix(".json")
    if not write_only:
        try:
            results.write(figures, _measure(rows, rounds, folder))
        except ProductSyncError as error:
            raise click.ClickException(str(error)) from error
    report_file.write_text(report.render(results.read(figures)))
    click.echo(f"{report_file} and {figures}")


def _measure(rows: int, rounds: int, folder: Path) -> results.Results:
    with running(folder / "servers", durable=True, say=click.echo) as servers:
        found = results.Results(
            rows=rows,
            rate=measuring.RATE,
            measured_at=datetime.now(UTC).date().isoformat(),
            machine=machine.describe(),
            versions=machine.server_versions(servers) | machine.commit(),
            load_before=machine.load(),
        )
        with closing(measuring.Measurement(servers, rows, click.echo)) as measurement:
            measurement.prepare()
            for number in range(rounds):
                found.rounds += measurement.round(number)
            found.pressure.append(measurement.pressure())
    return found


if __name__ == "__main__":
    main()
