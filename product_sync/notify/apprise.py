"""Sends messages through Apprise, one address at a time, so that one that is down does not hide what others took.

Apprise URLs hold tokens, and Apprise writes them into its log. Here an address is shown by the name of its service and
its place in the list; from Apprise's log only the status that a server answered with is taken.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from product_sync.notify.alerts import Level, Message
from product_sync.settings import ALERT_URLS

if TYPE_CHECKING:
    from apprise import NotifyBase

_STATUS = re.compile(r"error=(\d{3})")
#: Who logs the URLs: Apprise, and what it sends with.
_LOGGERS = ("apprise", "urllib3")


@dataclass(frozen=True, slots=True)
class Address:
    """``name`` may be shown; ``key`` tells the address from the others without giving it away."""

    key: str
    name: str
    service: NotifyBase

    def send(self, message: Message) -> str:
        """Hand the message over. Returns an empty string, or why the address did not take it."""
        from apprise import NotifyFormat, NotifyType

        kinds = {Level.OK: NotifyType.SUCCESS, Level.WARN: NotifyType.WARNING, Level.ERROR: NotifyType.FAILURE}
        with _overheard() as said:
            try:
                taken = self.service.notify(
                    title=message.title,
                    body=message.body,
                    notify_type=kinds[message.level],
                    body_format=NotifyFormat.TEXT,
                )
            except Exception as error:  # noqa: BLE001 - a plugin's bug must not keep the others from being told
                return f"{type(error).__name__} in Apprise"
        if taken:
            return ""
        status = _STATUS.search("\n".join(said))
        return f"it answered {status[1]}" if status else "no answer, or not a good one"


@dataclass(frozen=True, slots=True)
class Addresses:
    """``problems`` name the URLs that cannot be used, by their place in the list."""

    usable: tuple[Address, ...]
    problems: tuple[str, ...]


@lru_cache(maxsize=1)
def addresses(urls: tuple[str, ...]) -> Addresses:
    """What Apprise makes of the URLs. It takes a second the first time, which only who has something to send pays."""
    usable, problems = [], []
    for place, url in enumerate(urls, start=1):
        service = _service(url)
        where = f"{ALERT_URLS}, URL {place} of {len(urls)}"
        if service is None:
            scheme = url.partition("://")[0] if "://" in url else ""
            shown = f" ({scheme[:20]}://…)" if scheme.isalnum() else ""
            problems.append(f"{where}{shown}: not a notification URL that Apprise knows.")
        else:
            key = hashlib.sha256(url.encode()).hexdigest()[:8]
            usable.append(Address(key, f"{service.service_name} (URL {place} of {len(urls)})", service))
    return Addresses(tuple(usable), tuple(problems))


def _service(url: str) -> NotifyBase | None:
    from apprise import Apprise

    with _overheard():
        return Apprise.instantiate(url, suppress_exceptions=True)


#: What each thread that sends has overheard so far, by thread. While it is not empty, both loggers are kept apart.
_heard: dict[int | None, list[str]] = {}
_lock = threading.Lock()
_propagated: dict[str, bool] = {}


class _Ear(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if (said := _heard.get(record.thread)) is not None:
            said.append(record.getMessage())


_EAR = _Ear()


@contextmanager
def _overheard() -> Iterator[Sequence[str]]:
    """What Apprise and the library that it sends with log in this thread, kept from every other ear: at some level, all
    of the URL. Several threads may send at once, and one may hang: the loggers are given back by the last one."""
    me, said = threading.get_ident(), list[str]()
    with _lock:
        if not _heard:
            for name in _LOGGERS:
                logger = logging.getLogger(name)
                _propagated[name] = logger.propagate
                logger.addHandler(_EAR)
                logger.propagate = False
        _heard[me] = said
    try:
        yield said
    finally:
        with _lock:
            del _heard[me]
            if not _heard:
                for name in _LOGGERS:
                    logger = logging.getLogger(name)
                    logger.removeHandler(_EAR)
                    logger.propagate = _propagated[name]
