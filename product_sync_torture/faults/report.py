"""All rounds as a Markdown page: their number by fault and ending, and how to play a round again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from product_sync_torture.faults.campaign import Round
from product_sync_torture.faults.judge import Ending
from product_sync_torture.faults.kinds import FAULTS
from product_sync_torture.surroundings import markdown

_SHOWN: Final = 10


def report(rounds: Sequence[Round], *, asked: int, workers: int, disk: bool) -> str:
    """``asked`` is the number of requested rounds; ``disk`` says whether a real disk was filled."""
    violations = sum(bool(one.violations) for one in rounds)
    heads = [str(ending) for ending in Ending]
    seconds = sum(one.seconds for one in rounds)
    unfinished = [] if len(rounds) == asked else [f"**Unfinished: {len(rounds)} of {asked} rounds.**", ""]
    body = [
        "`docs/guarantees.md` explains the columns.",
        "",
        *unfinished,
        f"{len(rounds)} rounds, {violations} of them with a violation, by {workers} workers;"
        f" {seconds / max(1, len(rounds)):.0f} s a round. The full disk is"
        f" {'a file system of 8 MB' if disk else 'simulated by a trigger that raises SQLSTATE 53100'}.",
        "",
        f"| fault | rounds | {' | '.join(heads)} | missed | **violations** |",
        f"|---|{'---|' * (len(heads) + 3)}",
        *(_line(name, [one for one in rounds if one.fault == name]) for name in _names(rounds)),
        _line("all", rounds),
    ]
    return markdown("Faults", "product_sync_torture.faults", body, _violations(rounds))


def _names(rounds: Sequence[Round]) -> list[str]:
    played = {one.fault for one in rounds}
    return [fault.name for fault in FAULTS if fault.name in played]


def _line(name: str, rounds: Sequence[Round]) -> str:
    endings = Counter(one.ending for one in rounds)
    missed, violations = sum(one.missed for one in rounds), sum(bool(one.violations) for one in rounds)
    counts = [len(rounds), *(endings[ending] for ending in Ending), missed, violations]
    return f"| {name} | {' | '.join(map(str, counts))} |"


def _violations(rounds: Sequence[Round]) -> list[str]:
    return [f"- `--only {one.fault!r} --seed {one.seed}`: {text}" for one in rounds for text in one.violations[:_SHOWN]]
