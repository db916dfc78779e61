"""Every setting: its name in the environment, its default, its bounds.

The environment is read here and nowhere else, when a setting is used and not at import, so that definitions load
on a machine with no variable set. Each value is checked on the way in; the error names the variable, what it
holds and what it should look like. Values that may hold a password are never repeated in an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from product_sync.errors import ConfigurationError
from product_sync.load.adaptive_pacing import DEFAULT_MAX_DUTY, DEFAULT_TARGET_S, AdaptiveSettings
from product_sync.load.pacing import DEFAULT_BATCH_SIZE, DEFAULT_PAUSE_MS, MAX_BATCH_SIZE, MIN_BATCH_SIZE
from product_sync.schema.mapping import DEFAULT_MAPPING

SOURCE_URL, SOURCE_USER, SOURCE_PASSWORD = "PRODUCT_SERVICE_MONGODB_URL", "MONGO_USER", "MONGO_PASSWORD"
TARGET_URL = "CART_DB_URL"
BATCH_SIZE, BATCH_DELAY_MS = "SYNC_BATCH_SIZE", "SYNC_BATCH_DELAY_MS"
PACING = "SYNC_PACING"
QUARANTINE_BUDGET = "SYNC_QUARANTINE_BUDGET"
CRON, TIME_ZONE, ENABLE_SCHEDULER = "SYNC_CRON_SCHEDULE", "TIMEZONE", "ENABLE_SCHEDULER"
STATE, MAPPING = "PRODUCT_SYNC_STATE", "PRODUCT_SYNC_MAPPING"
DAGSTER_HOME = "DAGSTER_HOME"
FRESH_MINUTES, OWNERS, DOCS_URL = "PRODUCT_SYNC_FRESH_MINUTES", "PRODUCT_SYNC_OWNERS", "PRODUCT_SYNC_DOCS_URL"
ALERT_URLS, UI_URL = "PRODUCT_SYNC_ALERT_URLS", "PRODUCT_SYNC_UI_URL"
ALERT_QUIET, ALERT_WARN_QUIET = "PRODUCT_SYNC_ALERT_QUIET_MINUTES", "PRODUCT_SYNC_ALERT_WARN_QUIET_MINUTES"
HEARTBEAT_URL = "PRODUCT_SYNC_HEARTBEAT_URL"
METRICS_FILE, METRICS_PUSH_URL = "PRODUCT_SYNC_METRICS_FILE", "PRODUCT_SYNC_METRICS_PUSH_URL"
#: Whoever is to be told of runs is named by one of these.
CHANNELS = (ALERT_URLS, HEARTBEAT_URL, METRICS_FILE, METRICS_PUSH_URL)
REPORTS_URL = "PRODUCT_SYNC_REPORTS_URL"

#: Seconds after which a diff, or the plan of a dry run, is too old to be written: too much may have happened since.
OLDEST_PLAN_S = 3_600.0
#: Plans are kept for a day (`adapters.state.KEPT_PLANS`).
_LONGEST_PLAN_AGE_S = 86_400.0

Environment = Mapping[str, str]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class SourceAddress:
    """Where the product service's MongoDB is. Never shown: the URL may hold a password."""

    url: str
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return "SourceAddress(…)"

    @classmethod
    def from_environment(
        cls, env: Environment, url: str = SOURCE_URL, user: str = SOURCE_USER, password: str = SOURCE_PASSWORD
    ) -> SourceAddress:
        return cls(_required(env, url, "mongodb://host:27017/shop"), env.get(user) or None, env.get(password) or None)


@dataclass(frozen=True, slots=True)
class TargetAddress:
    """Where the cart service's PostgreSQL is. Never shown: the URL may hold a password."""

    url: str

    def __repr__(self) -> str:
        return "TargetAddress(…)"

    @classmethod
    def from_environment(cls, env: Environment, url: str = TARGET_URL) -> TargetAddress:
        return cls(_required(env, url, "postgresql://user@host:5432/cart"))


@dataclass(frozen=True, slots=True)
class SyncSettings:
    """How one run behaves. The bounds are those of design section 5 and 6.

    ``batch_size`` rows per transaction; ``batch_delay_ms`` milliseconds between batches; with ``pacing`` ``adaptive``
    instead of ``fixed``, batches are sized to take ``target_batch_s`` seconds of the target, after a first one of
    ``batch_size`` rows, and it works for the load at most the share ``max_duty`` of the time, less under pressure;
    ``extra`` is ``report`` or ``delete``; ``accept_source_count`` accepts a source of at least so many documents, even
    if it has shrunk; ``mapping`` is the mapping file; ``accept_changes`` lets more than half of the target be
    overwritten; ``settle_seconds`` between two readings of a difference; ``source_recheck_after_s`` seconds after which
    rows to insert are read again;
    ``retry_s`` seconds for which one batch is retried; ``lock_wait_s`` seconds to wait for another sync to end;
    ``max_isolated_rows`` refused rows that stop a run;
    ``max_delete_share`` of the target above which no extra row is deleted; ``quarantine_budget`` is the share of the
    source above which quarantined documents turn a run red; ``probe`` runs and rolls back a first batch in a dry run;
    ``plan`` is the id of a dry run's plan, which then is all that is executed, unless it is older than
    ``max_plan_age_s`` seconds or the drift has grown since by more than ``max_drift_growth`` of it.
    """

    mapping: str | None = None
    dry_run: bool = False
    batch_size: int = DEFAULT_BATCH_SIZE
    batch_delay_ms: int = DEFAULT_PAUSE_MS
    pacing: str = "fixed"
    target_batch_s: float = DEFAULT_TARGET_S
    max_duty: float = DEFAULT_MAX_DUTY
    extra: str = "report"
    accept_source_count: int | None = None
    accept_changes: bool = False
    settle_seconds: float = 5.0
    source_recheck_after_s: float = 60.0
    retry_s: float = 60.0
    lock_wait_s: float = 10.0
    max_isolated_rows: int = 1_000
    max_delete_share: float = 0.05
    quarantine_budget: float = 0.01
    probe: bool = True
    plan: str | None = None
    max_plan_age_s: float = OLDEST_PLAN_S
    max_drift_growth: float = 0.2

    def __post_init__(self) -> None:
        for name, (low, high, unit) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None:
                _check_number(name, value, low, high, unit, whole=name in _WHOLE)
        _check(self.mapping is None or isinstance(self.mapping, str), "mapping", self.mapping, "the path of a file")
        for name in ("dry_run", "accept_changes", "probe"):
            _check(isinstance(getattr(self, name), bool), name, getattr(self, name), "`true` or `false`")
        _check(self.pacing in ("fixed", "adaptive"), f"pacing ({PACING})", self.pacing, "`fixed` or `adaptive`")
        AdaptiveSettings(self.target_batch_s, self.max_duty, self.batch_size)
        _check(self.extra in ("report", "delete"), "extra", self.extra, "`report` or `delete`")
        _check(self.plan is None or _is_run_id(self.plan), "plan", self.plan, "the plan_id that a dry run printed")
        _check(not (self.plan and self.dry_run), "plan", self.plan, "either a plan to execute or a dry run, not both")

    @classmethod
    def resolve(cls, env: Environment, overrides: Mapping[str, Any]) -> SyncSettings:
        """What a caller says wins over the environment, which wins over the default; ``None`` says nothing."""
        values: dict[str, Any] = {
            "mapping": env.get(MAPPING) or None,
            "batch_size": _whole(env, BATCH_SIZE, "rows per batch"),
            "batch_delay_ms": _whole(env, BATCH_DELAY_MS, "milliseconds between batches"),
            "pacing": env.get(PACING, "").strip() or None,
            "quarantine_budget": _share(env, QUARANTINE_BUDGET),
        }
        values.update({name: value for name, value in overrides.items() if name in SETTING_NAMES and value is not None})
        return cls(**{name: value for name, value in values.items() if value is not None})


#: The bounds of each numeric setting, both included, and the unit.
_BOUNDS: Mapping[str, tuple[float, float, str]] = {
    "batch_size": (MIN_BATCH_SIZE, MAX_BATCH_SIZE, "rows per batch"),
    "batch_delay_ms": (0, 3_600_000, "milliseconds"),
    "target_batch_s": (0, 60, "seconds"),
    "max_duty": (0, 1, "share of the time"),
    "accept_source_count": (0, 1_000_000_000_000, "documents"),
    "settle_seconds": (0, 3_600, "seconds"),
    "source_recheck_after_s": (0, 86_400, "seconds"),
    "retry_s": (0, 86_400, "seconds"),
    "lock_wait_s": (0, 3_600, "seconds"),
    "max_isolated_rows": (0, 1_000_000_000_000, "rows"),
    "max_delete_share": (0, 1, "share of the target"),
    "quarantine_budget": (0, 1, "share of the source"),
    "max_plan_age_s": (0, _LONGEST_PLAN_AGE_S, "seconds: plans are kept for a day"),
    "max_drift_growth": (0, 1_000_000, "share of the plan"),
}
_WHOLE = frozenset({"batch_size", "batch_delay_ms", "accept_source_count", "max_isolated_rows"})
#: How a person may have said it: the variable, where there is one.
_VARIABLES: Mapping[str, str] = {
    "batch_size": BATCH_SIZE,
    "batch_delay_ms": BATCH_DELAY_MS,
    "quarantine_budget": QUARANTINE_BUDGET,
}

SETTING_NAMES = frozenset(item.name for item in fields(SyncSettings))


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    cron: str
    time_zone: str
    enabled: bool

    @classmethod
    def from_environment(cls, env: Environment) -> ScheduleSettings:
        """The cron expression is judged by who runs it (`orchestration.schedules`)."""
        cron = env.get(CRON, "").strip() or "*/10 * * * *"
        time_zone = env.get(TIME_ZONE, "").strip() or "UTC"
        try:
            ZoneInfo(time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            _check(False, TIME_ZONE, time_zone, "a name of the IANA time zone database, such as `Europe/Paris`")
        return cls(cron, time_zone, _flag(env, ENABLE_SCHEDULER, default=False))


#: A year.
_LONGEST_FRESH_MINUTES = 525_600
_OWNER = re.compile(r"team:\w+|[^@\s]+@[^@\s]+\.[^@\s]+")


@dataclass(frozen=True, slots=True)
class PageSettings:
    """What the UI says of the assets beside what they have recorded.

    ``fresh_for`` is how old the last successful sync may be before its asset is red, ``None`` for ever; ``owners`` are
    mail addresses or ``team:name``; ``docs_url`` is where ``docs/`` can be read, without a slash at its end, or empty.
    """

    fresh_for: timedelta | None = timedelta(minutes=60)
    owners: tuple[str, ...] = ("team:product_sync",)
    docs_url: str = ""

    @classmethod
    def from_environment(cls, env: Environment) -> PageSettings:
        minutes = _whole(env, FRESH_MINUTES, "minutes without a successful sync, 0 for no limit")
        allowed = minutes is None or 0 <= minutes <= _LONGEST_FRESH_MINUTES
        _check(allowed, FRESH_MINUTES, minutes, f"minutes, 0 to {_LONGEST_FRESH_MINUTES}")
        values: dict[str, Any] = {} if minutes is None else {"fresh_for": timedelta(minutes=minutes) or None}
        owners = tuple(owner.strip() for owner in env.get(OWNERS, "").split(",") if owner.strip())
        for owner in owners:
            _check(bool(_OWNER.fullmatch(owner)), OWNERS, owner, "mail addresses or `team:name`, separated by commas")
        docs_url = _web_address(env, DOCS_URL).rstrip("/")
        if owners:
            values["owners"] = owners
        return cls(docs_url=docs_url, **values)


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """Addresses without a slash at the end, or empty: ``ui_url`` is Dagster's UI, ``reports_url`` the folder of drift
    reports, where somebody serves it."""

    ui_url: str = ""
    reports_url: str = ""

    @classmethod
    def from_environment(cls, env: Environment) -> ReportSettings:
        return cls(_web_address(env, UI_URL).rstrip("/"), _web_address(env, REPORTS_URL).rstrip("/"))


@dataclass(frozen=True, slots=True)
class NotificationSettings:
    """Who is told of what a run came to, and where. Never shown: the URLs hold tokens.

    ``alert_urls`` are Apprise's; ``quiet_s`` and ``warn_quiet_s`` seconds of quiet after an alert about the same thing,
    by severity; ``ui_url`` is where people reach Dagster's UI; ``metrics_file`` is read by a textfile collector.
    """

    alert_urls: tuple[str, ...] = ()
    quiet_s: float = 3600.0
    warn_quiet_s: float = 86_400.0
    ui_url: str = ""
    heartbeat_url: str = ""
    metrics_file: Path | None = None
    metrics_push_url: str = ""

    def __repr__(self) -> str:
        return "NotificationSettings(…)"

    @classmethod
    def from_environment(cls, env: Environment) -> NotificationSettings:
        """Raises the first mistake. Alert URLs are checked in `product_sync.notify.channels`."""
        settings, mistakes = cls.each_by_itself(env)
        for mistake in mistakes.values():
            raise mistake
        return settings

    @classmethod
    def each_by_itself(cls, env: Environment) -> tuple[NotificationSettings, dict[str, ConfigurationError]]:
        """Every value that can be used, the default for the others, and what is wrong with these, by variable."""
        mistakes: dict[str, ConfigurationError] = {}

        def read(name: str, ask: Callable[[], _T], default: _T) -> _T:
            try:
                return ask()
            except ConfigurationError as error:
                mistakes[name] = error
                return default

        def quiet_s(name: str, default: float) -> float:
            return 60.0 * read(name, lambda: _minutes(env, name, default=default), default)

        def address(name: str) -> str:
            return read(name, lambda: _web_address(env, name), "")

        settings = cls(
            tuple(url for url in _BETWEEN_URLS.split(env.get(ALERT_URLS, "").strip()) if url),
            quiet_s(ALERT_QUIET, 60.0),
            quiet_s(ALERT_WARN_QUIET, 1440.0),
            address(UI_URL).rstrip("/"),
            address(HEARTBEAT_URL),
            read(METRICS_FILE, lambda: _path(env, METRICS_FILE), None),
            address(METRICS_PUSH_URL),
        )
        return settings, mistakes


#: White space, or a comma before the next scheme: a URL may hold commas of its own (``mailto://…?to=a@b,c@d``).
_BETWEEN_URLS = re.compile(r"\s+|,\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)")


def mapping_path(env: Environment, mapping: str | None = None) -> Path:
    """``mapping``, if given; else that of the environment; else the package's own."""
    return Path(mapping or env.get(MAPPING) or DEFAULT_MAPPING)


def state_root(env: Environment) -> Path:
    """`PRODUCT_SYNC_STATE`; else beside the Dagster instance; else in the user's state folder. Raises
    `ConfigurationError` for a user who has none."""
    if folder := _path(env, STATE):
        return folder
    if home := dagster_home(env):
        return home / "product_sync_state"
    if base := _path(env, "XDG_STATE_HOME"):
        return base / "product_sync"
    try:
        return Path.home().absolute() / ".local" / "state" / "product_sync"
    except RuntimeError:
        raise ConfigurationError(
            f"{STATE} is not set, and this user has no home directory for the state folder.",
            hint=f"Set {STATE} to a folder that this user can write to and that stays.",
        ) from None


def dagster_home(env: Environment) -> Path | None:
    """The folder of Dagster's instance; ``None`` where commands record their runs in the state folder."""
    return _path(env, DAGSTER_HOME)


def duration(text: str, name: str) -> timedelta:
    """``90s``, ``30m``, ``2h`` or ``1d``. Raises `ConfigurationError` for anything else."""
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text.strip())
    if match is None:
        _check(False, name, text, "a number with s, m, h or d, such as `30m`")
        raise AssertionError
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    return timedelta(**{units[match[2]]: int(match[1])})


def _required(env: Environment, name: str, form: str) -> str:
    if value := env.get(name, "").strip():
        return value
    raise ConfigurationError(f"{name} is not set.", hint=f"Expected form: {name}={form}")


def _path(env: Environment, name: str) -> Path | None:
    """An absolute path. ``~`` and ``~user`` are resolved."""
    text = env.get(name, "").strip()
    if not text:
        return None
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        _check(False, name, text, "a path; its home directory cannot be determined")
    except OSError:
        _check(False, name, text, "an absolute path; the current directory is gone")
    raise AssertionError


def _whole(env: Environment, name: str, form: str) -> int | None:
    text = env.get(name, "").strip()
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        _check(False, name, text, f"a whole number: {form}")
        raise AssertionError from None


def _share(env: Environment, name: str) -> float | None:
    text = env.get(name, "").strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        _check(False, name, text, "a number from 0 to 1")
        raise AssertionError from None


def _minutes(env: Environment, name: str, *, default: float) -> float:
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    _check(0 <= minutes < math.inf, name, text, "minutes, 0 or more")
    return minutes


def _web_address(env: Environment, name: str) -> str:
    """Not repeated in the error: such addresses hold tokens."""
    text = env.get(name, "").strip()
    if text and not _is_web_address(text):
        raise ConfigurationError(f"{name} is not a web address.", hint=f"Expected form: {name}=https://host/path")
    return text


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises for what is no port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and re.search(r"[\s\x00-\x1f\x7f]", text) is None


def _flag(env: Environment, name: str, *, default: bool) -> bool:
    text = env.get(name, "").strip().lower()
    if not text:
        return default
    known = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    _check(text in known, name, text, "`true` or `false`")
    return known[text]


def _is_run_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except (ValueError, AttributeError):  # no UUID, or no text
        return False


def _check_number(name: str, value: object, low: float, high: float, unit: str, *, whole: bool) -> None:
    """Refuse what is no number, such as a boolean or NaN, and what lies outside of the bounds."""
    kinds = int if whole else (int, float)
    holds = isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high
    shown = f"{name} ({_VARIABLES[name]})" if name in _VARIABLES else name
    _check(holds, shown, value, f"{'a whole number' if whole else 'a number'} from {low:g} to {high:.0f} ({unit})")


def _check(holds: bool, name: str, value: object, form: str) -> None:
    if not holds:
        raise ConfigurationError(f"{name} is {value!r}.", hint=f"Expected: {form}.")
