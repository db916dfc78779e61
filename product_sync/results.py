"""What a sync, a validation and a look at the statistics answer: the same fields for scripts and for ``--json``.

The keys are a contract with other programs: they are all present in every answer, and ``None`` says that a value
is not known. An error never hides what was done before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Self

from product_sync.errors import ProductSyncError


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    code: str
    message: str
    hint: str


@dataclass(kw_only=True)
class Report:
    """``failure`` is what ended it early; ``exit_status`` what the command line ends with.

    2 and 3 say that nothing was written (`written_rows`)."""

    failure: ProductSyncError | None = field(default=None, repr=False)

    #: Fields for people and scripts that the JSON answer leaves out.
    _NOT_IN_JSON = frozenset({"failure", "first_differences", "first_quarantined", "prediction"})

    @property
    def error(self) -> ErrorInfo | None:
        return ErrorInfo(self.failure.code, self.failure.message, self.failure.hint) if self.failure else None

    @property
    def exit_status(self) -> int:
        return self.failure.exit_status if self.failure else 0

    def raise_for_error(self) -> Self:
        """Raise what ended it, if anything did; else return the report."""
        if self.failure:
            raise self.failure
        return self

    def as_json(self) -> dict[str, Any]:
        """All keys in their order, ``None`` where nothing is known, and ``error`` last if something ended it."""
        content = {
            item.name: _plain(getattr(self, item.name)) for item in fields(self) if item.name not in self._NOT_IN_JSON
        }
        if self.error:
            content["error"] = asdict(self.error)
        return content


@dataclass(frozen=True, slots=True)
class PredictedCheck:
    """What a check would say of a sync that starts now. ``severity`` is ERROR or WARN; only ERROR turns a sync red."""

    check: str
    passed: bool
    severity: str
    description: str

    @property
    def would_fail(self) -> bool:
        return not self.passed and self.severity == "ERROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExclusionReport:
    """A row that could not be written, because another row is in its way. ``other`` is that row's id and ``constraint``
    what refuses it, ``None`` where they are not known; ``message`` is a sentence."""

    id: str
    other: str | None
    constraint: str | None
    message: str


@dataclass(kw_only=True)
class SyncReport(Report):
    """One run of the sync. Counts are rows; ``duration_s`` and ``estimated_s`` are seconds.

    ``plan_id`` is the plan that a dry run has made or that the run executes; ``skipped_since_plan`` its rows that had
    changed since.

    Of a dry run: ``would_pass`` says whether a sync that starts now would pass the checks that can be predicted, and
    ``predicted_checks`` what each of them would say; ``lacking`` are the privileges that the load would need and the
    role has not; ``no_estimate_because`` says why there is no ``estimated_s``. In a sync they are ``None``.

    ``excluded`` rows could not be written because of another row; ``exclusions`` are the first of them.
    ``quarantined_by_reason`` counts documents by the code of the reason, and one with two reasons twice;
    ``drift_report`` is the path of the drift report, or its web address where PRODUCT_SYNC_REPORTS_URL is set.

    ``missing``, ``changed`` and ``extra`` are what the diff found, without the quarantined products; ``in_flight``
    are differences that were on their way when the result was verified. ``valid`` says that nothing was missing or
    changed afterwards, apart from the quarantined; ``None`` in a dry run. ``first_differences`` and
    ``first_quarantined`` are the first rows of each kind, as the UI shows them.
    """

    run_id: str | None = None
    plan_id: str | None = None
    dry_run: bool = False
    source_count: int | None = None
    target_count: int | None = None
    missing: int | None = None
    changed: int | None = None
    extra: int | None = None
    inserted: int | None = None
    updated: int | None = None
    deleted: int | None = None
    conflicts: int | None = None
    skipped_since_plan: int | None = None
    taken_back: int | None = None
    kept_referenced: int | None = None
    excluded: int | None = None
    quarantined: int | None = None
    quarantined_by_reason: dict[str, int] | None = None
    in_flight: int | None = None
    batches: int | None = None
    failed_batches: int | None = None
    not_attempted_batches: int | None = None
    duration_s: float | None = None
    estimated_s: float | None = None
    no_estimate_because: str | None = None
    lacking: list[str] | None = None
    would_pass: bool | None = None
    predicted_checks: list[PredictedCheck] | None = None
    exclusions: list[ExclusionReport] | None = None
    drift_report: str | None = None
    valid: bool | None = None
    first_differences: list[dict[str, str]] = field(default_factory=list, repr=False)
    first_quarantined: list[dict[str, str]] = field(default_factory=list, repr=False)
    #: Of a dry run: whether a sync would pass or fail and why, in one sentence.
    prediction: str | None = field(default=None, repr=False)


@dataclass(kw_only=True)
class ValidationReport(Report):
    """Both sides read afresh and compared. The lists hold the first ten ids of each kind."""

    valid: bool | None = None
    source_count: int | None = None
    target_count: int | None = None
    missing_in_target: int | None = None
    changed: int | None = None
    extra_in_target: int | None = None
    quarantined: int | None = None
    quarantined_by_reason: dict[str, int] | None = None
    missing_ids: list[str] | None = None
    changed_ids: list[str] | None = None
    extra_ids: list[str] | None = None


@dataclass(kw_only=True)
class StatsReport(Report):
    """How many products each side has now, and the last sync that succeeded: its end in ISO 8601, UTC."""

    source_count: int | None = None
    target_count: int | None = None
    last_sync_at: str | None = None
    last_sync_run_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionReport:
    """One side as seen from here. ``latency_ms`` is one round trip in milliseconds; ``None`` is not known.

    ``host`` names all hosts with their ports; ``collection`` is the source's, ``schema`` and ``table_name`` are the
    target's. ``replica_set`` is the name of MongoDB's; ``None`` for a standalone server. ``table`` maps the columns of
    the reflected target to their types.
    """

    host: str | None = None
    database: str | None = None
    collection: str | None = None
    schema: str | None = None
    table_name: str | None = None
    reachable: bool | None = None
    error: ErrorInfo | None = None
    version: str | None = None
    latency_ms: float | None = None
    privileges: list[str] | None = None
    lacking: list[str] | None = None
    replica_set: str | None = None
    table: dict[str, str] | None = None
    notes: list[str] | None = None


@dataclass(kw_only=True)
class DoctorReport(Report):
    """The settings, both connections, each for itself, and who gets the alerts. ``failure`` is the first thing that
    would keep a sync from working, or people from hearing of it.

    ``settings_problems`` are the settings that a sync would refuse. ``alerts`` holds the service of each usable alert
    URL, and ``alert_problems`` what keeps the others from it.
    """

    mongodb: ConnectionReport = field(default_factory=ConnectionReport)
    postgres: ConnectionReport = field(default_factory=ConnectionReport)
    settings_problems: list[str] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    alert_problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class DefectReport:
    """Why a document cannot be copied: the column, the reason's code, the value as bounded extended JSON."""

    column: str
    reason: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentReport:
    """A document of the source. ``source_key`` is the extended JSON of its ``_id``, ``id_type`` the BSON type where
    that has a text. ``fields`` are the mapped fields as they stand, as bounded extended JSON, ``None`` where one is
    absent; ``row`` is what becomes of it, ``None`` where ``defects`` say why nothing does."""

    source_key: str
    id_type: str | None
    fields: dict[str, str | None]
    row: dict[str, str | None] | None
    defects: list[DefectReport]


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceReport:
    """A column whose values differ, as text; ``None`` is NULL."""

    column: str
    target: str | None
    source: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineReport:
    """An entry of the quarantine, as the last run that met the document left it. Times are ISO 8601, UTC. ``id`` is the
    id as the target would have it, ``None`` where the ``_id`` itself cannot be copied."""

    source_key: str
    id: str | None
    id_type: str | None
    stage: str
    defects: list[DefectReport]
    first_seen: str
    last_seen: str
    attempts: int
    run_id: str


@dataclass(kw_only=True)
class QuarantineListing(Report):
    """The quarantine of the two sides as the last sync left it. ``total`` counts its entries, ``matching`` those with
    one of the reasons that were asked for; ``by_reason`` counts all entries by the code of the reason, ``advice`` says
    what to do about those that were asked for; ``run_id`` is the sync that wrote it, ``None`` where none has.

    ``entries`` are read from the state folder each time that they are iterated over, so there may be any number.
    """

    total: int | None = None
    matching: int | None = None
    by_reason: dict[str, int] | None = None
    advice: dict[str, str] | None = None
    run_id: str | None = None
    entries: Iterable[QuarantineReport] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierReport:
    """What an earlier snapshot had: ``side`` is source or target, ``row`` its values or ``None``, ``reasons`` why the
    document could not be copied."""

    side: str
    at: str
    run_id: str
    present: bool
    row: dict[str, str | None] | None
    reasons: list[str]


@dataclass(kw_only=True)
class ProductReport(Report):
    """One product on both sides, as they are now. ``state`` is equal, missing, changed, extra, quarantined or nowhere;
    the exit status is 0 for equal and 1 for the others.

    ``target_row`` is ``None`` where the target has none, or nobody knows yet: ``state`` tells. ``quarantine`` and
    ``earlier`` are what the last runs left in the state folder, the newest snapshot first. ``exclusions`` say which
    other rows keep a missing or changed product out of the target now.
    """

    id: str = ""
    state: str | None = None
    documents: list[DocumentReport] | None = None
    target_row: dict[str, str | None] | None = None
    differences: list[DifferenceReport] | None = None
    quarantine: list[QuarantineReport] | None = None
    earlier: list[EarlierReport] | None = None
    exclusions: list[ExclusionReport] | None = None

    @property
    def exit_status(self) -> int:
        if self.failure:
            return self.failure.exit_status
        return 0 if self.state == "equal" else 1


def _plain(value: object) -> object:
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        return [_plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
