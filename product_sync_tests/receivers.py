"""Receivers of alerts for the tests: a real HTTP server and a real SMTP server on loopback, which keep all messages."""

from __future__ import annotations

import email
import email.policy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from product_sync.embedded.process import free_port

#: Apprise's own limits are four seconds: on a busy machine it would send again what was taken.
PATIENT = "cto=60&rto=60"


@dataclass
class WebReceiver:
    """``status`` is what it answers with; only what it took with a 2xx is in ``requests``: method, path, body; and in
    ``authorizations``, what each came with. It calls ``meanwhile`` before it answers."""

    port: int
    status: int = 200
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    refused: int = 0
    authorizations: list[str | None] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def apprise(self) -> str:
        """As an alert URL, with a token in it that must not be seen anywhere."""
        return f"json://robot:sesame@127.0.0.1:{self.port}/opensesame?{PATIENT}"

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """What Apprise's JSON messages say: title, message, type."""
        return [json.loads(body) for _, path, body in self.requests if path == "/opensesame"]

    def titles(self) -> list[str]:
        return [alert["title"].removeprefix("product_sync: ") for alert in self.alerts]


@contextmanager
def web_receiver() -> Iterator[WebReceiver]:
    receiver = WebReceiver(0)

    class Handler(BaseHTTPRequestHandler):
        def _take(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if receiver.status < 300:
                receiver.authorizations.append(self.headers.get("Authorization"))
                receiver.requests.append((self.command, self.path, body))
            else:
                receiver.refused += 1
            receiver.meanwhile()
            self.send_response(receiver.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = do_PUT = _take  # noqa: N815 - the names that the server looks for

        def log_message(self, *_: object) -> None:
            """Not to standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


@dataclass
class MailReceiver:
    """``mails`` are subject, recipients and text of the delivered messages."""

    port: int
    mails: list[tuple[str, list[str], str]] = field(default_factory=list)

    @property
    def recipients(self) -> list[str]:
        """One for each mail that was delivered to each of them."""
        return [recipient for _, recipients, _ in self.mails for recipient in recipients]

    @property
    def apprise(self) -> str:
        """As an alert URL with two recipients."""
        address = f"mailto://127.0.0.1:{self.port}?smtp=127.0.0.1&mode=insecure&format=text"
        return f"{address}&from=sync@shop.example&to=night@shop.example,day@shop.example&{PATIENT}"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        mail = email.message_from_bytes(envelope.original_content or b"", policy=email.policy.default)
        text = mail.get_body(("plain",))
        content = text.get_content() if text else ""
        self.mails.append((str(mail["subject"]), list(envelope.rcpt_tos), content))
        return "250 taken"


@contextmanager
def mail_receiver() -> Iterator[MailReceiver]:
    receiver = MailReceiver(free_port())
    controller = Controller(receiver, hostname="127.0.0.1", port=receiver.port)
    controller.start()
    try:
        yield receiver
    finally:
        controller.stop()
