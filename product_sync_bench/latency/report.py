"""The report: Markdown made of what was measured, with nothing written in by hand."""

from __future__ import annotations

from product_sync_bench.latency.client import KINDS
from product_sync_bench.latency.results import ADAPTIVE, DEFAULT, UNPACED, PressureRun, Results, goals

_HOW = {
    DEFAULT: "batches of 100, 100 ms between them",
    ADAPTIVE: "`--pacing adaptive`",
    UNPACED: "batches of 10,000, no pause",
}


def render(results: Results) -> str:
    """The whole page."""
    rounds = len(results.of(ADAPTIVE))
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    parts = [
        "# What the target's users feel of a load",
        "",
        "Written by `make bench-latency`; the figures of every single run are in [latency.json](latency.json).",
        "[pacing.md](pacing.md) says what the paces are.",
        "",
        f"A shop, in a process of its own, does {results.rate:.0f} operations a second on the target, point reads of"
        f" products and cart inserts (each committed) by turns, while product_sync loads {results.rows:,} missing"
        f" products beside {results.rows:,} that are there. Latencies are measured from the moment at which an"
        " operation was due if the one before held it up. Both servers, the shop and product_sync share the"
        " machine, so the shop feels also what product_sync and MongoDB take from the processors: in production,"
        " these are other machines.",
        "",
        f"{results.measured_at}, {rounds} {'round' if rounds == 1 else 'rounds'}, medians. {results.machine}."
        f" Load before the start: {results.load_before:.1f}. {versions}.",
        "",
        "## Goals",
        "",
        "| what | goal | measured | |",
        "|---|---|---|---|",
        *(
            f"| {goal.what} | {goal.limit} | {goal.measured} | {'reached' if goal.reached else '**not reached**'} |"
            for goal in goals(results)
        ),
        "",
        "## Latencies",
        "",
        "In milliseconds. The last columns are p99 over that of the idle target just before the same load.",
        "",
        f"| | load, s | rows/s | {' | '.join(f'{kind} p50 | p99 | longest' for kind in KINDS)}"
        f" | {' | '.join(f'{kind}, times idle' for kind in KINDS)} |",
        f"|---|---|---|{'---|' * 4 * len(KINDS)}",
        f"| idle | | | {_figures(results, None)} | {' | '.join('' for _ in KINDS)} |",
        *(
            f"| {pace}: {how} | {results.seconds(pace):.1f} | {results.rows / results.seconds(pace):,.0f}"
            f" | {_figures(results, pace)}"
            f" | {' | '.join(f'{results.times_idle(pace, kind):.2f}' for kind in KINDS)} |"
            for pace, how in _HOW.items()
        ),
        "",
    ]
    for run in results.pressure:
        parts += _pressure(run)
    return "\n".join(parts)


def _figures(results: Results, pace: str | None) -> str:
    return " | ".join(
        f"{results.idle_ms(kind, figure) if pace is None else results.loaded_ms(pace, kind, figure):.2f}"
        for kind in KINDS
        for figure in ("p50_ms", "p99_ms", "max_ms")
    )


def _pressure(run: PressureRun) -> list[str]:
    return [
        "## Under pressure from elsewhere",
        "",
        "The same load with adaptive pacing. On its way, others begin to run costly reports on the target, and two of"
        " them want to change the same row.",
        "",
        "| | seconds | rows/s |",
        "|---|---|---|",
        *(f"| {phase.name} | {phase.seconds:.1f} | {phase.rows_per_second:,.0f} |" for phase in run.phases),
        "",
        "What the load said, in seconds after the pressure began:",
        "",
        "```text",
        *(f"{at:6.1f}  {text}" for at, text in run.said),
        "```",
        "",
    ]
