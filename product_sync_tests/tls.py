"""Encryption as a production server has it: certificates of a test CA, and a proxy that ends TLS before a server.

The PostgreSQL of the wheel is built without TLS, and a mongod refuses to start with an expired certificate. So a proxy
speaks TLS with the client, after PostgreSQL's own greeting where there is one, and plain text with the real server.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import trustme

from product_sync_tests.network import LocalServer, shut

#: SSLRequest (PostgreSQL manual, "Message Formats"), the 8 bytes that a client begins with when it wants TLS.
_SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
_GSS_REQUEST: Final = struct.pack("!II", 8, 80877104)
_CHUNK: Final = 65_536
_HANDSHAKE_S: Final = 10.0


@dataclass(frozen=True)
class Certificates:
    """A CA and what it has issued, in files. ``ca`` is what clients trust, ``stranger`` a CA that issued nothing here.

    ``server`` is for ``localhost`` only, so that 127.0.0.1 is a wrong name for the same server. Server files hold
    the key too, in one PEM, as mongod wants it.
    """

    ca: Path
    stranger: Path
    server: Path
    expired: Path


def issue(folder: Path) -> Certificates:
    ca, stranger = trustme.CA(), trustme.CA()
    yesterday = datetime.now(UTC) - timedelta(days=1)
    files = {
        "ca": ca.cert_pem,
        "stranger": stranger.cert_pem,
        "server": ca.issue_cert("localhost").private_key_and_cert_chain_pem,
        "expired": ca.issue_cert("localhost", not_after=yesterday).private_key_and_cert_chain_pem,
    }
    for name, blob in files.items():
        blob.write_to_path(str(folder / f"{name}.pem"))
    return Certificates(*(folder / f"{name}.pem" for name in files))


class TlsProxy(LocalServer):
    """Ends TLS before ``host:port``. ``greets``: clients ask for it first, as PostgreSQL's do; who does not is sent
    away. ``sessions`` counts the connections that were encrypted."""

    def __init__(self, host: str, port: int, certificate: Path, *, greets: bool) -> None:
        self._server = (host, port)
        self._greets = greets
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self.sessions = 0
        super().__init__()

    def _serve(self, client: socket.socket) -> None:
        try:
            client.settimeout(_HANDSHAKE_S)
            if self._greets and not _greeted(client):
                return
            # The client may refuse our certificate: that is what the tests are about.
            encrypted = self._context.wrap_socket(client, server_side=True)
        except OSError:
            return
        finally:
            if client.fileno() >= 0:
                shut(client)
        self.sessions += 1
        encrypted.settimeout(None)
        with contextlib.suppress(OSError):
            server = socket.create_connection(self._server)
            self._sockets += [encrypted, server]
            self._start(_relay, server, encrypted)
            _relay(encrypted, server)


@contextmanager
def tls_proxy(url: str, certificate: Path, *, greets: bool) -> Iterator[TlsProxy]:
    """A proxy before the server of ``url``."""
    parts = urlsplit(url)
    opened = TlsProxy(parts.hostname or "127.0.0.1", parts.port or 0, certificate, greets=greets)
    try:
        yield opened
    finally:
        opened.close()


def through(url: str, port: int, *, host: str = "localhost", options: str) -> str:
    """The same database with the same login on ``host:port``, with these options and no others."""
    parts = urlsplit(url)
    credentials, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}{host}:{port}", query=options))


def _greeted(client: socket.socket) -> bool:
    """Whether the client asks for TLS; the answer is yes."""
    while (request := client.recv(len(_SSL_REQUEST), socket.MSG_WAITALL)) == _GSS_REQUEST:
        client.sendall(b"N")
    if request == _SSL_REQUEST:
        client.sendall(b"S")
    return request == _SSL_REQUEST


def _relay(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):  # either side, or the proxy, closed it
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    shut(source, sink)
