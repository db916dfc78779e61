"""Opens connections to the target's server, and says why one cannot be opened.

This is the one place that parses the URL, so that its password cannot leak elsewhere. Driver messages about an
address quote parts of it and are never passed on.
"""

import os
import re
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from product_sync.errors import (
    AccessDenied,
    ConfigurationError,
    NotAttempted,
    TooFewConnections,
    Unreachable,
    Untrusted,
)
from product_sync.schema.addresses import TargetAddress
from product_sync.targets.postgres import binary
from product_sync.targets.postgres.errors import read_error

_PORT: Final = "5432"
#: The application name of sessions that write nothing.
_NAME: Final = "product_sync"
#: How many connections to the target a sync may have open at once.
CONNECTIONS_NEEDED: Final = 3
EXPECTED: Final = "postgresql://USER:PASSWORD@HOST:5432/DATABASE"

#: Defaults for what the address does not set (libpq manual, "Parameter Key Words"; seconds, ``tcp_user_timeout`` in
#: milliseconds). A server that vanished is noticed after about a minute. `lock` has the same for a client.
_DEFAULTS: Final = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
#: pg_current_xact_id() and trim_scale() came with 13.
_OLDEST_SERVER: Final = 130000
#: PostgreSQL cuts longer names without an error.
_APPLICATION_NAME_BYTES: Final = 63
_SCHEME: Final = re.compile(r"postgres(ql)?(\+[a-z0-9_]+)?://", re.IGNORECASE)

# libpq gives no SQLSTATE for a failed connection, only a text. These are the server's English texts. A text that is not
# recognised, or is in another language, counts as unreachable and is quoted.
_NO_DATABASE: Final = re.compile(r"FATAL: +database .* does not exist")
_DENIED: Final = re.compile(
    r"authentication failed|no password supplied|role .* does not exist|no pg_hba\.conf entry|pg_hba\.conf rejects"
    r"|permission denied|not permitted to log in|not currently accepting connections"
    r"|requires a valid client certificate"
)
_TOO_MANY: Final = re.compile(
    r"too many connections for|too many clients|connection slots are reserved|no more connections allowed"
)
# libpq's own texts about TLS.
_WRONG_NAME: Final = re.compile(r"server certificate for .* does not match host name")
_NO_ROOT: Final = re.compile(r"root certificate file .* does not exist|could not read root certificate file")
#: libpq's default (manual, "Client Verification of Server Certificates").
_ROOT: Final = "~/.postgresql/root.crt"
#: The message with which a client asks for TLS (PostgreSQL manual, "SSL Session Encryption" and "Message Formats").
_SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
_HANDSHAKE_S: Final = 5.0


def connect(
    address: TargetAddress, *, application_name: str = _NAME, connect_within_s: float | None = None
) -> psycopg.Connection:
    """A new connection in autocommit mode, with the server's own placeholders (``$1``) and canonical conversions.

    Time-outs, ``search_path`` and ``TimeZone`` stay as the role has them. They change nothing here, because values
    travel in binary and names are qualified, but triggers of the table's owner may rely on them. ``connect_within_s``
    replaces the time-out of the address: seconds for each of its hosts, two at least.

    Raises `ConfigurationError` for an invalid address and for a database that does not exist, `AccessDenied` for a
    wrong password or role, `Untrusted` if TLS is required and the server's certificate is not valid,
    `TooFewConnections` if a limit is reached, `Unreachable` for everything else. No error quotes the address.
    """
    parameters = _parse(address)
    try:
        connection = psycopg.connect(
            conninfo(address, application_name=application_name, connect_within_s=connect_within_s),
            autocommit=True,
            cursor_factory=psycopg.RawCursor,
        )
    except psycopg.Error as error:
        raise _refusal(str(error), parameters, address.variable) from None
    if connection.info.server_version < _OLDEST_SERVER:
        version = connection.info.parameter_status("server_version")
        connection.close()
        raise ConfigurationError(
            f"PostgreSQL at {_shown(parameters)} has version {version}; 13 or newer is needed.",
            hint="Upgrade the server.",
        )
    connection.server_cursor_factory = psycopg.RawServerCursor
    binary.register(connection)
    return connection


@contextmanager
def connected(
    address: TargetAddress, name: str, *, application_name: str = _NAME, connect_within_s: float | None = None
) -> Iterator[psycopg.Connection]:
    """A connection for questions about ``name``, a table for example. Raises what `connect` raises; driver errors in
    the block become the errors of a failed read."""
    connection = connect(address, application_name=application_name, connect_within_s=connect_within_s)
    with closing(connection):
        try:
            yield connection
        except psycopg.Error as error:
            raise read_error(error, table=name, broken=connection.closed) from error


def cut(connection: psycopg.Connection) -> None:
    """Ends a connection on which another thread waits for the server: the driver then finds it closed."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


def conninfo(address: TargetAddress, *, application_name: str = _NAME, connect_within_s: float | None = None) -> str:
    """The address with our defaults, in libpq's own form. It may hold the password, so it must not be shown. Raises
    `ConfigurationError` for an invalid address."""
    ours = {"application_name": application_name, "client_encoding": "UTF8"}
    if connect_within_s is not None:
        ours["connect_timeout"] = f"{connect_within_s:.0f}"
    return make_conninfo(**{**_DEFAULTS, **_parse(address), **ours})


def application_name(run_id: str) -> str:
    """The name of a session at the server: ``product_sync RUN HOST:PID``, in at most 63 bytes of ASCII. Another sync
    that finds the lock taken shows it."""
    begin, end = f"product_sync {run_id[:8]} ", f":{os.getpid()}"
    host = socket.gethostname().encode("ascii", "replace").decode()
    return begin + host[: _APPLICATION_NAME_BYTES - len(begin) - len(end)] + end


def without_credentials(address: TargetAddress) -> str:
    """Only ``host:port/database`` of an address, with all its hosts. Raises `ConfigurationError`."""
    return _shown(_parse(address))


def _parse(address: TargetAddress) -> dict[str, str]:
    """The parameters of the address, or `ConfigurationError`, which does not quote it."""
    text = address.url.strip()
    if not text:
        raise ConfigurationError(f"{address.variable} is empty.", hint=f"Set it to {EXPECTED}.")
    if scheme := _SCHEME.match(text):
        text = "postgresql://" + text[scheme.end() :]
        # After an unencoded @ or / in the password, libpq takes the rest of it for the host or the database.
        authority, _, path = text[len("postgresql://") :].partition("?")[0].partition("/")
        if authority.count("@") > 1 or "@" in path or "#" in text:
            raise _invalid(
                address, "a password with special characters must be percent-encoded (@ is %40, / is %2F, # is %23)"
            )
    elif "://" in text:
        raise _invalid(address, "it does not begin with postgresql://")
    try:
        parameters = {key: str(value) for key, value in conninfo_to_dict(text).items()}
    except (psycopg.Error, UnicodeError):
        raise _invalid(
            address,
            "libpq does not know a part of it; parameters of other tools (schema, pgbouncer) do not belong here",
        ) from None
    if not all(port.isdecimal() for port in parameters.get("port", "0").split(",") if port):
        raise _invalid(address, "the port is not a number; special characters of a password must be percent-encoded")
    return parameters


def _invalid(address: TargetAddress, fault: str) -> ConfigurationError:
    return ConfigurationError(f"{address.variable} is not a valid address: {fault}.", hint=f"Expected: {EXPECTED}.")


def _shown(parameters: dict[str, str]) -> str:
    known = _with_defaults(parameters)
    places = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in _places(known))
    return f"{','.join(places)}/{known['dbname'] or known['user']}"


def _places(known: dict[str, str]) -> list[tuple[str, str]]:
    """Host and port of each server."""
    hosts = (known["host"] or known["hostaddr"] or "localhost").split(",")
    ports = known["port"].split(",")
    # One port for all hosts, or one for each (libpq manual, "Specifying Multiple Hosts").
    ports = ports * len(hosts) if len(ports) == 1 else ports
    return [(host, port or _PORT) for host, port in zip(hosts, ports, strict=False)]


def _with_defaults(parameters: dict[str, str]) -> dict[str, str]:
    """The parameters with libpq's defaults: from the environment, then compiled in."""
    options = pq.Conninfo.get_defaults()
    defaults = {option.keyword.decode(): (option.val or option.compiled or b"").decode() for option in options}
    return {**defaults, **parameters}


def _refusal(text: str, parameters: dict[str, str], variable: str) -> ConfigurationError | NotAttempted:
    where, user = _shown(parameters), _with_defaults(parameters)["user"]
    if _NO_DATABASE.search(text):
        return ConfigurationError(
            f"The server at {where.rpartition('/')[0]} has no database {where.rpartition('/')[2]!r}.",
            hint=f"Create it, or correct the name at the end of {variable}.",
        )
    reason = _reason(text)
    if _DENIED.search(text):
        return AccessDenied(
            f"PostgreSQL at {where} refused user {user!r}: {reason}.",
            hint=f"Check user and password in {variable}, and the server's pg_hba.conf.",
        )
    if _TOO_MANY.search(text):
        return too_few_connections(user, f"{reason}, says PostgreSQL at {where}")
    if _NO_ROOT.search(text):
        return ConfigurationError(
            f"The certificates to check PostgreSQL at {where} against cannot be read: {reason}.",
            hint=f"Let sslrootcert in {variable} name a file that this user may read, or be `system`.",
        )
    is_refused = "certificate verify failed" in text
    if is_refused or _WRONG_NAME.search(text):
        why = (is_refused and _why_refused(parameters)) or reason
        return Untrusted(
            f"PostgreSQL at {where} did not prove that it is the right server: {why}.",
            hint=f"The host in {variable} must be a name in the server's certificate, and sslrootcert must be the"
            " certificate of the authority that issued it.",
        )
    if "server does not support SSL" in text:
        return Untrusted(
            f"PostgreSQL at {where} does not offer TLS, which {variable} requires.",
            hint="Turn ssl on in the server's configuration.",
        )
    return Unreachable(
        f"PostgreSQL at {where} cannot be reached: {reason}.",
        hint=f"Check that the server runs and that {variable} names it: {EXPECTED}.",
    )


def too_few_connections(user: str, reason: str) -> TooFewConnections:
    """The error for a server or a pool that gives ``user`` no more sessions."""
    return TooFewConnections(
        f"No more connections for user {user!r}: {reason}.",
        hint=f"A sync needs {CONNECTIONS_NEEDED} connections at once: raise the limit of the role, the database or the"
        " pool, or wait until others have ended.",
    )


def _why_refused(parameters: dict[str, str]) -> str | None:
    """OpenSSL's reason, such as ``certificate has expired``; ``None`` if it is not found. libpq says the same for an
    expired certificate and for one of an unknown issuer. So the handshake is done again with Python's ``ssl``. Nothing
    is sent over that connection, and the refusal stands."""
    known = _with_defaults(parameters)
    root = None if known["sslrootcert"] == "system" else Path(known["sslrootcert"] or _ROOT).expanduser()
    for host, port in _places(known):
        try:
            context = ssl.create_default_context(cafile=root)
            # libpq checks the name itself, and its message is clear.
            context.check_hostname = False
            with socket.create_connection((host, int(port)), timeout=_HANDSHAKE_S) as plain:
                plain.sendall(_SSL_REQUEST)
                if plain.recv(1) == b"S":
                    context.wrap_socket(plain).close()
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        except (OSError, UnicodeError):  # also for the path of a Unix socket
            continue
    return None


def _reason(text: str) -> str:
    """The first line of a driver's text, from where the server's own message begins."""
    reason = " ".join(text.split("\n")[0].split())
    for begin in ("FATAL: ", "failed: "):
        _, found, rest = reason.rpartition(begin)
        reason = rest if found else reason
    return reason.strip().rstrip(".")
