"""``python -m product_sync_torture.live``: plays every consumer with every seed, with full syncs alone and with passes
between them. Exits with 1 on a violation.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
from pathlib import Path

from product_sync_torture.live.campaign import Round, play
from product_sync_torture.live.shop import CONSUMERS, Traffic
from product_sync_torture.surroundings import finish, markdown, say, servers

_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="product_sync_torture.live", description=__doc__)
    parser.add_argument("--events", type=int, default=4_000, help="writes of the shop in each round")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one round for each seed and consumer")
    parser.add_argument("--report", type=Path, help="where to write the report, as Markdown")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    rounds = []
    with servers() as running:
        for consumer in CONSUMERS:
            for seed, follows in itertools.product(arguments.seeds, (False, True)):
                rounds.append(play(running, consumer, Traffic(arguments.events), seed, follows=follows))
                say(_line(rounds[-1]))
    finish(report(rounds), arguments.report)
    return int(any(one.judged.violations for one in rounds))


def report(rounds: list[Round]) -> str:
    """All rounds as a Markdown page."""
    names = sorted({name for one in rounds for name in one.judged.counts})
    violations = [
        f"- {one.consumer}, seed {one.seed}: {text}" for one in rounds for text in one.judged.violations[:_SHOWN]
    ]
    heads = [f"{one.consumer}, {one.seed}" for one in rounds]
    rows = [
        ("events of the shop", [one.events for one in rounds]),
        ("lost events", [one.lost for one in rounds]),
        ("delivered events", [one.delivered for one in rounds]),
        ("seconds", [round(one.seconds) for one in rounds]),
        *((name, [one.judged.counts[name] for one in rounds]) for name in names),
        ("**violations**", [len(one.judged.violations) for one in rounds]),
    ]
    body = [
        "`docs/guarantees.md` explains the lines.",
        "",
        f"| consumer, seed | {' | '.join(heads)} | all |",
        f"|---|{'---|' * (len(rounds) + 1)}",
        *(f"| {name} | {' | '.join(map(str, values))} | {sum(values)} |" for name, values in rows),
        *_repairs(rounds),
    ]
    return markdown("Live events", "product_sync_torture.live", body, violations)


def _repairs(rounds: list[Round]) -> list[str]:
    """What became of the lost events while the changes were followed."""
    rows = [
        f"| {one.consumer}, {one.seed} | {one.lost} | {found.harmless} | {found.superseded} | {len(found.delays_s)}"
        f" | {found.distribution} | {found.bound_s:.1f} |"
        for one in rounds
        if (found := one.repairs) is not None
    ]
    if not rows:
        return []
    return [
        "",
        "## From a lost event to its repair",
        "",
        "While the changes are followed. A lost event that left no difference needs no repair; one that the shop"
        " followed with another write of the product before its repair counts as superseded.",
        "",
        "| consumer, seed | lost events | no difference | superseded | repaired | s: median / 95 % / most | bound, s |",
        "|---|---|---|---|---|---|---|",
        *rows,
    ]


def _line(one: Round) -> str:
    return f"{one.consumer}, seed {one.seed}: {one.events} events, {len(one.judged.violations)} violations" + (
        f", repaired after {one.repairs.distribution} s" if one.repairs else ""
    )


if __name__ == "__main__":
    sys.exit(main())
