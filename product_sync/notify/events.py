"""What a finished run reports, as plain values, and the status updates that follow from it.

Alerts, heartbeat and metrics start from `FinishedRun`, whether the schedule, the UI or the command line made the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from product_sync.notify.alerts import Level, StatusUpdate
from product_sync.schema.definition import DEFAULT_NAME
from product_sync.verify.checks import CheckResult

Number = int | float

#: Dagster's name for the job of the Materialize button.
_BY_HAND = "__ASSET_JOB"


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """``run_id`` is ``None`` for a command that failed before its run was recorded. ``succeeded`` is ``None`` for a
    cancelled run. ``ended_at`` is in seconds since 1970.

    ``failure`` says what ended the run early, with the next step; it is empty if failed checks say it. ``counts`` lacks
    what is not known. ``loaded`` is false for dry runs and validations.
    """

    run_id: str | None
    job: str
    succeeded: bool | None
    ended_at: float
    duration_s: float | None = None
    failure: str = ""
    checks: Sequence[CheckResult] = ()
    counts: Mapping[str, Number] = field(default_factory=dict)
    loaded: bool = False
    sync: str = DEFAULT_NAME
    scope: str = "everything"

    @property
    def is_partial(self) -> bool:
        """Whether the run looked at some products only. It proves nothing about the copy."""
        return self.scope != "everything"

    @property
    def verified(self) -> bool:
        """Whether this was a sync of everything whose result was verified. Only such a run calls the heartbeat."""
        return self.succeeded is True and self.loaded and not self.is_partial


def status_updates(run: FinishedRun, ui_url: str) -> Iterator[StatusUpdate]:
    """One update for each check, then one for the run.

    If a check failed the run, the check's update is enough: it is one problem. A failed run of assets from the
    Materialize button counts as a failed sync, so the next successful sync is its recovery. A run of named
    products is no recovery: what failed before may not have been among them. Passes over the changes have subjects of
    their own, and a verified sync of everything is their recovery too. ``ui_url`` has no slash at its end, or is empty.
    """
    link = _link(run.run_id, ui_url)
    follows = run.scope == "changes"
    for check in run.checks:
        if run.is_partial and check.passed and not follows:
            continue
        kinds = ["changes"] if follows else ["check", "changes"] if run.verified and check.passed else ["check"]
        for kind in kinds:
            subject, text = f"{kind}/{check.check}", _check_text(check, link)
            yield StatusUpdate(subject, check.check, _level(check), run.ended_at, text, run.sync)
    by_hand = run.job.startswith(_BY_HAND)
    subject = f"job/{run.sync}_sync" if by_hand else f"job/{run.job}"
    name = "a run launched by hand" if by_hand else f"the job {run.job}"
    pass_job = f"{run.sync}_sync_changes"
    if run.verified:
        yield StatusUpdate(f"job/{pass_job}", f"the job {pass_job}", Level.OK, run.ended_at, link, run.sync)
    if follows:
        subject = f"job/{pass_job}"
    elif run.succeeded and run.is_partial:
        return
    if run.succeeded and (run.loaded or not by_hand):
        yield StatusUpdate(subject, name, Level.OK, run.ended_at, link, run.sync)
    elif run.succeeded is False and (run.failure or not any(_level(check) is Level.ERROR for check in run.checks)):
        text = f"{run.failure or 'The run failed. Its log has the cause.'}\n{link}".rstrip()
        yield StatusUpdate(subject, name, Level.ERROR, run.ended_at, text, run.sync)


def _level(check: CheckResult) -> Level:
    return Level.OK if check.passed else Level(check.severity)


def _check_text(check: CheckResult, link: str) -> str:
    """Counts by column, and then long lists of ids, come last, because a long text is cut. Ids that the description has
    are left out."""
    numbers, by_column, ids = [], [], []
    for name, value in check.numbers.items():
        if isinstance(value, Mapping):
            by_column.append(f"{name}: {', '.join(f'{column} {number}' for column, number in value.items())}")
        elif isinstance(value, list):
            listed = ", ".join(map(str, value))
            ids += [] if listed in check.description else [f"First {name.removesuffix('_ids')}: {listed}"]
        else:
            numbers.append(f"{name}: {'none' if value is None else value}")
    return "\n".join(filter(None, [check.description, link, ", ".join(numbers), *by_column, *ids]))


def _link(run_id: str | None, ui_url: str) -> str:
    if run_id is None:
        return ""
    return f"{ui_url}/runs/{run_id}" if ui_url else f"Run {run_id} (set PRODUCT_SYNC_UI_URL to get a link here)"
