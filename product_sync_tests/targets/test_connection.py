"""Every form of an address is understood, each failure has its own error, and no error shows a password."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import pytest

from product_sync.errors import AccessDenied, ConfigurationError, ProductSyncError, Unreachable
from product_sync.schema.addresses import TargetAddress
from product_sync.targets.postgres.connection import application_name, connect, without_credentials
from product_sync_tests.targets.postgres_tables import PASSWORD, role


def _changed(url: str, *, scheme: str = "postgresql", netloc: str | None = None, path: str | None = None) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(scheme=scheme, netloc=netloc or parts.netloc, path=path or parts.path))


def _failure(url: str) -> ProductSyncError:
    with pytest.raises(ProductSyncError) as caught:
        connect(TargetAddress(url))
    # What Dagster stores and prints: the error and everything that it stems from.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2"])
def test_every_usual_scheme_is_understood(cart_url: str, scheme: str) -> None:
    with connect(TargetAddress(_changed(cart_url, scheme=scheme))) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_libpqs_own_form_is_understood(cart_url: str) -> None:
    parts = urlsplit(cart_url)
    text = f"host={parts.hostname} port={parts.port} dbname={parts.path[1:]} user={parts.username}"
    with connect(TargetAddress(f"{text} password={parts.password}")) as connection:
        assert connection.info.dbname == parts.path[1:]
    assert without_credentials(TargetAddress(f"{text} password=x")) == without_credentials(TargetAddress(cart_url))


def test_a_wrong_password_is_told_from_everything_else(cart_url: str) -> None:
    parts = urlsplit(cart_url)
    url = _changed(cart_url, netloc=f"{parts.username}:wr0ng-one@{parts.hostname}:{parts.port}")
    error = _failure(url)
    assert isinstance(error, AccessDenied)
    assert f"{parts.hostname}:{parts.port}{parts.path}" in error.message
    assert repr(parts.username) in error.message
    assert "wr0ng-one" not in str(error)


def test_an_unknown_role_and_a_missing_password_are_denied_too(cart_url: str) -> None:
    parts = urlsplit(cart_url)
    for user in ("no_such_role:x", str(parts.username)):
        assert isinstance(_failure(_changed(cart_url, netloc=f"{user}@{parts.hostname}:{parts.port}")), AccessDenied)


def test_a_role_without_the_right_to_connect_is_denied(cart_url: str) -> None:
    database = urlsplit(cart_url).path[1:]
    with connect(TargetAddress(cart_url)) as owner:
        owner.execute(f'REVOKE CONNECT ON DATABASE "{database}" FROM PUBLIC')
    with role(cart_url) as stranger:
        error = _failure(stranger.url)
    assert isinstance(error, AccessDenied)
    assert "permission denied" in error.message


def test_a_database_that_does_not_exist_is_a_configuration_error(cart_url: str) -> None:
    error = _failure(_changed(cart_url, path="/no%20such"))
    assert isinstance(error, ConfigurationError)
    assert "no database 'no such'" in error.message
    assert "CART_DB_URL" in error.hint


def test_a_port_where_nobody_listens_and_an_unknown_host_are_unreachable(cart_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for place in (f"127.0.0.1:{port}", "no-such-host.invalid:5432"):
        error = _failure(f"postgresql://user:{PASSWORD}@{place}/cart")
        assert isinstance(error, Unreachable)
        assert f"{place}/cart" in error.message
        assert PASSWORD not in str(error)


def test_a_server_that_accepts_and_says_nothing_is_unreachable_after_the_time_out() -> None:
    with _silent_server() as port:
        assert isinstance(_failure(f"postgresql://u:p@127.0.0.1:{port}/cart?connect_timeout=2"), Unreachable)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "   ",
        f"mysql://user:{PASSWORD}@host/cart",
        f"user:{PASSWORD}@host/cart",
        f"postgresql://user:{PASSWORD}@host/cart?schema=public",
        f"postgresql://user:{PASSWORD}@host:port/cart",
        # Special characters that are not percent-encoded: libpq would take the rest of the password for the host.
        f"postgresql://user:{PASSWORD}@{PASSWORD}@host/cart",
        f"postgresql://user:1/{PASSWORD}@host/cart",
        f"postgresql://user:{PASSWORD}#{PASSWORD}@host/cart",
        f"postgresql://user:{PASSWORD}[@host/cart#",
        f"postgresql://user:{PASSWORD}%zz@host/cart",
        f"postgresql://user:{PASSWORD}%ff@host/cart",
        f"host=h password={PASSWORD} no_such_parameter=1",
    ],
)
def test_an_address_that_is_none_is_named_and_not_quoted(url: str) -> None:
    error = _failure(url)
    assert isinstance(error, ConfigurationError)
    assert "CART_DB_URL" in error.message
    assert "postgresql://USER:PASSWORD@HOST:5432/DATABASE" in error.hint
    assert PASSWORD not in str(error)
    with pytest.raises(ConfigurationError):
        without_credentials(TargetAddress(url))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (f"postgresql://user:{PASSWORD}@db.example/cart", "db.example:5432/cart"),
        (f"postgres://user:{PASSWORD}@db.example:6543/cart?sslmode=require&sslpassword=x", "db.example:6543/cart"),
        (f"postgresql+psycopg://db.example/cart?user=u&password={PASSWORD}", "db.example:5432/cart"),
        (f"postgresql://u:{PASSWORD}@a:1,b:2/cart?target_session_attrs=read-write", "a:1,b:2/cart"),
        (f"postgresql://u:{PASSWORD}@a,b/cart", "a:5432,b:5432/cart"),
        (f"postgresql://u:{PASSWORD}@[::1]/cart", "[::1]:5432/cart"),
        (f"postgresql:///cart?host=/run/postgresql&user=u&password={PASSWORD}", "/run/postgresql:5432/cart"),
        (f"postgresql://u:{PASSWORD}@h", "h:5432/u"),
    ],
)
def test_an_address_is_shown_without_credentials(url: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)
    assert without_credentials(TargetAddress(url)) == address


def test_percent_encoded_credentials_are_decoded(cart_url: str) -> None:
    with role(cart_url, password="p@ss/w#rd?%:") as user, connect(TargetAddress(user.url)) as connection:
        assert connection.info.user == user.name


def test_a_session_names_the_run_the_host_and_the_process(cart_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "höst-" + "x" * 80)
    name = application_name("0a1b2c3d-4e5f-6789")
    assert len(name) <= 63
    with connect(TargetAddress(cart_url), application_name=name) as connection:
        assert connection.execute("SHOW application_name").fetchone() == (name,)
    assert name.startswith("product_sync 0a1b2c3d h?st-xxx")


def test_a_vanished_peer_is_noticed(cart_url: str) -> None:
    with connect(TargetAddress(cart_url)) as connection:
        given = connection.info.get_parameters()
    assert (given["connect_timeout"], given["keepalives_idle"], given["tcp_user_timeout"]) == ("10", "30", "60000")
    with connect(TargetAddress(f"{cart_url}?keepalives_idle=5")) as connection:
        assert connection.info.get_parameters()["keepalives_idle"] == "5"


@contextmanager
def _silent_server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
