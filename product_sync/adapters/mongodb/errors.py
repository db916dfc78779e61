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

from product_sync.adapters.mongodb.address import VARIABLE
from product_sync.core.errors import (
    AccessDenied,
    ConfigurationError,
    NotAttempted,
    ProductSyncError,
    SourceReadError,
    Unreachable,
    Untrusted,
)

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
        return AccessDenied(
            f"{hosts(database)} refused the user name or the password.",
            hint=f"Check MONGO_USER and MONGO_PASSWORD, or those in {VARIABLE}. A user that was created in the "
            "database admin needs ?authSource=admin at the end of the URL.",
        )
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


def _unauthorized(error: OperationFailure, database: Database[Any]) -> AccessDenied:
    if "requires authentication" in str(error):
        return AccessDenied(
            f"{hosts(database)} requires a user name and a password.",
            hint=f"Set MONGO_USER and MONGO_PASSWORD, or put both into {VARIABLE}.",
        )
    return AccessDenied(
        f"The MongoDB user may not read the database {database.name!r} at {hosts(database)}: "
        "it lacks the privileges of the role `read`.",
        hint=f'Grant them: db.grantRolesToUser("<user>", [{{role: "read", db: "{database.name}"}}]), '
        "in the database in which the user was created.",
    )
