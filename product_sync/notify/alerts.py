"""Decides which status updates become messages: each failure once, recovery once, and no flood from a flapping check.

An update is about a *subject*: a check, a job, a connection or a setting of one sync. `AlertState` remembers for each
subject what people were last notified of. During a quiet time the failures of a subject are counted and not sent; the
next message has the count. If a subject fails and recovers between two evaluations, one message says both.

Messages wait in the outbox until every alert URL has accepted them. The state is bounded JSON: it is kept in the cursor
of a Dagster sensor, or in a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

from product_sync.schema.definition import DEFAULT_NAME

#: Characters of one message. Some services refuse longer ones.
TEXT_LENGTH = 1_500
#: Messages kept for an alert URL that does not answer.
OUTBOX_LENGTH = 20
#: Subjects that are failing, or were within their quiet time. Only a naming mistake comes near this bound.
SUBJECTS = 100
_State = TypeVar("_State")


class Level(StrEnum):
    OK = "OK"
    WARN = "WARN"
    ERROR = "ERROR"


_SEVERITY = {Level.OK: 0, Level.WARN: 1, Level.ERROR: 2}


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """The state of a subject: of a check, a job, a connection or a setting. ``subject`` is stable within its sync,
    ``name`` is for people. ``at`` is in seconds since 1970. ``text`` says what was found and what to do."""

    subject: str
    name: str
    level: Level
    at: float
    text: str
    sync: str = DEFAULT_NAME

    @property
    def key(self) -> str:
        return self.subject if self.sync == DEFAULT_NAME else f"{self.sync}/{self.subject}"


@dataclass(slots=True)
class Subject:
    """``level`` is the current state, ``notified`` the state that people were last notified of. ``pending`` counts the
    failures since the last message; ``worst`` is the most severe of them.

    ``alerted`` is the severity of the last failure in a message, sent at ``alerted_at``. It is kept after recovery,
    because the quiet time goes on. ``text`` is of the last update; ``failure`` is of the pending failure before it, if
    the last update was a recovery. Times are in seconds since 1970.
    """

    name: str
    sync: str = DEFAULT_NAME
    level: Level = Level.OK
    notified: Level = Level.OK
    pending: int = 0
    worst: Level = Level.OK
    alerted: Level = Level.OK
    alerted_at: float = 0.0
    failing_since: float = 0.0
    text: str = ""
    failure: str = ""


@dataclass(slots=True)
class Message:
    """``pending`` has the keys of the alert URLs that have not accepted it yet; ``None`` before it was first sent."""

    title: str
    body: str
    level: Level
    at: float
    pending: list[str] | None = None
    delivered: bool = False


@dataclass(frozen=True, slots=True)
class QuietTimes:
    """Seconds after a message during which further failures of the same subject are not sent."""

    error_s: float
    warn_s: float

    def end(self, subject: Subject) -> float:
        return subject.alerted_at + (self.error_s if subject.alerted is Level.ERROR else self.warn_s)


@dataclass(slots=True)
class AlertState:
    """What people were notified of, and what is not delivered yet. ``dropped`` counts messages that a full outbox
    lost."""

    subjects: dict[str, Subject] = field(default_factory=dict)
    outbox: list[Message] = field(default_factory=list)
    dropped: int = 0

    def add(self, updates: Iterable[StatusUpdate], now: float, quiet: QuietTimes) -> list[Message]:
        """Record the updates, put the messages that are due into the outbox, and return them. Call it without updates
        too: a quiet time may have ended."""
        for subject in self.subjects.values():
            # A clock that was ahead leaves times in the future. The quiet time would last until then.
            subject.alerted_at, subject.failing_since = min(subject.alerted_at, now), min(subject.failing_since, now)
        for update in sorted(updates, key=lambda each: each.at):
            self._record(update)
        due = [_message(each, now) for each in self.subjects.values() if _is_due(each, now, quiet)]
        self.subjects = {
            key: each for key, each in self.subjects.items() if each.level is not Level.OK or now < quiet.end(each)
        }
        self.outbox += due
        if len(self.outbox) > OUTBOX_LENGTH:
            self.dropped += len(self.outbox) - OUTBOX_LENGTH
            del self.outbox[:-OUTBOX_LENGTH]
        return due

    def _record(self, update: StatusUpdate) -> None:
        if update.key not in self.subjects and (update.level is Level.OK or len(self.subjects) >= SUBJECTS):
            return
        subject = self.subjects.setdefault(update.key, Subject(update.name, update.sync))
        if update.level is not Level.OK:
            subject.pending += 1
            subject.worst = max(subject.worst, update.level, key=_SEVERITY.__getitem__)
            subject.failure = ""
            if subject.level is Level.OK:
                subject.failing_since = update.at
        elif subject.level is not Level.OK and subject.pending:
            subject.failure = subject.text
        text = update.text if len(update.text) <= TEXT_LENGTH else update.text[:TEXT_LENGTH] + "…"
        subject.name, subject.level, subject.text = update.name, update.level, text


def _is_due(subject: Subject, now: float, quiet: QuietTimes) -> bool:
    if subject.level is Level.OK and subject.notified is not Level.OK:
        return True  # recovery does not wait for the quiet time
    more_severe = _SEVERITY[subject.worst] > _SEVERITY[subject.alerted]
    return subject.pending > 0 and (more_severe or now >= quiet.end(subject))


def _message(subject: Subject, now: float) -> Message:
    """The message that is due about ``subject``, which counts as notified from then on."""
    since = datetime.fromtimestamp(subject.failing_since, UTC).strftime("%Y-%m-%d %H:%M UTC")
    was_failing = f"It had been failing since {since}."
    recovered = subject.level is Level.OK
    failed = "gave a warning" if (subject.worst if recovered else subject.level) is Level.WARN else "failed"
    if not recovered:
        title, lines, held = failed, [subject.text], subject.pending - 1
    elif subject.notified is not Level.OK:
        title, lines, held = "recovered", [subject.text, was_failing], subject.pending
    else:  # Nobody was notified of the failure yet, and the text of the recovery does not say what it was.
        title, lines, held = f"{failed} and recovered", [subject.failure, was_failing], subject.pending - 1
    if held > 0:
        lines.append(f"Held back since the last message: {held} more {'failure' if held == 1 else 'failures'}.")
    if not recovered or subject.notified is Level.OK:
        subject.alerted, subject.alerted_at = subject.worst, now
    subject.notified, subject.pending, subject.worst, subject.failure = subject.level, 0, Level.OK, ""
    sync = "" if subject.sync == DEFAULT_NAME else f" ({subject.sync})"
    return Message(f"product_sync{sync}: {subject.name} {title}", "\n".join(filter(None, lines)), subject.level, now)


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_state(new: _State, text: str | None) -> _State:
    """A state of the class of ``new``, from the ``text`` of `write_state`; ``new`` if this version cannot read it."""
    kind: Any = type(new)
    try:
        state: _State = _adapter(kind).validate_python(json.loads(text or ""))
    except ValueError:
        return new
    return state


def write_state(state: Any) -> str:
    """The dataclass as JSON. Pydantic's own JSON refuses the text of a path or an argument that is not UTF-8."""
    return json.dumps(asdict(state), separators=(",", ":"))
