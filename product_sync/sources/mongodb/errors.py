"""Translates pymongo's errors, once, into those of `product_sync.errors`.

Otherwise every caller would have to know the driver's exceptions and the server's numeric codes, and a message could
contain the text of a command. The codes are in mongodb/mongo, ``src/mongo/base/error_codes.yml``.
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
from product_sync.sources.mongodb.url import address_of

_AUTHENTICATION_FAILED = frozenset({18, 8000})
_UNAUTHORIZED = 13
#: The same read may succeed on another member or a moment later.
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
#: The text of Python's ssl module, which the driver passes on.
_UNTRUSTED = re.compile(r"certificate verify failed: (.*?) \(_ssl\.c")


def is_transient(error: PyMongoError) -> bool:
    """Whether the same read may succeed if it is tried again."""
    if isinstance(error, OperationFailure):
        return error.code in _TRANSIENT_CODES
    return isinstance(error, ConnectionFailure)


def translated(error: PyMongoError, database: Database[Any]) -> ProductSyncError:
    """The error to raise if the first command to the server fails: nothing has been read yet."""
    variable = address_of(database).variable
    if isinstance(error, OperationFailure) and error.code in _AUTHENTICATION_FAILED:
        return _refused_login(database)
    if isinstance(error, OperationFailure) and error.code == _UNAUTHORIZED:
        return _unauthorized(error, database)
    if isinstance(error, ConnectionFailure) and (why := _UNTRUSTED.search(str(error))):
        return Untrusted(
            f"The certificate of MongoDB at {hosts(database)} could not be verified: {why[1].rstrip('.')}.",
            hint=f"The host in {variable} must be a name in the server's certificate, and tlsCAFile the certificate of"
            " the authority that issued it.",
        )
    if isinstance(error, ConnectionFailure) or is_transient(error):
        return Unreachable(
            f"MongoDB at {hosts(database)} cannot be reached: {reason(error)}.",
            hint=f"Check that it runs and that {variable} has the right host, port and replica set.",
        )
    if isinstance(error, DriverConfigurationError):
        return ConfigurationError(f"{variable} cannot be used: {reason(error)}.")
    return SourceReadError(f"MongoDB at {hosts(database)} refused to be read: {reason(error)}.")


def failed_in_mid_read(error: PyMongoError, database: Database[Any]) -> ProductSyncError:
    """The error to raise if a later command fails and retries are used up or would not help."""
    first = translated(error, database)
    if isinstance(first, NotAttempted) and not isinstance(first, AccessDenied):
        return SourceReadError(
            f"MongoDB at {hosts(database)} stopped answering during the read: {reason(error)}.",
            hint="Start the sync again when the server is back.",
        )
    return first


def hosts(database: Database[Any]) -> str:
    """``host:port`` of the servers that the driver knows, for messages."""
    known = database.client.topology_description.server_descriptions()
    return ",".join(sorted(host if port is None else f"{host}:{port}" for host, port in known)) or "its address"


def reason(error: PyMongoError) -> str:
    """The message of the driver or the server, without the topology, the timeouts and the whole reply."""
    if isinstance(error, OperationFailure) and error.details:
        return f"{error.details.get('errmsg', 'no reason given')} (code {error.code})".replace(". (", " (")
    return str(error).split(" (configured timeouts", 1)[0].split(", Timeout:", 1)[0].rstrip(".")


def server_message(error: BaseException | None) -> str:
    """Why the server could not evaluate an expression, without the name of the command and the code."""
    details = error.details if isinstance(error, OperationFailure) else None
    return str((details or {}).get("errmsg", error)).rsplit(" :: caused by :: ", 1)[-1]


def _refused_login(database: Database[Any]) -> AccessDenied:
    """The server does not say whether the user, the password or the authentication database is wrong, so the message
    names all three."""
    address = address_of(database)
    credentials = database.client.options.pool_options._credentials  # noqa: SLF001 - the driver has no public name
    auth_database = str(credentials.source) if credentials else database.name
    is_of_url = auth_database == database.name
    where = f"the database {auth_database!r}" + (", the one that the URL names" if is_of_url else " (authSource)")
    return AccessDenied(
        f"{hosts(database)} refused the user name or the password: it found no such user with this password in"
        f" {where}.",
        hint=f"Check the database name at the end of {address.variable}, then {address.user_variable} and"
        f" {address.password_variable}, or those in the URL. A user that was created in another database needs that one"
        " as authSource, such as ?authSource=admin at the end of the URL.",
    )


def _unauthorized(error: OperationFailure, database: Database[Any]) -> AccessDenied:
    if "requires authentication" in str(error):
        address = address_of(database)
        return AccessDenied(
            f"{hosts(database)} requires a user name and a password.",
            hint=f"Set {address.user_variable} and {address.password_variable}, or put both into {address.variable}.",
        )
    lacking = f"lacks the privileges of the role `read` on the database {database.name!r} at {hosts(database)}."
    if login := _login(database):
        user, auth_database = login
        role = [{"role": "read", "db": database.name}]
        return AccessDenied(
            f"The MongoDB user {user!r} {lacking}", hint=hints.mongosh(auth_database, "grantRolesToUser", user, role)
        )
    return AccessDenied(f"The MongoDB user {lacking}", hint="Grant it that role.")


def _login(database: Database[Any]) -> tuple[str, str] | None:
    """The user of this connection and the database in which it was created."""
    try:
        users = database.client.admin.command("connectionStatus")["authInfo"]["authenticatedUsers"]
    except PyMongoError:
        return None
    return (str(users[0]["user"]), str(users[0]["db"])) if users else None
