"""Which news is worth a message, and when: each failure once, recovery once, and no flood from what flaps.

News is about a *subject*: a check, a job, a connection. The book remembers of each what a person was last told, so
that it can tell what is new. While a subject is in its quiet time its failures are counted and not sent; the count
travels with the next message, and nobody is left with "it is in order again" when it is not.

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
class News:
    """One evaluation of a check, one run of a job, one look at a connection. ``subject`` is stable, ``name`` for
    people; ``at`` are seconds since 1970; ``text`` says what was found and what to do."""

    subject: str
    name: str
    level: Level
    at: float
    text: str


@dataclass(slots=True)
class Subject:
    """``level`` is how it is, ``told`` how people think it is; ``untold`` counts failures since the last message.

    ``alerted`` is the gravity of the last failure that was told, at ``alerted_at``; it outlives recovery, because the
    quiet time does. ``failing_since`` and all times are seconds since 1970.
    """

    name: str
    level: Level = Level.OK
    told: Level = Level.OK
    untold: int = 0
    alerted: Level = Level.OK
    alerted_at: float = 0.0
    failing_since: float = 0.0
    text: str = ""


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
class Book:
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

    def take(self, news: Iterable[News], now: float, quiet: QuietTimes) -> list[Message]:
        """Note the news, oldest first, and put into the outbox what is due now; returns those messages.

        Called without news too: a quiet time may have ended.
        """
        for item in sorted(news, key=lambda each: each.at):
            self._note(item)
        written = [_message(each, now) for each in self.subjects.values() if _is_due(each, now, quiet)]
        self.outbox += written
        if len(self.outbox) > OUTBOX_LENGTH:
            self.dropped += len(self.outbox) - OUTBOX_LENGTH
            del self.outbox[:-OUTBOX_LENGTH]
        return written

    def _note(self, news: News) -> None:
        if news.subject not in self.subjects and (news.level is Level.OK or len(self.subjects) >= SUBJECTS):
            return
        subject = self.subjects.setdefault(news.subject, Subject(news.name))
        if news.level is not Level.OK:
            subject.untold += 1
            if subject.level is Level.OK:
                subject.failing_since = news.at
        subject.name, subject.level = news.name, news.level
        subject.text = news.text if len(news.text) <= TEXT_LENGTH else news.text[:TEXT_LENGTH] + "…"


def _with_levels(item: dict[str, Any]) -> dict[str, Any]:
    return {key: Level(value) if key in ("level", "told", "alerted") else value for key, value in item.items()}


def _is_due(subject: Subject, now: float, quiet: QuietTimes) -> bool:
    if subject.level is Level.OK and subject.told is not Level.OK:
        return True  # whoever was woken up is not kept waiting
    graver = _GRAVITY[subject.level] > _GRAVITY[subject.alerted]
    return subject.untold > 0 and (graver or now >= quiet.end(subject))


def _message(subject: Subject, now: float) -> Message:
    """The message that is due about ``subject``, which is told from then on."""
    lines = [subject.text]
    if subject.level is Level.OK:
        title = f"{subject.name} is in order again"
        lines.append(f"It had failed since {_moment(subject.failing_since)}.")
        held = subject.untold
    else:
        title = f"warning from {subject.name}" if subject.level is Level.WARN else f"{subject.name} failed"
        held = subject.untold - 1
    if held > 0:
        lines.append(f"Held back since the last message: {held} more {'failure' if held == 1 else 'failures'}.")
    if subject.level is not Level.OK or subject.told is Level.OK:
        # Also where a whole flapping was held back: its summary begins the next quiet time.
        subject.alerted_at = now
    if subject.level is not Level.OK:
        subject.alerted = subject.level
    subject.told, subject.untold = subject.level, 0
    return Message(f"product_sync: {title}", "\n".join(filter(None, lines)), subject.level, now)


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
