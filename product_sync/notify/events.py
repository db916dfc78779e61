"""What a run came to, as plain values, and what of it is news.

Whoever tells people of runs (alerts, metrics, the heartbeat) starts from here, whether the run was made by the
schedule, the UI or the command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from product_sync.notify.alerts import Level, StatusUpdate
from product_sync.verify.checks import Severity

Number = int | float

#: How Dagster names the job of the Materialize button, and which of our jobs does the same.
_BY_HAND, _SYNC = "__ASSET_JOB", "product_sync"


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """One evaluation: `verdicts.Verdict` as it was recorded."""

    check: str
    passed: bool
    severity: Severity
    description: str
    numbers: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """``run_id`` is ``None`` for a command that failed before its run was recorded. ``succeeded`` is ``None`` for a run
    that a person cancelled. ``ended_at`` are seconds since 1970.

    ``failure`` says what ended the run early, with the next step; it is empty where the checks say it all. ``counts``
    hold what was counted: what is not in there is not known. ``loaded`` is false for dry runs and validations.
    """

    run_id: str | None
    job: str
    succeeded: bool | None
    ended_at: float
    duration_s: float | None = None
    failure: str = ""
    checks: Sequence[CheckOutcome] = ()
    counts: Mapping[str, Number] = field(default_factory=dict)
    loaded: bool = False

    @property
    def verified(self) -> bool:
        """Whether this was a sync whose result was proven: what the heartbeat is for."""
        return self.succeeded is True and self.loaded


def status_updates(run: FinishedRun, ui_url: str) -> Iterator[StatusUpdate]:
    """Every evaluation of the run, then the run itself.

    A run that failed because of a check is told by the check alone: it is one problem. A run of assets that a person
    chose is no job that comes again: where it failed, the next sync that succeeds is its recovery. ``ui_url`` has no
    slash at its end, or is empty.
    """
    where = _where(run.run_id, ui_url)
    for check in run.checks:
        yield StatusUpdate(f"check/{check.check}", check.check, _level(check), run.ended_at, _check_text(check, where))
    by_hand = run.job.startswith(_BY_HAND)
    subject = f"job/{_SYNC if by_hand else run.job}"
    name = "a run launched by hand" if by_hand else f"the job {run.job}"
    if run.succeeded and (run.loaded or not by_hand):
        yield StatusUpdate(subject, name, Level.OK, run.ended_at, where)
    elif run.succeeded is False and (run.failure or not any(_level(check) is Level.ERROR for check in run.checks)):
        failure = run.failure or "The run failed; its log says why."
        yield StatusUpdate(subject, name, Level.ERROR, run.ended_at, f"{failure}\n{where}".rstrip())


def _level(check: CheckOutcome) -> Level:
    return Level.OK if check.passed else Level(check.severity)


def _check_text(check: CheckOutcome, where: str) -> str:
    numbers = [
        f"{name}: {'none' if value is None else value}"
        for name, value in check.numbers.items()
        if not isinstance(value, list)
    ]
    ids = [
        f"First {name.removesuffix('_ids')}: {', '.join(map(str, value))}"
        for name, value in check.numbers.items()
        if isinstance(value, list) and value
    ]
    return "\n".join(filter(None, [check.description, ", ".join(numbers), *ids, where]))


def _where(run_id: str | None, ui_url: str) -> str:
    if run_id is None:
        return ""
    return f"{ui_url}/runs/{run_id}" if ui_url else f"Run {run_id} (PRODUCT_SYNC_UI_URL makes a link of it)"
