"""Parses a MongoDB URL before the driver gets it, and shows it without its secrets.

The driver only warns about an unknown or unreadable option: with ``tls=ture`` it would continue without encryption. Its
messages can quote a part of a password with an unescaped character. And a URL without a database would fail at the
first query, not at the start.

The syntax of the URL is in the MongoDB manual, "Connection Strings".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import ConfigurationError as DriverConfigurationError
from pymongo.uri_parser import parse_userinfo, split_hosts, split_options

from product_sync.errors import ConfigurationError
from product_sync.schema.addresses import SourceAddress

_HINT = "Expected: mongodb://host:27017/shop, where shop is the database."
_SCHEMES = ("mongodb", "mongodb+srv")
_DATABASE = re.compile(r'[^/\\. "$*<>:|?@\x00]{1,63}')
_HOST = re.compile(r"[\w.:-]+|/.+", re.ASCII)
_SECRET_OPTIONS = ("password", "authmechanismproperties")


@dataclass(frozen=True, slots=True)
class Place:
    """The parts of a URL without its credentials. ``display`` has no options either. ``hosts`` are sorted, in lower
    case and with their ports, so two spellings of one source are equal. ``options`` are the names of the options in
    lower case."""

    display: str
    hosts: str
    database: str
    options: frozenset[str]


def parse(address: SourceAddress) -> Place:
    """Raises `ConfigurationError` for an unusable URL. The message names the variable and never quotes the URL."""
    scheme, separator, rest = address.url.strip().partition("://")
    if not separator or scheme not in _SCHEMES:
        raise _unusable(address, "does not begin with mongodb:// or mongodb+srv://")
    authority, _, tail = rest.partition("/")
    userinfo, at_sign, hosts = authority.rpartition("@")
    path, _, options = tail.partition("?")
    if at_sign:
        _check_userinfo(address, userinfo)
    database = unquote(path)
    if not database:
        raise _unusable(address, "names no database")
    if not _DATABASE.fullmatch(database):
        raise _unusable(address, "has no valid database name after the host (a / in a password must be written as %2F)")
    shown = _display_hosts(address, hosts, scheme)
    return Place(
        display=f"{scheme}://{shown}/{quote(database)}",
        hosts=shown,
        database=database,
        options=_option_names(address, options),
    )


def without_credentials(address: SourceAddress) -> str:
    """The URL for logs, the UI and the state key: scheme, hosts and database. Raises the errors of `parse`."""
    return parse(address).display


def _check_userinfo(address: SourceAddress, userinfo: str) -> None:
    try:
        parse_userinfo(userinfo)
    except (DriverConfigurationError, ValueError) as error:
        raise _unusable(
            address,
            "has a user name or password that cannot be read: characters such as @ : / % must be percent-encoded there",
        ) from error


def _display_hosts(address: SourceAddress, hosts: str, scheme: str) -> str:
    try:
        pairs = split_hosts(hosts, None if scheme == "mongodb+srv" else 27017)
    except (DriverConfigurationError, ValueError) as error:
        raise _unusable(address, f"has hosts that cannot be read ({error})") from error
    if not all(_HOST.fullmatch(host) for host, _ in pairs):
        raise _unusable(address, "has hosts that cannot be read")
    return ",".join(sorted(_display_host(host, port) for host, port in pairs))


def _display_host(host: str, port: int | None) -> str:
    if host.startswith("/"):
        return quote(host, safe="")
    name = f"[{host}]" if ":" in host else host
    return name if port is None else f"{name}:{port}"


def _option_names(address: SourceAddress, options: str) -> frozenset[str]:
    if not options:
        return frozenset()
    try:
        return frozenset(name.lower() for name in split_options(options, validate=True, warn=False))
    except (DriverConfigurationError, ValueError, TypeError) as error:
        reason = str(error)
    except OSError as error:
        # The driver reads the file of tlsCAFile here.
        reason = f"{error.filename}: {error.strerror}"
    # Not raised in the handler: the driver's error may quote the value and would be chained to this one.
    if any(secret in options.lower() for secret in _SECRET_OPTIONS):
        reason = "not shown, because they contain a secret"
    raise _unusable(address, f"has options that cannot be used: {reason.rstrip('.')}")


def _unusable(address: SourceAddress, fault: str) -> ConfigurationError:
    return ConfigurationError(f"{address.variable} {fault}.", hint=_HINT)


class SourceClient(MongoClient[dict[str, Any]]):
    """The driver's client, with the address it was made from: an error of any of its reads names the variables."""

    def __init__(self, address: SourceAddress, **options: Any) -> None:
        self.source_address = address
        super().__init__(address.url.strip(), connect=False, **options)


def address_of(database: Database[Any]) -> SourceAddress:
    """The address of the client to which ``database`` belongs."""
    client = database.client
    return client.source_address if isinstance(client, SourceClient) else SourceAddress("")
