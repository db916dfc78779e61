"""Sends messages through Apprise, one alert URL at a time, so that a broken URL does not hide what the others accepted.

Apprise URLs hold tokens, and Apprise logs them. So messages show a URL by its service and its place in the list, and
take only the HTTP status from Apprise's log.
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
#: The loggers that write URLs: Apprise's, and that of its HTTP library.
_LOGGERS = ("apprise", "urllib3")


@dataclass(frozen=True, slots=True)
class AlertUrl:
    """``name`` may be shown; ``key`` is a hash that identifies the URL."""

    key: str
    name: str
    service: NotifyBase

    def send(self, message: Message) -> str:
        """Returns an empty string, or why the service did not accept the message."""
        from apprise import NotifyFormat, NotifyType

        kinds = {Level.OK: NotifyType.SUCCESS, Level.WARN: NotifyType.WARNING, Level.ERROR: NotifyType.FAILURE}
        with _captured_log() as lines:
            try:
                accepted = self.service.notify(
                    title=message.title,
                    body=message.body,
                    notify_type=kinds[message.level],
                    body_format=NotifyFormat.TEXT,
                )
            except Exception as error:  # noqa: BLE001 - a bug of a plugin must not stop the other alert URLs
                return f"{type(error).__name__} in Apprise"
        if accepted:
            return ""
        status = _STATUS.search("\n".join(lines))
        return f"it answered {status[1]}" if status else "it did not answer, or not as expected"


@lru_cache(maxsize=1)
def parse_alert_urls(urls: tuple[str, ...]) -> tuple[tuple[AlertUrl, ...], tuple[str, ...]]:
    """The usable URLs, and a sentence for each of the others. The first call imports Apprise, which takes a second."""
    usable, problems = [], []
    for place, url in enumerate(urls, start=1):
        service = _service(url)
        if service is None:
            scheme = url.partition("://")[0] if "://" in url else ""
            shown = f" ({scheme[:20]}://…)" if scheme.isalnum() else ""
            problems.append(f"{ALERT_URLS}, URL {place} of {len(urls)}{shown}: Apprise does not know this URL.")
        else:
            key = hashlib.sha256(url.encode()).hexdigest()[:8]
            usable.append(AlertUrl(key, f"{service.service_name} (URL {place} of {len(urls)})", service))
    return tuple(usable), tuple(problems)


def _service(url: str) -> NotifyBase | None:
    from apprise import Apprise

    with _captured_log():
        return Apprise.instantiate(url, suppress_exceptions=True)


#: The captured lines of each sending thread. While this is not empty, both loggers do not propagate.
_captured: dict[int | None, list[str]] = {}
_lock = threading.Lock()
_propagated: dict[str, bool] = {}


class _Capture(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if (lines := _captured.get(record.thread)) is not None:
            lines.append(record.getMessage())


_HANDLER = _Capture()


@contextmanager
def _captured_log() -> Iterator[Sequence[str]]:
    """Collect what Apprise and its HTTP library log in this thread, and keep it from all other handlers: some of these
    lines hold the whole URL. Several threads may send at once; the last one restores the loggers."""
    me, lines = threading.get_ident(), list[str]()
    with _lock:
        if not _captured:
            for logger in map(logging.getLogger, _LOGGERS):
                _propagated[logger.name] = logger.propagate
                logger.addHandler(_HANDLER)
                logger.propagate = False
        _captured[me] = lines
    try:
        yield lines
    finally:
        with _lock:
            del _captured[me]
            if not _captured:
                for logger in map(logging.getLogger, _LOGGERS):
                    logger.removeHandler(_HANDLER)
                    logger.propagate = _propagated[logger.name]
