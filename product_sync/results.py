"""The reports of all commands, with the same fields for scripts and for ``--json``.

The keys are a contract with other programs: every report has all of them, and ``None`` means unknown. An error never
hides what was done before it. docs/programs.md says what each key means.
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

    @classmethod
    def of(cls, error: ProductSyncError) -> Self:
        return cls(error.code, error.message, error.hint)


@dataclass(kw_only=True)
class Report:
    """``failure`` is the error that ended the command. An ``exit_status`` of 2 or 3 says that nothing was written."""

    sync: str | None = None
    failure: ProductSyncError | None = field(default=None, repr=False)

    #: Fields that the JSON answer leaves out.
    _NOT_IN_JSON = frozenset(
        {"failure", "first_differences", "first_quarantined", "looked_at", "prediction", "extra_left", "warnings"}
    )

    @property
    def error(self) -> ErrorInfo | None:
        return ErrorInfo.of(self.failure) if self.failure else None

    @property
    def exit_status(self) -> int:
        return self.failure.exit_status if self.failure else 0

    def raise_for_error(self) -> Self:
        """Raise ``failure`` if there is one, and return the report otherwise."""
        if self.failure:
            raise self.failure
        return self

    def as_json(self) -> dict[str, Any]:
        """All keys in their order, and ``error`` last if there is a failure."""
        content = {
            item.name: _plain(getattr(self, item.name)) for item in fields(self) if item.name not in self._NOT_IN_JSON
        }
        if self.error:
            content["error"] = asdict(self.error)
        return content


@dataclass(frozen=True, slots=True)
class PredictedCheck:
    """The predicted result of a check, if a sync started now. ``severity`` is ERROR, which fails the sync, or WARN."""

    check: str
    passed: bool
    severity: str
    description: str

    @property
    def would_fail(self) -> bool:
        return not self.passed and self.severity == "ERROR"


@dataclass(frozen=True, slots=True)
class ExclusionReport:
    """A row that another row keeps out of the target. ``other`` is the id of that row, ``constraint`` the constraint
    that refused the row; both may be unknown. ``message`` begins with the row's id and names both."""

    id: str
    other: str | None
    constraint: str | None
    message: str


@dataclass(frozen=True, slots=True)
class SampleValue:
    """A column of a sample product. ``source`` is the path or the expression; ``bson_type`` and ``value`` are what the
    document has there, ``None`` if it has nothing. The value of the mapping itself has no type. ``target`` is the value
    of the row as text: ``None`` for NULL, or if ``reason`` says why it cannot be copied."""

    column: str
    source: str
    bson_type: str | None
    value: str | None
    target: str | None
    reason: str | None

    @property
    def given(self) -> str:
        """The value in the source, for people."""
        if self.value is None:
            return "absent"
        return self.value if self.bson_type in (None, self.value) else f"{self.value} ({self.bson_type})"


@dataclass(kw_only=True)
class SyncReport(Report):
    """One run of a sync. Counts are rows; ``duration_s`` and ``estimated_s`` are in seconds. In a partial run, all
    counts and ``valid`` are about the products that it looked at."""

    run_id: str | None = None
    plan_id: str | None = None
    scope: str = "everything"
    dry_run: bool = False
    compared: int | None = None
    events: int | None = None
    lag_s: float | None = None
    position_at: str | None = None
    unsettled: int | None = None
    full_proof_at: str | None = None
    source_count: int | None = None
    filtered_out: int | None = None
    filtered_out_about: int | None = None
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
    found_by_column: dict[str, int] | None = None
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
    sample_product: list[SampleValue] | None = None
    exclusions: list[ExclusionReport] | None = None
    drift_report: str | None = None
    valid: bool | None = None
    #: What a partial run looked at, in words.
    looked_at: str | None = field(default=None, repr=False)
    #: The rows that only the target had at the end.
    extra_left: int | None = field(default=None, repr=False)
    #: What the checks of the run warn of, apart from the quarantine.
    warnings: list[str] = field(default_factory=list, repr=False)
    first_differences: list[dict[str, str]] = field(default_factory=list, repr=False)
    first_quarantined: list[dict[str, str]] = field(default_factory=list, repr=False)
    #: For a dry run: one sentence that says whether a sync would pass, and why not.
    prediction: str | None = field(default=None, repr=False)


@dataclass(kw_only=True)
class ValidationReport(Report):
    """A new comparison of both sides. The lists hold the first ten ids of each kind."""

    valid: bool | None = None
    source_count: int | None = None
    target_count: int | None = None
    missing_in_target: int | None = None
    changed: int | None = None
    extra_in_target: int | None = None
    quarantined: int | None = None
    quarantined_by_reason: dict[str, int] | None = None
    found_by_column: dict[str, int] | None = None
    missing_ids: list[str] | None = None
    changed_ids: list[str] | None = None
    extra_ids: list[str] | None = None
    #: What the checks warn of, apart from the quarantine.
    warnings: list[str] = field(default_factory=list, repr=False)


@dataclass(kw_only=True)
class StatsReport(Report):
    """The current number of products on each side, the last successful sync, and how far changes are compared. Times
    are ISO 8601, UTC."""

    source_count: int | None = None
    target_count: int | None = None
    last_sync_at: str | None = None
    last_sync_run_id: str | None = None
    position_at: str | None = None
    unsettled: int | None = None
    full_proof_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionReport:
    """One side. ``collection`` and ``replica_set`` are for MongoDB; ``schema``, ``table_name`` and ``table`` are for
    PostgreSQL."""

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
    """The settings, both connections and the alert channels. ``failure`` is the first problem. ``settings_problems``
    are settings that a sync would refuse. ``alerts`` has the service of each usable alert URL, ``alert_problems`` what
    is wrong with the others."""

    mongodb: ConnectionReport = field(default_factory=ConnectionReport)
    postgres: ConnectionReport = field(default_factory=ConnectionReport)
    settings_problems: list[str] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    alert_problems: list[str] = field(default_factory=list)
    sample_product: list[SampleValue] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DefectReport:
    """Why a document cannot be copied: the column, the code of the reason, and the value as truncated extended JSON."""

    column: str
    reason: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentReport:
    """A document of the source. ``source_key`` is the extended JSON of its ``_id``, ``id_type`` its BSON type.
    ``fields`` are the mapped fields as truncated extended JSON, ``None`` for an absent field. ``row`` is the converted
    row, ``None`` if ``defects`` prevent it."""

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
    """An entry of the quarantine, as the last run with this document left it. Times are ISO 8601, UTC. ``id`` is the id
    in the target, ``None`` if the ``_id`` itself cannot be copied."""

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
    """The quarantine after the last sync, ``run_id``. ``total`` counts its entries, ``matching`` those with one of the
    requested reasons. ``by_reason`` counts all entries by reason; ``advice`` is for the requested reasons. ``entries``
    are read from the state folder in each iteration, so there may be any number."""

    total: int | None = None
    matching: int | None = None
    by_reason: dict[str, int] | None = None
    advice: dict[str, str] | None = None
    run_id: str | None = None
    entries: Iterable[QuarantineReport] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierReport:
    """A product in an earlier snapshot. ``side`` is source or target; ``reasons`` say why the document could not be
    copied."""

    side: str
    at: str
    run_id: str
    present: bool
    row: dict[str, str | None] | None
    reasons: list[str]


@dataclass(kw_only=True)
class ProductReport(Report):
    """One product on both sides now. ``state`` is equal, missing, changed, extra, quarantined or nowhere; the exit
    status is 0 for equal and 1 otherwise. ``target_row`` is ``None`` if the target has no such row, or if it is
    unknown. ``quarantine`` and ``earlier`` come from the state folder, the newest snapshot first. ``exclusions`` name
    the rows that keep this product out now."""

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
