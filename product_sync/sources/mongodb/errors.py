"""Translates what pymongo raises, once, into the errors of the core.

Without it every caller would have to know the driver's exceptions and the server's numeric codes, and a message
could carry the text of a command. Codes are those of the server's list of error codes
(mongodb/mongo, ``src/mongo/base/error_codes.yml``).
"""

from __future__ import annotations

import re
from typing import Any

from pymongo.database import Database
from pymongo.errors import ConfigurationError as DriverConfigurationError
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

from product_sync.errors import (
    AccessDenied,
    ConfigurationError,
    NotAttempted,
    ProductSyncError,
    SourceReadError,
    Unreachable,
    Untrusted,
)
from product_sync.runtime import hints
from product_sync.sources.mongodb.url import VARIABLE

_AUTHENTICATION_FAILED = frozenset({18, 8000})
_UNAUTHORIZED = 13
#: The same read may succeed on another member, or a moment later.
_TRANSIENT_CODES = frozenset(
    {
        6,  # HostUnreachable
        7,  # HostNotFound
        43,  # CursorNotFound
        50,  # MaxTimeMSExpired
        63,  # StaleShardVersion
        89,  # NetworkTimeout
        91,  # ShutdownInProgress
        133,  # FailedToSatisfyReadPreference
        134,  # ReadConcernMajorityNotAvailableYet
        150,  # StaleEpoch
        175,  # QueryPlanKilled
        189,  # PrimarySteppedDown
        237,  # CursorKilled
        262,  # ExceededTimeLimit
        9001,  # SocketException
        10107,  # NotWritablePrimary
        11600,  # InterruptedAtShutdown
        11601,  # Interrupted (killOp)
        11602,  # InterruptedDueToReplStateChange
        13388,  # StaleConfig
        13435,  # NotPrimaryNoSecondaryOk
        13436,  # NotPrimaryOrSecondary
    }
)
#: As Python's ssl says it, which the driver passes on.
_UNTRUSTED = re.compile(r"certificate verify failed: (.*?) \(_ssl\.c")


def is_transient(error: PyMongoError) -> bool:
    """Whether the same read may succeed if it is tried again."""
    if isinstance(error, OperationFailure):
        return error.code in _TRANSIENT_CODES
    return isinstance(error, ConnectionFailure)


def translated(error: PyMongoError, database: Database[Any]) -> ProductSyncError:
    """What ``error`` means when the server was asked for the first time: nothing has been read yet."""
    if isinstance(error, OperationFailure) and error.code in _AUTHENTICATION_FAILED:
        return _refused_login(database)
    if isinstance(error, OperationFailure) and error.code == _UNAUTHORIZED:
        return _unauthorized(error, database)
    if isinstance(error, ConnectionFailure) and (why := _UNTRUSTED.search(str(error))):
        return Untrusted(
            f"MongoDB at {hosts(database)} did not prove that it is the server asked for: {why[1].rstrip('.')}.",
            hint=f"Let the host in {VARIABLE} be a name in the server's certificate, and tlsCAFile the certificate of"
            " the authority that issued it.",
        )
    if isinstance(error, ConnectionFailure) or is_transient(error):
        return Unreachable(
            f"MongoDB at {hosts(database)} cannot be reached: {reason(error)}.",
            hint=f"Check that it runs and that {VARIABLE} has the right host, port and replica set.",
        )
    if isinstance(error, DriverConfigurationError):
        return ConfigurationError(f"{VARIABLE} cannot be used: {reason(error)}.")
    return SourceReadError(f"MongoDB at {hosts(database)} refused to be read: {reason(error)}.")


def failed_in_mid_read(error: PyMongoError, database: Database[Any]) -> ProductSyncError:
    """What ``error`` means when the server has answered before and the retries are used up, or would not help."""
    first = translated(error, database)
    if isinstance(first, NotAttempted) and not isinstance(first, AccessDenied):
        return SourceReadError(
            f"MongoDB at {hosts(database)} stopped answering while it was being read: {reason(error)}.",
            hint="Start the sync again when the server is back.",
        )
    return first


def hosts(database: Database[Any]) -> str:
    """``host:port`` of the servers that the driver knows, for messages."""
    known = database.client.topology_description.server_descriptions()
    return ",".join(sorted(host if port is None else f"{host}:{port}" for host, port in known)) or "its address"


def reason(error: PyMongoError) -> str:
    """The driver's or the server's words without the topology, the timeouts and the whole reply."""
    if isinstance(error, OperationFailure) and error.details:
        return f"{error.details.get('errmsg', 'no reason given')} (code {error.code})".replace(". (", " (")
    return str(error).split(" (configured timeouts", 1)[0].split(", Timeout:", 1)[0].rstrip(".")


def _refused_login(database: Database[Any]) -> AccessDenied:
    """The server does not say whether the user, the password or the database of both is wrong: all are named."""
    credentials = database.client.options.pool_options._credentials  # noqa: SLF001 - the driver has no public name
    made_in = str(credentials.source) if credentials else database.name
    of_path = made_in == database.name
    where = f"the database {made_in!r}" + (", the one that the URL names" if of_path else " (authSource)")
    return AccessDenied(
        f"{hosts(database)} refused the user name or the password: it looked for the user in {where}, and found none of"
        " that name and password there.",
        hint=f"Check the name of the database at the end of {VARIABLE}, then MONGO_USER and MONGO_PASSWORD, or those in"
        " the URL. A user that was created in another database needs it as authSource, such as ?authSource=admin at the"
        " end of the URL.",
    )


def _unauthorized(error: OperationFailure, database: Database[Any]) -> AccessDenied:
    if "requires authentication" in str(error):
        return AccessDenied(
            f"{hosts(database)} requires a user name and a password.",
            hint=f"Set MONGO_USER and MONGO_PASSWORD, or put both into {VARIABLE}.",
        )
    refused = f"may not read the database {database.name!r} at {hosts(database)}"
    lacking = "it lacks the privileges of the role `read`."
    if login := _login(database):
        user, made_in = login
        role = [{"role": "read", "db": database.name}]
        return AccessDenied(
            f"The MongoDB user {user!r} {refused}: {lacking}",
            hint=hints.mongosh(made_in, "grantRolesToUser", user, role),
        )
    return AccessDenied(f"The MongoDB user {refused}: {lacking}", hint="Grant it that role.")


def _login(database: Database[Any]) -> tuple[str, str] | None:
    """The user of this connection, and the database in which it was created."""
    try:
        users = database.client.admin.command("connectionStatus")["authInfo"]["authenticatedUsers"]
    except PyMongoError:
        return None
    return (str(users[0]["user"]), str(users[0]["db"])) if users else None
