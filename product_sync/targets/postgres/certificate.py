"""Why the certificate of a PostgreSQL server was refused.

libpq says "certificate verify failed" both for an expired certificate and for one of an unknown issuer. So the
handshake is done again with Python's ``ssl``, which gives the reason. Nothing is sent over that connection, and the
refusal stands.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

#: The message with which a client asks for TLS (PostgreSQL manual, "SSL Session Encryption" and "Message Formats").
_SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
_TIMEOUT_S: Final = 5.0
#: libpq's default (manual, "Client Verification of Server Certificates").
_ROOT: Final = "~/.postgresql/root.crt"


def refused_because(places: Iterable[tuple[str, int]], root_certificate: str) -> str | None:
    """OpenSSL's reason, such as ``certificate has expired``, at the first of ``places`` (host and port) whose
    certificate ``root_certificate`` (libpq's ``sslrootcert``) does not confirm; ``None`` if there is none."""
    root = None if root_certificate == "system" else Path(root_certificate or _ROOT).expanduser()
    for place in places:
        try:
            context = ssl.create_default_context(cafile=root)
            # libpq checks the name itself, and its message is clear.
            context.check_hostname = False
            with socket.create_connection(place, timeout=_TIMEOUT_S) as plain:
                plain.sendall(_SSL_REQUEST)
                if plain.recv(1) == b"S":
                    context.wrap_socket(plain).close()
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        except OSError:
            continue
    return None
