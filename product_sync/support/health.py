"""Checks the health of both connections within ten seconds, whatever the servers do.

Without it nobody would learn between two syncs that the next one cannot run. `doctor` takes too long and asks too much
to run every five minutes during a load. Counts are estimates from the servers' own statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from product_sync.errors import NotAttempted, ProductSyncError
from product_sync.notify.alerts import Level, StatusUpdate
from product_sync.runtime.bounded_calls import BoundedCalls, Call
from product_sync.schema.addresses import SourceAddress, TargetAddress
from product_sync.schema.definition import SyncDefinition
from product_sync.schema.records import TargetTable
from product_sync.sources import mongodb
from product_sync.targets.postgres.connection import without_credentials
from product_sync.targets.postgres.health import quick_health as postgres_quick_health

#: Seconds for a server to be found, to take the connection and to give each answer.
STEP_S = 4.0
#: Seconds for the whole check. No other limit covers a stopped process or a silent name server.
CHECK_S = 10.0

Fact = str | int | float | None


@dataclass(frozen=True, slots=True)
class ConnectionHealth:
    """The health of one side. ``text`` describes it, with the next step if there is one. ``facts`` are for tables and
    plots; ``None`` means unknown."""

    side: str
    level: Level
    text: str
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def status_update(self, at: float, sync: str) -> StatusUpdate:
        name = f"the connection to {_TITLES[self.side]}"
        return StatusUpdate(f"connection/{self.side}", name, self.level, at, self.text, sync)


def check_both_sides(
    definition: SyncDefinition, env: Mapping[str, str], *, step_s: float = STEP_S, check_s: float = CHECK_S
) -> list[ConnectionHealth]:
    """Check both sides at the same time. A side that does not answer in time has failed, and is not asked again while
    the last question is still open."""
    questions = {"mongodb": _check_source, "postgres": _check_target}
    calls = {
        side: _QUESTIONS.start(f"{definition.name}/{side}", partial(_ask, side, question, definition, env, step_s))[0]
        for side, question in questions.items()
    }
    _QUESTIONS.wait(calls.values(), check_s)
    return [_answer(side, call) for side, call in calls.items()]


_QUESTIONS = BoundedCalls[ConnectionHealth]()
_TITLES = {"mongodb": "MongoDB", "postgres": "PostgreSQL"}
_Question = Callable[[SyncDefinition, Mapping[str, str], float], ConnectionHealth]


def _ask(
    side: str, question: _Question, definition: SyncDefinition, env: Mapping[str, str], step_s: float
) -> ConnectionHealth:
    try:
        return question(definition, env, step_s)
    except ProductSyncError as error:
        return _failed(side, str(error))


def _answer(side: str, call: Call[ConnectionHealth]) -> ConnectionHealth:
    if call.is_running:
        return _failed(
            side,
            f"{_TITLES[side]} was asked {call.seconds:.0f} seconds ago and has not answered."
            " Check that the server and the network are not stalled.",
        )
    error = call.future.exception()
    if isinstance(error, Exception):
        # The text of the error is left out, because it may hold a secret.
        return _failed(side, f"The check of {_TITLES[side]} raised {type(error).__name__}{_place(error)}: a bug.")
    return call.future.result()


def _failed(side: str, text: str) -> ConnectionHealth:
    return ConnectionHealth(side, Level.ERROR, text)


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f" in {trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}" if trace else ""


def _check_source(definition: SyncDefinition, env: Mapping[str, str], step_s: float) -> ConnectionHealth:
    address, collection = SourceAddress.from_environment(env, definition.source), definition.source.collection
    with mongodb.connect(address, within_s=step_s) as database:
        found = mongodb.inspect(database, collection)
        mongodb.require_readable(database, collection, definition.source.filter, definition.expressions)
        replication = mongodb.replication(database)
    text = f"MongoDB {found.version}: about {found.estimated_count:,} documents; {replication}."
    unsound = [f"{member.name} is {member.state}" for member in replication.unsound]
    if unsound:
        text = f"{', '.join(unsound)}: the loss of another member may leave no primary. Check its server. {text}"
    facts: dict[str, Fact] = {
        "mongodb_documents_about": found.estimated_count,
        "mongodb_latency_ms": round(found.latency_ms, 2),
        "mongodb_replication": str(replication),
        "mongodb_unsound_members": None if replication.members is None else len(unsound),
        "mongodb_behind_s": replication.behind_s,
    }
    return ConnectionHealth("mongodb", Level.WARN if unsound else Level.OK, text, facts)


def _check_target(definition: SyncDefinition, env: Mapping[str, str], step_s: float) -> ConnectionHealth:
    target = definition.target
    address = TargetAddress.from_environment(env, target)
    found = postgres_quick_health(address, TargetTable(target.db_schema, target.table, ()), within_s=step_s)
    if found.replication.in_recovery:
        raise NotAttempted(
            f"PostgreSQL at {without_credentials(address)} is {found.replication}: a standby cannot be written to.",
            hint=f"Promote it, or set {target.url_variable} to the primary: with several hosts and"
            " target_session_attrs=read-write the primary is found.",
        )
    text = f"PostgreSQL {found.server.version}: about {found.estimated_rows:,} rows; {found.replication}."
    facts: dict[str, Fact] = {
        "postgres_rows_about": found.estimated_rows,
        "postgres_latency_ms": round(found.server.latency_ms, 2),
        "postgres_replication": str(found.replication),
        "postgres_replicas": found.replication.replicas,
        "postgres_behind_s": found.replication.behind_s,
    }
    return ConnectionHealth("postgres", Level.OK, text, facts)
