"""Opens the connection to MongoDB, and always closes it.

The driver connects on first use and waits 30 s for a server, so a wrong host would look like a hang in the middle of a
run. Here the connection is tested at once, with time limits, and an error says which setting is wrong.
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

#: Defaults for the options that the URL does not set. Names with MS are milliseconds.
_DEFAULTS: dict[str, Any] = {
    "appname": "product_sync",
    "serverSelectionTimeoutMS": 10_000,
    "connectTimeoutMS": 10_000,
    "socketTimeoutMS": 60_000,
    "retryReads": True,
}


def check_address(url: str, *, user: str | None = None, password: str | None = None) -> Address:
    """Parse the address without a connection. Raises `ConfigurationError` as `connect` does."""
    if (not user) != (not password):
        given, absent = ("MONGO_USER", "MONGO_PASSWORD") if user else ("MONGO_PASSWORD", "MONGO_USER")
        raise ConfigurationError(
            f"{given} is set, but {absent} is not.", hint=f"Set both, or set neither and write them in {VARIABLE}."
        )
    return parse(url)


@contextmanager
def connect(
    url: str, *, user: str | None = None, password: str | None = None, within_s: float | None = None
) -> Iterator[Database[dict[str, Any]]]:
    """The database that the URL names, on a connection that has replied once.

    ``user`` and ``password`` (``MONGO_USER``, ``MONGO_PASSWORD``) replace those of the URL, so that a secret store can
    set them; an empty one counts as not given. The server looks them up in the URL's ``authSource``, else in its
    database. ``within_s`` replaces the URL's time limits: seconds to find a server, to connect, and for each reply.

    Raises `ConfigurationError` for an unusable URL and for a user without a password or the reverse, `Unreachable`
    after about ten seconds without a server, `AccessDenied` for a wrong user or password.
    """
    address = check_address(url, user=user, password=password)
    client = _client(url, address, user or None, password or None, _limits(within_s))
    database = client[address.database]
    try:
        try:
            # With the read preference of the URL, which may allow reads of a set without a primary.
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
    # Not raised in the handler: the driver's error may quote the URL and would be chained to this one.
    raise ConfigurationError(f"{VARIABLE} for {address.display} cannot be used ({fault}).", hint="Check its options.")
