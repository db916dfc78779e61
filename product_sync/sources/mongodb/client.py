"""Opens the connection to the product service's MongoDB and closes it, whatever happens in between.

The driver connects on first use and waits 30 s for a server: a wrong host would show as a hang in the middle of
a run. Here the first contact is made at once, with time limits, and its failure says which setting is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import ConfigurationError as DriverConfigurationError
from pymongo.errors import PyMongoError

from product_sync.errors import ConfigurationError
from product_sync.sources.mongodb.errors import translated
from product_sync.sources.mongodb.url import VARIABLE, Address, parse

#: Milliseconds where the name says so. What the URL sets itself is left as it is there.
_DEFAULTS: dict[str, Any] = {
    "appname": "product_sync",
    "serverSelectionTimeoutMS": 10_000,
    "connectTimeoutMS": 10_000,
    "socketTimeoutMS": 60_000,
    "retryReads": True,
}


def check_address(url: str, *, user: str | None = None, password: str | None = None) -> Address:
    """The address, taken apart; opens no connection. Raises `ConfigurationError` as `connect` does."""
    if (not user) != (not password):
        given, absent = ("MONGO_USER", "MONGO_PASSWORD") if user else ("MONGO_PASSWORD", "MONGO_USER")
        raise ConfigurationError(
            f"{given} is set, but {absent} is not.", hint=f"Set both, or neither and put them into {VARIABLE}."
        )
    return parse(url)


@contextmanager
def connect(
    url: str, *, user: str | None = None, password: str | None = None, within_s: float | None = None
) -> Iterator[Database[dict[str, Any]]]:
    """The database that the URL names, on a connection that has answered once.

    ``user`` and ``password`` (``MONGO_USER``, ``MONGO_PASSWORD``) win over those in the URL, so that a secret
    store can replace them without touching the URL; an empty one counts as not given. They are looked up in the
    URL's ``authSource``, else in its database. ``within_s`` wins over the URL: seconds to find a server, to connect to
    it, and for each of its answers.

    Raises `ConfigurationError` for a URL that cannot be used or one of the two without the other, `Unreachable`
    after about ten seconds without a server, `AccessDenied` for a wrong user or password.
    """
    address = check_address(url, user=user, password=password)
    client = _client(url, address, user or None, password or None, _limits(within_s))
    database = client[address.database]
    try:
        try:
            # The read preference of the URL: a set without a primary can still be read where it says so.
            client.admin.command("ping", read_preference=client.read_preference)
        except PyMongoError as error:
            raise translated(error, database) from error
        yield database
    finally:
        client.close()


def _limits(within_s: float | None) -> dict[str, Any]:
    names = ("serverSelectionTimeoutMS", "connectTimeoutMS", "socketTimeoutMS")
    return {} if within_s is None else dict.fromkeys(names, int(within_s * 1000))


def _client(
    url: str, address: Address, user: str | None, password: str | None, limits: dict[str, Any]
) -> MongoClient[dict[str, Any]]:
    settings = {name: value for name, value in _DEFAULTS.items() if name.lower() not in address.options}
    settings |= limits
    if user is not None:
        settings |= {"username": user, "password": password}
    try:
        return MongoClient(url.strip(), connect=False, **settings)
    except (DriverConfigurationError, OSError, ValueError, TypeError) as error:
        fault = type(error).__name__ if "@" in url or password else f"{type(error).__name__}: {error}"
    # Outside the handler: the driver's error may quote what the URL holds, and would else travel along.
    raise ConfigurationError(f"{VARIABLE} for {address.display} cannot be used ({fault}).", hint="Check its options.")
