"""``python -m product_sync_torture.live``: every consumer with every seed, and a report. Ends with 1 on a violation."""

from __future__ import annotations

import argparse
import logging
import platform
import sys
from pathlib import Path

from product_sync_torture.live.campaign import Round, play
from product_sync_torture.live.shop import CONSUMERS, Traffic
from product_sync_torture.surroundings import servers

_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="product_sync_torture.live", description=__doc__)
    parser.add_argument("--events", type=int, default=4_000, help="writes of the shop in each round")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one round each, with every consumer")
    parser.add_argument("--report", type=Path, help="where to write the report, as Markdown")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    rounds = []
    with servers() as running:
        for consumer in CONSUMERS:
            for seed in arguments.seeds:
                rounds.append(play(running, consumer, Traffic(arguments.events), seed))
                _say(_line(rounds[-1]))
    text = report(rounds)
    if arguments.report:
        arguments.report.write_text(text, encoding="utf-8")
    _say(text)
    return int(any(one.judged.violations for one in rounds))


def report(rounds: list[Round]) -> str:
    """All rounds as a page of Markdown."""
    names = sorted({name for one in rounds for name in one.judged.counts})
    violations = [
        f"- {one.consumer}, seed {one.seed}: {text}" for one in rounds for text in one.judged.violations[:_SHOWN]
    ]
    heads = [f"{one.consumer}, {one.seed}" for one in rounds]
    rows = [
        ("events of the shop", [one.events for one in rounds]),
        ("of these lost", [one.lost for one in rounds]),
        ("of these delivered", [one.delivered for one in rounds]),
        ("seconds", [round(one.seconds) for one in rounds]),
        *((name, [one.judged.counts[name] for one in rounds]) for name in names),
        ("**violations**", [len(one.judged.violations) for one in rounds]),
    ]
    table = [
        f"| consumer, seed | {' | '.join(heads)} | all |",
        f"|---|{'---|' * (len(rounds) + 1)}",
        *(f"| {name} | {' | '.join(map(str, values))} | {sum(values)} |" for name, values in rows),
    ]
    return "\n".join(
        [
            "# Live events: what the campaign saw",
            "",
            f"Written by `python -m product_sync_torture.live` on {platform.system()}, Python"
            f" {platform.python_version()}. `docs/guarantees.md` says what the lines mean.",
            "",
            *table,
            "",
            "## Violations",
            "",
            *(violations or ["None."]),
            "",
        ]
    )


def _line(one: Round) -> str:
    return f"{one.consumer}, seed {one.seed}: {one.events} events, {len(one.judged.violations)} violations"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
