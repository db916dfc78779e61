"""Every setting: its name, its variable, its default, its bounds, and what it does.

The environment is read here and nowhere else, when a setting is used and not at import, so that definitions load on a
machine with no variable set. An error names the setting, its value and the expected form. It never repeats a value
that may hold a password or a token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator

from product_sync.errors import ConfigurationError
from product_sync.load.pacing import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_MAX_DUTY,
    DEFAULT_PAUSE_MS,
    DEFAULT_TARGET_S,
    MAX_BATCH_SIZE,
)
from product_sync.runtime.typed_settings import Environment, Settings, WebAddress, WebFolder, absolute_path, setting

BATCH_SIZE, BATCH_DELAY_MS = "SYNC_BATCH_SIZE", "SYNC_BATCH_DELAY_MS"
PACING = "SYNC_PACING"
SHARDS = "SYNC_SHARDS"
QUARANTINE_BUDGET = "SYNC_QUARANTINE_BUDGET"
CRON, TIME_ZONE, ENABLE_SCHEDULER = "SYNC_CRON_SCHEDULE", "TIMEZONE", "ENABLE_SCHEDULER"
CHANGES_SECONDS, CHANGES_LAG = "SYNC_CHANGES_SECONDS", "SYNC_CHANGES_LAG_MINUTES"
FULL_PROOF_HOURS = "SYNC_FULL_PROOF_HOURS"
EXECUTOR, EXECUTOR_CONFIG = "SYNC_EXECUTOR", "SYNC_EXECUTOR_CONFIG"
STATE, SCRATCH = "PRODUCT_SYNC_STATE", "PRODUCT_SYNC_SCRATCH"
DAGSTER_HOME = "DAGSTER_HOME"
FRESH_MINUTES, OWNERS, DOCS_URL = "PRODUCT_SYNC_FRESH_MINUTES", "PRODUCT_SYNC_OWNERS", "PRODUCT_SYNC_DOCS_URL"
ALERT_URLS, UI_URL = "PRODUCT_SYNC_ALERT_URLS", "PRODUCT_SYNC_UI_URL"
ALERT_QUIET, ALERT_WARN_QUIET = "PRODUCT_SYNC_ALERT_QUIET_MINUTES", "PRODUCT_SYNC_ALERT_WARN_QUIET_MINUTES"
HEARTBEAT_URL = "PRODUCT_SYNC_HEARTBEAT_URL"
METRICS_FILE, METRICS_PUSH_URL = "PRODUCT_SYNC_METRICS_FILE", "PRODUCT_SYNC_METRICS_PUSH_URL"
#: A run sends notifications if one of these is set.
CHANNELS = (ALERT_URLS, HEARTBEAT_URL, METRICS_FILE, METRICS_PUSH_URL)
REPORTS_URL = "PRODUCT_SYNC_REPORTS_URL"

#: Seconds after which a diff, or the plan of a dry run, is too old to be written: too much may have happened since.
OLDEST_PLAN_S = 3_600.0
#: White space, or a comma before the next scheme: a URL may contain commas (``mailto://…?to=a@b,c@d``).
_BETWEEN_URLS = re.compile(r"\s+|,\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_OWNER = re.compile(r"team:\w+|[^@\s]+@[^@\s]+\.[^@\s]+")


def _run_id(text: str | None) -> str | None:
    if text is not None and str(UUID(text)) != text:
        raise ValueError(text)
    return text


class RunOptions(Settings):
    """How one run behaves. Dagster's run config, the command, the functions and the guide show these options."""

    ids: list[str] | None = setting(
        None, "Compare and repair only the products with these ids; the flag can be repeated", "id", flag="--id",
        form="a list of ids as the target has them", min_length=1,
    )  # fmt: skip
    changes: bool = setting(
        False, "Compare and repair only the products that the source has changed since the last sync or pass"
    )
    dry_run: bool = setting(False, "Do everything but write")
    probe: bool = setting(
        True, "Let a dry run write a first batch and roll it back, to estimate the time of a sync", flag="--no-probe"
    )
    plan: Annotated[str | None, AfterValidator(_run_id)] = setting(
        None, "Execute the plan that a dry run saved under this id, and nothing else", "id",
        form="the plan_id that a dry run printed",
    )  # fmt: skip
    max_plan_age_s: float = setting(
        OLDEST_PLAN_S, "Refuse a plan that is older than this many seconds", "seconds", ge=0, le=86_400
    )
    max_drift_growth: float = setting(
        0.2, "Refuse a plan if the drift has grown by more than this share since then", "share of the plan", ge=0
    )
    extra: Literal["report", "delete"] = setting("report", "Report or delete the rows that only the target has")
    shards: int = setting(
        1, "Read and compare both sides in at most this many ranges of ids", "ranges of ids", variable=SHARDS, ge=1,
        le=1_000,
    )  # fmt: skip
    batch_size: int = setting(
        DEFAULT_BATCH_SIZE, "Most rows per transaction", "rows", variable=BATCH_SIZE, ge=1, le=MAX_BATCH_SIZE
    )
    batch_delay_ms: int = setting(
        DEFAULT_PAUSE_MS, "Milliseconds between two batches", "milliseconds",
        variable=BATCH_DELAY_MS, flag="--delay-ms", ge=0, le=3_600_000,
    )  # fmt: skip
    pacing: Literal["fixed", "adaptive"] = setting(
        "fixed",
        "`fixed`: batch_size and batch_delay_ms; `adaptive`: batches by time, slower while the target is busy",
        variable=PACING,
    )
    target_batch_s: float = setting(
        DEFAULT_TARGET_S, "Adaptive pacing: seconds that the target works on one batch", "seconds", gt=0, le=60
    )
    max_duty: float = setting(
        DEFAULT_MAX_DUTY, "Adaptive pacing: largest share of the time that the target works for the load", "share",
        gt=0, le=1,
    )  # fmt: skip
    retry_s: float = setting(60.0, "Seconds for which a failing batch is retried", "seconds", ge=0, le=86_400)
    lock_wait_s: float = setting(
        10.0, "Seconds to wait for another sync of the same table to end", "seconds", ge=0, le=3_600
    )
    source_recheck_after_s: float = setting(
        60.0, "Seconds after which a product is read again before it is inserted", "seconds", ge=0, le=86_400
    )
    settle_seconds: float = setting(
        5.0, "Seconds between the two reads of a difference, before it counts", "seconds", ge=0, le=3_600
    )
    accept_source_count: int | None = setting(
        None, "Accept a source of at least this many documents, even if it is empty or shrank by more than 20 %",
        "documents", ge=0,
    )  # fmt: skip
    accept_changes: bool = setting(False, "Let the sync overwrite more than half of the target")
    max_isolated_rows: int = setting(
        1_000, "Refused rows that stop the run, or 1 % of the planned rows if that is more", "rows", ge=0
    )
    quarantine_budget: float = setting(
        0.01, "Share of the source above which quarantined documents fail the run", "share",
        variable=QUARANTINE_BUDGET, ge=0, le=1,
    )  # fmt: skip
    max_delete_share: float = setting(
        0.05, "Share of the target above which no extra row is deleted", "share", ge=0, le=1
    )

    @classmethod
    def resolve(cls, env: Environment, given: Mapping[str, Any]) -> Self:
        """``given`` wins over the environment, which wins over the default. A value of ``None`` counts as not given."""
        if unknown := given.keys() - cls.model_fields.keys():
            raise TypeError(f"A run has no option {', '.join(sorted(unknown))}.")
        values = cls.from_environment(env).model_dump(exclude_unset=True)
        values.update((name, value) for name, value in given.items() if value is not None)
        for name, found in cls.errors(values, strict=True).items():
            raise cls.each()[name].mistake(name, found)
        options = cls(**values)
        return options._consistent()

    @property
    def is_partial(self) -> bool:
        return self.changes or self.ids is not None

    @property
    def scope_kind(self) -> Literal["everything", "ids", "changes"]:
        return "changes" if self.changes else "everything" if self.ids is None else "ids"

    @property
    def scope(self) -> dict[str, Any]:
        """The options that name the scope, as a plan keeps them."""
        return {"kind": self.scope_kind, "ids": sorted(self.ids or ())}

    def _consistent(self) -> Self:
        if self.plan and self.dry_run:
            raise ConfigurationError(
                f"plan is {self.plan!r}.", hint="Expected: either a plan to execute or a dry run, not both."
            )
        if self.changes and self.ids:
            raise ConfigurationError(
                f"ids is {self.ids!r}, and changes is true.", hint="Expected: either products or the changes, not both."
            )
        return self


def _time_zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, OSError):
        raise ValueError(text) from None
    return text


def _owners(text: str) -> tuple[str, ...]:
    owners = tuple(owner.strip() for owner in text.split(",") if owner.strip())
    if not all(map(_OWNER.fullmatch, owners)):
        raise ValueError(text)
    return owners


class ScheduleSettings(Settings):
    """When the sync runs by itself, and how it follows the source's changes in between. The cron expression is checked
    by `orchestration.schedules`."""

    cron: str = setting("*/10 * * * *", variable=CRON)
    time_zone: Annotated[str, AfterValidator(_time_zone)] = setting(
        "UTC", variable=TIME_ZONE, form="a name of the IANA time zone database, such as `Europe/Paris`"
    )
    enabled: bool = setting(False, variable=ENABLE_SCHEDULER)
    changes_seconds: int = setting(
        30, unit="seconds between two looks at the source's changes, 0 for none", variable=CHANGES_SECONDS, ge=0,
        le=86_400,
    )  # fmt: skip
    changes_lag_minutes: int = setting(15, unit="minutes", variable=CHANGES_LAG, ge=1, le=525_600)
    full_proof_hours: int = setting(24, unit="hours", variable=FULL_PROOF_HOURS, ge=1, le=8_760)


class ExecutorSettings(Settings):
    """Which of Dagster's executors runs the steps of a run. ``executor_config`` is a YAML file."""

    executor: str = setting(
        "in_process", variable=EXECUTOR, pattern=r"^(in_process|multiprocess|celery|k8s|celery_k8s|[\w.]+:\w+)$",
        form="`in_process`, `multiprocess`, `celery`, `k8s`, `celery_k8s`, or `module:name` of another executor",
    )  # fmt: skip
    executor_config: Annotated[Path, BeforeValidator(absolute_path)] | None = setting(None, variable=EXECUTOR_CONFIG)


class PageSettings(Settings):
    """What the UI says about the assets beside what they have recorded. ``docs_url`` is where ``docs/`` can be read."""

    fresh_minutes: int = setting(
        60, unit="minutes without a successful sync, 0 for no limit", variable=FRESH_MINUTES, ge=0, le=525_600
    )
    owners: Annotated[tuple[str, ...], BeforeValidator(_owners)] = setting(
        ("team:product_sync",), variable=OWNERS, form="mail addresses or `team:name`, separated by commas"
    )
    docs_url: WebFolder = setting("", variable=DOCS_URL)

    @property
    def fresh_for(self) -> timedelta | None:
        """How old the last successful sync may be before its asset is red; ``None`` for no limit."""
        return timedelta(minutes=self.fresh_minutes) if self.fresh_minutes else None


class ReportSettings(Settings):
    """Where Dagster's UI and the folder of drift reports are served, or empty."""

    ui_url: WebFolder = setting("", variable=UI_URL)
    reports_url: WebFolder = setting("", variable=REPORTS_URL)


class NotificationSettings(ReportSettings):
    """Where the result of a run is sent, with the links in it. The alert URLs are Apprise's and are checked there
    (`notify.channels`)."""

    alert_urls: Annotated[tuple[str, ...], BeforeValidator(_BETWEEN_URLS.split)] = setting((), variable=ALERT_URLS)
    quiet_minutes: float = setting(60.0, unit="minutes", variable=ALERT_QUIET, ge=0)
    warn_quiet_minutes: float = setting(1_440.0, unit="minutes", variable=ALERT_WARN_QUIET, ge=0)
    heartbeat_url: WebAddress = setting("", variable=HEARTBEAT_URL)
    metrics_file: Annotated[Path, BeforeValidator(absolute_path)] | None = setting(None, variable=METRICS_FILE)
    metrics_push_url: WebAddress = setting("", variable=METRICS_PUSH_URL)

    def __repr__(self) -> str:
        """Nothing: the URLs hold tokens."""
        return "NotificationSettings(…)"

    __str__ = __repr__


def state_root(env: Environment) -> Path:
    """`PRODUCT_SYNC_STATE`, else a folder beside the Dagster instance, else one in the user's state folder. For a URL
    it is the scratch folder of this process (`state.mirror`). Raises `ConfigurationError` for a URL or a folder that
    cannot be used, and for a user without a home directory."""
    if url := _state_url(env):
        from product_sync.state.mirror import open_mirror
        from product_sync.state.object_store import checked_url

        return open_mirror(checked_url(url, STATE), _path(env, SCRATCH))
    hint = f"Set {STATE} to a folder that this user can write to and that stays."
    return _path(env, STATE) or _default_state_root(env, STATE, hint)


def history_root(env: Environment) -> Path:
    """Where a command without DAGSTER_HOME records its runs: in the state folder; on this machine if the state is in an
    object store, because a database cannot be."""
    if not _state_url(env):
        return state_root(env)
    return _default_state_root(
        env, "XDG_STATE_HOME", "Set XDG_STATE_HOME to a folder for the run history, or DAGSTER_HOME."
    )


def _state_url(env: Environment) -> str:
    text = env.get(STATE, "").strip()
    return text if "://" in text else ""


def _default_state_root(env: Environment, variable: str, hint: str) -> Path:
    if home := dagster_home(env):
        return home / "product_sync_state"
    if base := _path(env, "XDG_STATE_HOME"):
        return base / "product_sync"
    try:
        return Path.home().absolute() / ".local" / "state" / "product_sync"
    except RuntimeError:
        raise ConfigurationError(
            f"{variable} is not set, and this user has no home directory for the state folder.", hint=hint
        ) from None


def dagster_home(env: Environment) -> Path | None:
    """The folder of Dagster's instance; ``None`` where commands record their runs in the state folder. Raises
    `ConfigurationError` for one that does not exist, because a mistyped one would be created with a new history."""
    home = _path(env, DAGSTER_HOME)
    if home is not None and not home.is_dir():
        raise ConfigurationError(
            f"{DAGSTER_HOME} is {str(home)!r}, which is not a directory.", hint="Create it or unset it."
        )
    return home


def _path(env: Environment, name: str) -> Path | None:
    text = env.get(name, "").strip()
    try:
        return absolute_path(text) if text else None
    except ValueError as error:
        raise ConfigurationError(f"{name} is {text!r}.", hint=f"Expected: {error}.") from None
