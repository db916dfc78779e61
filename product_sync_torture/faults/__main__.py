"""``python -m product_sync_torture.faults``: injects all faults in turn. Exits with 1 on a violation."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Final

from product_sync_torture.faults.campaign import Round
from product_sync_torture.faults.kinds import FAULTS
from product_sync_torture.faults.report import report
from product_sync_torture.faults.workers import play_all
from product_sync_torture.surroundings import keep, kept, say

_SHOWN: Final = 5


def main() -> int:
    parser = argparse.ArgumentParser(prog="product_sync_torture.faults", description=__doc__)
    parser.add_argument(
        "--rounds",
        type=int,
        default=3 * len(FAULTS),
        help="number of rounds; each plays the next fault (three of each)",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes, each with its own servers")
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the first round of each fault; later rounds count up"
    )
    parser.add_argument("--only", default="", help="only faults whose name contains this")
    parser.add_argument("--keep", type=Path, help="file of played rounds, which are not played again")
    parser.add_argument("--report", type=Path, help="where to write the report, as Markdown, after each round")
    arguments = parser.parse_args()
    chosen = [number for number, fault in enumerate(FAULTS) if arguments.only in fault.name]
    if not chosen:
        parser.error(f"no fault has a name with {arguments.only!r} in it")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the workers
    rounds = kept(arguments.keep, Round)
    known = {(one.fault, one.seed) for one in rounds}
    tasks = [(chosen[n % len(chosen)], arguments.seed + n // len(chosen)) for n in range(arguments.rounds)]
    left = [(number, seed) for number, seed in tasks if (FAULTS[number].name, seed) not in known]
    text = ""
    for one, disk in play_all(left, arguments.workers):
        rounds.append(one)
        _show(one, len(rounds), len(tasks))
        keep(arguments.keep, one)
        text = report(rounds, asked=len(tasks), workers=arguments.workers, disk=disk)
        if arguments.report:
            arguments.report.write_text(text, encoding="utf-8")
    say(text)
    return int(any(one.violations for one in rounds))


def _show(one: Round, count: int, asked: int) -> None:
    say(f"{count}/{asked} {one.fault}, seed {one.seed}: {one.ending}, {one.seconds:.0f} s")
    for violation in one.violations[:_SHOWN]:
        say(f"  {violation}")


if __name__ == "__main__":
    sys.exit(main())
