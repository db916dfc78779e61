"""The commands on a real terminal: whatever its width, ids and commands are whole, and no table loses its borders."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bson import ObjectId
from rich.cells import cell_len

from product_sync import api
from product_sync.embedded.servers import Servers
from product_sync.terminal.text import WIDTH_WITHOUT_TERMINAL
from product_sync_tests.largest_reports import LONG_ID
from product_sync_tests.market import Market, open_market, product, products
from product_sync_tests.pseudo_terminal import Shown, on_terminal
from product_sync_tests.warm_process import started

AWKWARD = "it's a ring; $HOME"
BORDERS = "┌┐└┘├┤"


@dataclass(frozen=True)
class Day:
    market: Market
    dry_run: Shown
    sync: Shown
    validate: Shown
    stats: Shown
    doctor: Shown
    show: Shown


@pytest.fixture(scope="module")
def day(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """The commands of a day on a terminal of 80 columns."""
    with open_market(servers, tmp_path_factory.mktemp("terminal") / "state") as market:
        catalogue = products(120)
        bad = [product(7000, price="a lot"), product(7001, _id=ObjectId("65a000000000000000000001"), title=None)]
        market.stock([*catalogue, product(1, _id=LONG_ID, title="A ring " * 8), product(2, _id=AWKWARD), *bad])
        market.copy([{**catalogue[0], "price": 1, "image": ""}, *catalogue[1:], product(9000)])

        def run(*arguments: str) -> Shown:
            return on_terminal("product_sync.cli", *arguments, env=market.env)

        budget = ("--quarantine-budget", "0.5")
        yield Day(
            market,
            run("sync", "--dry-run", "--extra", "delete", "--delay-ms", "0", *budget),
            run("sync", "--delay-ms", "0", *budget),
            run("validate", *budget),
            run("stats"),
            run("doctor"),
            run("show", LONG_ID),
        )


def everything(day: Day) -> list[Shown]:
    return [day.dry_run, day.sync, day.validate, day.stats, day.doctor, day.show]


def assert_borders_are_whole(lines: list[str], columns: int) -> None:
    """Each line of a table begins and ends with its border, and fits."""
    drawn = [line for line in lines if line[:1] in tuple("┌├└│┏┡┗┃")]
    assert drawn
    for line in drawn:
        assert line.rstrip()[-1] in "┐┤┘│", line
        assert cell_len(line.rstrip()) <= columns, line


def test_no_table_loses_its_borders(day: Day) -> None:
    for shown in everything(day):
        assert_borders_are_whole(shown.lines, 80)


def test_the_bars_end_at_a_hundred_per_cent(day: Day) -> None:
    for stage, total in (("read source", 124), ("read target", 123), ("load", 3)):
        drawn = re.findall(rf"{stage} +.*?(\d+)/(\d+)", day.sync.bars.replace("\n", " "))
        assert drawn[-1] == (str(total), str(total)), day.sync.bars[-2_000:]


def test_ids_are_whole_and_can_be_pasted(day: Day) -> None:
    assert f"  insert  {LONG_ID}" in day.dry_run.lines
    assert f"  insert  {shlex.quote(AWKWARD)}" in day.dry_run.lines
    assert """  '{"$oid": "65a000000000000000000001"}'""" in day.dry_run.lines


def test_the_sample_of_an_insert_is_the_whole_row(day: Day) -> None:
    rows = day.dry_run.output
    assert f"title: {'A ring ' * 8}, price: 101, image: 1.png, sellerId: s1, quantity: 1\n" in rows
    assert '  update  p0000\n      price: 1 → 100\n      image: "" → 0.png\n' in rows


def test_the_command_for_the_plan_is_on_a_line_of_its_own_and_has_the_options_of_the_dry_run(day: Day) -> None:
    place = day.dry_run.lines.index("To do exactly this:")
    [command] = [line for line in day.dry_run.lines[place:] if "--plan" in line]
    plan = re.search(r"[0-9a-f-]{36}$", command)
    assert plan
    assert command == (f"  product-sync sync --extra delete --delay-ms 0 --quarantine-budget 0.5 --plan {plan[0]}")
    assert f"Run: {plan[0]}" in day.dry_run.lines


def test_a_sync_tells_the_reasons_of_the_quarantine_the_run_and_the_drift_report(day: Day) -> None:
    assert day.sync.status == 0
    lines = day.sync.lines
    assert "Quarantined by reason: missing_field: 1, wrong_type: 1" in lines
    assert any(re.fullmatch(r"Run: [0-9a-f-]{36}", line) for line in lines)
    report = Path(lines[lines.index("Drift report:") + 1].strip())
    assert report.read_text().startswith("<!")
    exceptions = "the quarantined documents and the rows that only PostgreSQL has"
    assert f"The copy agrees with the source, apart from {exceptions}." in lines
    assert any(line.startswith("Warning: 1 row of the target has no document in the source") for line in lines)


def test_a_quarantined_document_is_shown_by_the_key_that_was_printed(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    day.market.enter(monkeypatch)
    for printed in ("'\"p7000\"'", """'{"$oid": "65a000000000000000000001"}'"""):
        assert f"  {printed}" in day.dry_run.lines
        [given] = shlex.split(printed)
        assert api.show(given).state == "quarantined"


def test_moments_have_their_zone(day: Day) -> None:
    assert re.search(r"Last sync that succeeded: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\n", day.stats.output)
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", day.show.output)


@pytest.mark.parametrize("columns", [60, 80, 200, None])
def test_the_largest_numbers_fit_terminals_of_every_width_and_a_file(columns: int | None) -> None:
    module = "product_sync_tests.largest_reports"
    if columns is None:
        with started(module, env=os.environ) as process:
            output, columns = process.completed().stdout, WIDTH_WITHOUT_TERMINAL
    else:
        output = on_terminal(module, env=os.environ, columns=columns).output
    lines = output.splitlines()
    assert_borders_are_whole(lines, columns)
    assert output.count("10,000,000") == 18
    for whole in (
        f"  extra  {LONG_ID}", f"  product-sync show {LONG_ID}", "  product-sync show -- -5", f"Run: {'0' * 36}",
        f"  product-sync sync --plan {'1' * 36}", f"Its run: {'0' * 36}",
        "Last sync that succeeded: 2026-01-02 02:04:05 UTC", "The copy agrees with the source.",
    ):  # fmt: skip
        assert whole in lines
