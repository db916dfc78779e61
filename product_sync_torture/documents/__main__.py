"""``python -m product_sync_torture.documents``: plays all rounds and writes a report. Exits with 1 on a violation."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from product_sync_torture.documents.campaign import Round, play
from product_sync_torture.surroundings import finish, markdown, say, servers

_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="product_sync_torture.documents", description=__doc__)
    parser.add_argument("--documents", type=int, default=5_000, help="documents in each round")
    parser.add_argument("--large", type=int, default=24, help="how many of them hold megabytes")
    parser.add_argument("--wide", type=int, default=300, help="additional documents of up to 400 kB")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4], help="one round each")
    parser.add_argument("--report", type=Path, help="where to write the report, as Markdown")
    arguments = parser.parse_args()
    rounds = []
    with servers() as running:
        for seed in arguments.seeds:
            rounds.append(play(running, arguments.documents, arguments.large, seed, wide=arguments.wide))
            say(f"seed {seed}: {rounds[-1].documents} documents, {len(rounds[-1].violations)} violations")
            for violation in rounds[-1].violations[:_SHOWN]:
                say(f"  {violation}")
    finish(report(rounds), arguments.report)
    return int(any(one.violations for one in rounds))


def report(rounds: list[Round]) -> str:
    """All rounds as a Markdown page."""
    counts = sorted({name for one in rounds for name in one.counts})
    reasons = sorted({name for one in rounds for name in one.reasons})
    violations = [f"- seed {one.seed}: {text}" for one in rounds for text in one.violations[:_SHOWN]]
    total = sum((one.counts for one in rounds), Counter[str]())
    total_reasons = sum((one.reasons for one in rounds), Counter[str]())
    rows: list[tuple[str, Sequence[object], object]] = [
        ("converted", ["one by one" if one.nested else "together" for one in rounds], ""),
        ("documents", [one.documents for one in rounds], sum(one.documents for one in rounds)),
        ("megabytes of them", [round(one.megabytes) for one in rounds], round(sum(one.megabytes for one in rounds))),
        ("most memory of a run, MB", [round(one.peak_mb) for one in rounds], round(max(one.peak_mb for one in rounds))),
        ("seconds", [round(one.seconds) for one in rounds], round(sum(one.seconds for one in rounds))),
        *((name, [one.counts[name] for one in rounds], total[name]) for name in counts),
        *((f"reason: {name}", [one.reasons[name] for one in rounds], total_reasons[name]) for name in reasons),
        ("**violations**", [len(one.violations) for one in rounds], sum(len(one.violations) for one in rounds)),
    ]
    body = [
        "Each round has four runs, each in its own process: the first sync, a second one, one after every document was"
        " corrected, and one after every row was changed in the target. A document with two reasons counts for both.",
        "",
        f"| seed | {' | '.join(str(one.seed) for one in rounds)} | all |",
        f"|---|{'---|' * (len(rounds) + 1)}",
        *(f"| {name} | {' | '.join(map(str, cells))} | {whole} |" for name, cells, whole in rows),
    ]
    return markdown("Bad documents", "product_sync_torture.documents", body, violations)


if __name__ == "__main__":
    sys.exit(main())
