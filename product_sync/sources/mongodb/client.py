"""Opens the connection to MongoDB, and always closes it.

The driver connects on first use and waits 30 s for a server, so a wrong host would look like a hang in the middle of a
run. Here the connection is tested at once, with time limits, and an error says which setting is wrong.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pymongo.database import Database
from pymongo.errors import ConfigurationError as DriverConfigurationError
from pymongo.errors import PyMongoError

from product_sync.errors import ConfigurationError
from product_sync.schema.addresses import SourceAddress
from product_sync.sources.mongodb.errors import translated
from product_sync.sources.mongodb.url import Place, SourceClient, parse

#: Defaults for the options that the URL does not set. Names with MS are milliseconds.
_DEFAULTS: dict[str, Any] = {
    "appname": "product_sync",
    "serverSelectionTimeoutMS": 10_000,
    "connectTimeoutMS": 10_000,
    "socketTimeoutMS": 60_000,
    "retryReads": True,
}
_LIMITS = ("serverSelectionTimeoutMS", "connectTimeoutMS", "socketTimeoutMS")
#: For a connection that is used every half minute. By default the driver asks each server every ten seconds how it is,
#: which would be most of the traffic. An error makes it ask at once.
_SELDOM: dict[str, Any] = {"serverMonitoringMode": "poll", "heartbeatFrequencyMS": 3_600_000, "maxIdleTimeMS": 300_000}


def check_address(address: SourceAddress) -> Place:
    """Parse the address without a connection. Raises `ConfigurationError` as `connect` does."""
    if (not address.user) != (not address.password):
        given, absent = address.user_variable, address.password_variable
        if not address.user:
            given, absent = absent, given
        raise ConfigurationError(
            f"{given} is set, but {absent} is not.",
            hint=f"Set both, or set neither and write them in {address.variable}.",
        )
    return parse(address)


@contextmanager
def connect(
    address: SourceAddress, *, within_s: float | None = None, seldom_used: bool = False
) -> Iterator[Database[dict[str, Any]]]:
    """The database that the URL names, on a connection that has replied once.

    The server looks up the user in the URL's ``authSource``, else in its database. ``within_s`` replaces the URL's time
    limits: seconds to find a server, to connect, and for each reply. ``seldom_used`` is for a connection that stays
    open and is used now and then.

    Raises `ConfigurationError` for an unusable URL and for a user without a password or the reverse, `Unreachable`
    after about ten seconds without a server, `AccessDenied` for a wrong user or password.
    """
    place = check_address(address)
    # `maxStalenessSeconds` needs what the servers say every ten seconds: the driver refuses it with a longer interval.
    seldom = _SELDOM if seldom_used and "maxstalenessseconds" not in place.options else {}
    client = _client(address, place, _DEFAULTS | seldom, within_s)
    database = client[place.database]
    try:
        try:
            # With the read preference of the URL, which may allow reads of a set without a primary.
            client.admin.command("ping", read_preference=client.read_preference)
        except PyMongoError as error:
            raise translated(error, database) from error
        yield database
    finally:
        client.close()


def _client(address: SourceAddress, place: Place, defaults: dict[str, Any], within_s: float | None) -> SourceClient:
    settings = {name: value for name, value in defaults.items() if name.lower() not in place.options}
    if within_s is not None:
        settings |= dict.fromkeys(_LIMITS, int(within_s * 1000))
    if address.user:
        settings |= {"username": address.user, "password": address.password}
    try:
        return SourceClient(address, **settings)
    except (DriverConfigurationError, OSError, ValueError, TypeError) as error:
        is_secret = "@" in address.url or address.password
        fault = type(error).__name__ if is_secret else f"{type(error).__name__}: {error}"
    # Not raised in the handler: the driver's error may quote the URL and would be chained to this one.
    raise ConfigurationError(
        f"{address.variable} for {place.display} cannot be used ({fault}).", hint="Check its options."
    )
