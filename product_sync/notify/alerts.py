"""Which news is worth a message, and when: each failure once, recovery once, and no flood from what flaps.

News is about a *subject*: a check, a job, a connection. The book remembers of each what a person was last told, so
that it can tell what is new. While a subject is in its quiet time its failures are counted and not sent; the count
travels with the next message, and nobody is left with "it is in order again" when it is not. What failed and recovered
between two looks is told as both: what it was, and that it is over.

Messages wait in the book's outbox until every address has taken them. The book is JSON and bounded: it lives in the
cursor of a Dagster sensor, or in a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

#: Characters of one message. Longer ones are refused by some services.
TEXT_LENGTH = 1_500
#: What an address that has been away for long finds when it is back.
OUTBOX_LENGTH = 20
#: More than there are checks, jobs and connections: only a mistake in naming them comes near it.
SUBJECTS = 50


class Level(StrEnum):
    OK = "OK"
    WARN = "WARN"
    ERROR = "ERROR"


_GRAVITY = {Level.OK: 0, Level.WARN: 1, Level.ERROR: 2}


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """One evaluation of a check, one run of a job, one look at a connection. ``subject`` is stable, ``name`` for
    people; ``at`` are seconds since 1970; ``text`` says what was found and what to do."""

    subject: str
    name: str
    level: Level
    at: float
    text: str


@dataclass(slots=True)
class Subject:
    """``level`` is how it is, ``told`` how people think it is; ``untold`` counts failures since the last message,
    of which ``worst`` is the gravest.

    ``alerted`` is the gravity of the last failure that was told, at ``alerted_at``; it outlives recovery, because the
    quiet time does. ``text`` is of the last news, ``failure`` of the untold failure before it where that was good.
    ``failing_since`` and all times are seconds since 1970.
    """

    name: str
    level: Level = Level.OK
    told: Level = Level.OK
    untold: int = 0
    worst: Level = Level.OK
    alerted: Level = Level.OK
    alerted_at: float = 0.0
    failing_since: float = 0.0
    text: str = ""
    failure: str = ""


@dataclass(slots=True)
class Message:
    """``pending`` are the keys of the addresses that have not taken it yet; ``None`` before it was first sent."""

    title: str
    body: str
    level: Level
    at: float
    pending: list[str] | None = None
    delivered: bool = False


@dataclass(frozen=True, slots=True)
class QuietTimes:
    """Seconds after a message during which the same subject is not heard again."""

    error_s: float
    warn_s: float

    def end(self, subject: Subject) -> float:
        return subject.alerted_at + (self.error_s if subject.alerted is Level.ERROR else self.warn_s)


@dataclass(slots=True)
class AlertState:
    """What was told, and what is still to be delivered. ``dropped`` counts messages that fell out of a full outbox."""

    subjects: dict[str, Subject] = field(default_factory=dict)
    outbox: list[Message] = field(default_factory=list)
    dropped: int = 0

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """From what `as_json` gave. Raises `TypeError`, `KeyError` or `ValueError` for anything else."""
        subjects = {key: Subject(**_with_levels(item)) for key, item in content["subjects"].items()}
        return cls(subjects, [Message(**_with_levels(item)) for item in content["outbox"]], content["dropped"])

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def take(self, news: Iterable[StatusUpdate], now: float, quiet: QuietTimes) -> list[Message]:
        """Note the news, oldest first, and put into the outbox what is due now; returns those messages.

        Called without news too: a quiet time may have ended.
        """
        for subject in self.subjects.values():
            # Moments still to come are of a clock that was ahead: a quiet time would last until then.
            subject.alerted_at, subject.failing_since = min(subject.alerted_at, now), min(subject.failing_since, now)
        for item in sorted(news, key=lambda each: each.at):
            self._note(item)
        written = [_message(each, now) for each in self.subjects.values() if _is_due(each, now, quiet)]
        self.outbox += written
        if len(self.outbox) > OUTBOX_LENGTH:
            self.dropped += len(self.outbox) - OUTBOX_LENGTH
            del self.outbox[:-OUTBOX_LENGTH]
        return written

    def _note(self, news: StatusUpdate) -> None:
        if news.subject not in self.subjects and (news.level is Level.OK or len(self.subjects) >= SUBJECTS):
            return
        subject = self.subjects.setdefault(news.subject, Subject(news.name))
        if news.level is not Level.OK:
            subject.untold += 1
            subject.worst = max(subject.worst, news.level, key=_GRAVITY.__getitem__)
            subject.failure = ""
            if subject.level is Level.OK:
                subject.failing_since = news.at
        elif subject.level is not Level.OK and subject.untold:
            subject.failure = subject.text
        subject.name, subject.level, subject.text = news.name, news.level, _cut(news.text)


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_LENGTH else text[:TEXT_LENGTH] + "…"


def _with_levels(item: dict[str, Any]) -> dict[str, Any]:
    return {key: Level(value) if key in ("level", "told", "worst", "alerted") else value for key, value in item.items()}


def _is_due(subject: Subject, now: float, quiet: QuietTimes) -> bool:
    if subject.level is Level.OK and subject.told is not Level.OK:
        return True  # whoever was woken up is not kept waiting
    graver = _GRAVITY[subject.worst] > _GRAVITY[subject.alerted]
    return subject.untold > 0 and (graver or now >= quiet.end(subject))


def _message(subject: Subject, now: float) -> Message:
    """The message that is due about ``subject``, which is told from then on."""
    lines = [subject.text]
    held = subject.untold - 1
    if subject.level is Level.OK and subject.told is Level.OK:
        # Nobody has heard of the failure yet, and the text of recovery does not say what it was.
        was = f"{subject.name} failed and" if subject.worst is Level.ERROR else f"warning from {subject.name}, which"
        title = f"{was} is in order again"
        lines = [subject.failure, f"It had failed since {_moment(subject.failing_since)} and is in order again."]
    elif subject.level is Level.OK:
        title = f"{subject.name} is in order again"
        lines.append(f"It had failed since {_moment(subject.failing_since)}.")
        held = subject.untold
    else:
        title = f"warning from {subject.name}" if subject.level is Level.WARN else f"{subject.name} failed"
    if held > 0:
        lines.append(f"Held back since the last message: {held} more {'failure' if held == 1 else 'failures'}.")
    if subject.level is not Level.OK or subject.told is Level.OK:
        # Also where a whole flapping was held back: its summary begins the next quiet time.
        subject.alerted, subject.alerted_at = subject.worst, now
    subject.told, subject.untold, subject.worst, subject.failure = subject.level, 0, Level.OK, ""
    return Message(f"product_sync: {title}", "\n".join(filter(None, lines)), subject.level, now)


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
