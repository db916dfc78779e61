"""Renders a drift report as one HTML page that needs nothing else: no network, no script, no font.

Titles and ids may be any text, so everything is escaped, and the page's policy forbids it to load or run anything.
Jinja2 comes with Dagster and is imported only when a page is rendered.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from product_sync.report.drift_report import EXAMINED, DriftReport, created_at
from product_sync.schema.records import Op
from product_sync.state.drift_history import PastDrift

if TYPE_CHECKING:
    import jinja2

_TEMPLATE = Path(__file__).with_name("drift_page.html")

#: The chart, in pixels.
_BAR, _GAP, _HEIGHT = 8, 3, 56
_SERIES = {
    "missing": "in the source, not in the target",
    "changed": "in both, with other values",
    "extra": "only in the target",
    "quarantined": "cannot be copied",
    "conflicts": "changed by others before they were written",
}
_KINDS = {Op.INSERT: "missing", Op.UPDATE: "changed", Op.EXTRA: "extra"}


@dataclass(frozen=True, slots=True)
class Bar:
    """One run in a chart. ``title`` is shown when the mouse points at the bar."""

    x: int
    y: float
    height: float
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One count over the last runs. Each chart has a scale of its own, or a first load would flatten the others."""

    name: str
    explained: str
    last: int | None
    highest: int
    bars: list[Bar]
    width: int


def render(report: DriftReport, run_url: str = "") -> str:
    """The page. ``run_url`` is the address of the run in the UI, or empty."""
    created = [at for line in report.differences if (at := created_at(line))]
    return _template().render(
        report=report,
        labels=report.labels,
        run_url=run_url,
        drift=report.counts.missing + report.counts.changed + report.counts.extra,
        tiles={name: getattr(report.counts, name) for name in ("missing", "changed", "extra", "quarantined")},
        explained=_SERIES,
        kinds=_KINDS,
        charts=charts(report.history),
        created_at=created_at,
        created=(min(created), max(created)) if created else None,
        examined=EXAMINED,
    )


@cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "time": _time, "words": _words}
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))


def conclude(page: str, conclusion: str) -> str:
    """The page with the conclusion of the checks after the load in place of the first one."""
    return _CONCLUSION.sub(lambda found: f"{found[1]}{html.escape(conclusion)}{found[2]}", page)


#: The place of the conclusion in the template. Values cannot contain this text, because they are escaped.
_CONCLUSION = re.compile(r"(<!-- conclusion -->).*?(<!-- /conclusion -->)", re.DOTALL)


def charts(history: Sequence[PastDrift]) -> list[Chart]:
    """One chart for each count. Each run is a bar, with the newest on the right. Conflicts are shown only if there are
    any."""
    made = [_chart(name, explained, history) for name, explained in _SERIES.items()]
    return [chart for chart in made if chart.highest or chart.name != "conflicts"]


def _chart(name: str, explained: str, history: Sequence[PastDrift]) -> Chart:
    values: list[int | None] = [getattr(run, name) for run in history]
    highest = max((value for value in values if value), default=0)
    bars = []
    for place, (run, value) in enumerate(zip(history, values, strict=True)):
        # A count of one must not vanish beside one of a million.
        height = max(_HEIGHT * value / highest, 2.0) if value else 0.0
        title = f"{run.at}, run {run.run_id[:8]}: {'not known' if value is None else f'{value:,}'}"
        bars.append(Bar(place * (_BAR + _GAP), round(_HEIGHT - height, 1), round(height, 1), title))
    return Chart(name, explained, values[-1] if values else None, highest, bars, len(values) * (_BAR + _GAP))


def _number(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"


def _words(name: str) -> str:
    return name.replace("_", " ")
