"""Encrypted and verified to both servers, with passwords that are proven and not sent (SCRAM); else nothing is done.

The MongoDB server speaks TLS itself and takes no other connection. PostgreSQL's stands behind a proxy that does.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from product_sync import api
from product_sync.errors import ConfigurationError, NotAttempted, Untrusted
from product_sync.schema.addresses import SourceAddress, TargetAddress
from product_sync.sources import mongodb
from product_sync.targets.postgres.connection import connect
from product_sync_tests.market import Market, product, products
from product_sync_tests.network import LocalServer, address_through
from product_sync_tests.sources.private_mongod import PrivateMongod, private_mongod
from product_sync_tests.targets.postgres_tables import PASSWORD, Role, execute, role
from product_sync_tests.tls import Certificates, TlsProxy, issue, through, tls_proxy

pytestmark = pytest.mark.usefixtures("in_memory")

NAME = "localhost"
ADDRESS = "127.0.0.1"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return issue(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def mongod(certificates: Certificates) -> Iterator[PrivateMongod]:
    """A server that takes nothing but TLS and users with a password; ``reader`` may read the database ``shop``."""
    options = ("--tlsMode", "requireTLS", "--tlsCertificateKeyFile", str(certificates.server))
    trust: dict[str, Any] = {"host": NAME, "tls": True, "tlsCAFile": str(certificates.ca)}
    without_client_certificate = ("--tlsCAFile", str(certificates.ca), "--tlsAllowConnectionsWithoutCertificates")
    with private_mongod("--auth", *options, *without_client_certificate, **trust) as server:
        with MongoClient[dict[str, Any]](**trust, port=server.port) as client:
            client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
        with MongoClient[dict[str, Any]](**trust, port=server.port, username="root", password=PASSWORD) as client:
            client["shop"].command("createUser", "reader", pwd=PASSWORD, roles=["read"], mechanisms=["SCRAM-SHA-256"])
            client["shop"]["products"].insert_many(products(3))
        yield server


def source_url(server: PrivateMongod, ca: Path, *, host: str = NAME, port: int = 0) -> str:
    tls = f"tls=true&tlsCAFile={ca}&authMechanism=SCRAM-SHA-256&serverSelectionTimeoutMS=1000"
    return f"mongodb://reader:{PASSWORD}@{host}:{port or server.port}/shop?{tls}"


@pytest.fixture
def clerk(market: Market) -> Iterator[Role]:
    """A role with the rights of a sync. The server knows its password as a SCRAM verifier only."""
    with role(market.cart_url, "GRANT SELECT, INSERT, UPDATE ON product TO {}") as user:
        yield user


def target_url(user: Role, proxy: TlsProxy, ca: Path | str, *, host: str = NAME, mode: str = "verify-full") -> str:
    options = f"sslmode={mode}&sslrootcert={ca}&require_auth=scram-sha-256"
    return through(user.url, proxy.port, host=host, options=options)


def test_a_sync_runs_with_both_servers_verified_and_nothing_goes_unencrypted(
    market: Market, mongod: PrivateMongod, clerk: Role, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = execute(market.cart_url, f"SELECT rolpassword FROM pg_authid WHERE rolname = '{clerk.name}'")
    assert verifier[0][0].startswith("SCRAM-SHA-256$")
    with tls_proxy(clerk.url, certificates.server, greets=True) as proxy:
        market.env |= {
            "PRODUCT_SERVICE_MONGODB_URL": source_url(mongod, certificates.ca),
            "CART_DB_URL": target_url(clerk, proxy, certificates.ca),
            "SYNC_PACING": "adaptive",
        }
        market.enter(monkeypatch)
        assert api.sync(settle_seconds=0).raise_for_error().inserted == 3
        assert api.validate().raise_for_error().valid
        encrypted = proxy.sessions
    assert market.rows().keys() == {"p0000", "p0001", "p0002"}
    # The proxy sends everybody away who does not ask for TLS: all sessions were encrypted, and there were several.
    assert encrypted >= 5


class TestTarget:
    @pytest.mark.parametrize(
        ("certificate", "ca", "host", "named"),
        [
            ("server", "stranger", NAME, "unable to get local issuer certificate"),
            ("expired", "ca", NAME, "certificate has expired"),
            ("server", "ca", ADDRESS, 'server certificate for "localhost" does not match host name "127.0.0.1"'),
        ],
    )
    def test_a_certificate_that_does_not_hold_is_refused_and_the_reason_named(
        self, clerk: Role, certificates: Certificates, certificate: str, ca: str, host: str, named: str
    ) -> None:
        with tls_proxy(clerk.url, getattr(certificates, certificate), greets=True) as proxy:
            url = target_url(clerk, proxy, getattr(certificates, ca), host=host)
            with pytest.raises(Untrusted) as caught:
                connect(TargetAddress(url))
        assert named in caught.value.message
        assert f"{host}:{proxy.port}" in caught.value.message
        assert "sslrootcert" in caught.value.hint
        assert PASSWORD not in str(caught.value)

    def test_the_reason_is_also_found_behind_the_path_of_a_socket(
        self, clerk: Role, certificates: Certificates
    ) -> None:
        with tls_proxy(clerk.url, certificates.expired, greets=True) as proxy:
            url = target_url(clerk, proxy, certificates.ca, host=f"%2F{'a' * 70}:1,{NAME}")
            with pytest.raises(Untrusted, match="certificate has expired"):
                connect(TargetAddress(url))

    def test_a_server_without_tls_is_refused_where_tls_is_asked_for(
        self, clerk: Role, certificates: Certificates
    ) -> None:
        with pytest.raises(Untrusted, match="does not offer TLS"):
            connect(TargetAddress(f"{clerk.url}?sslmode=verify-full&sslrootcert={certificates.ca}"))

    def test_a_file_of_certificates_that_is_not_there_is_a_mistake_of_ours(
        self, clerk: Role, certificates: Certificates, tmp_path: Path
    ) -> None:
        with (
            tls_proxy(clerk.url, certificates.server, greets=True) as proxy,
            pytest.raises(ConfigurationError, match="sslrootcert") as caught,
        ):
            connect(TargetAddress(target_url(clerk, proxy, tmp_path / "absent.pem")))
        assert "absent.pem" in caught.value.message

    def test_a_password_in_the_clear_is_not_given_to_a_server_that_asks_for_it(self, clerk: Role) -> None:
        """``require_auth`` of libpq is passed on."""
        with closing(_AsksForPassword()) as server:
            url = f"{address_through(clerk.url, server.port)}?sslmode=disable"
            with pytest.raises(NotAttempted):
                connect(TargetAddress(url))
            assert PASSWORD.encode() in server.heard, "so it is without"
            server.heard = b""
            with pytest.raises(NotAttempted) as caught:
                connect(TargetAddress(f"{url}&require_auth=scram-sha-256"))
            assert PASSWORD.encode() not in server.heard
        assert "server requested a cleartext password" in caught.value.message


class _AsksForPassword(LocalServer):
    """Asks each client for its password in the clear, as no PostgreSQL with SCRAM does, and hears what it says."""

    heard = b""

    def _serve(self, client: socket.socket) -> None:
        client.recv(1_000)
        client.sendall(b"R" + (8).to_bytes(4, "big") + (3).to_bytes(4, "big"))
        self.heard += client.recv(1_000)
        client.close()


class TestSource:
    @pytest.mark.parametrize(
        ("ca", "host", "named"),
        [
            ("stranger", NAME, "self-signed certificate in certificate chain"),
            ("ca", ADDRESS, "IP address mismatch, certificate is not valid for '127.0.0.1'"),
        ],
    )
    def test_a_certificate_that_does_not_hold_is_refused_and_the_reason_named(
        self, mongod: PrivateMongod, certificates: Certificates, ca: str, host: str, named: str
    ) -> None:
        with (
            pytest.raises(Untrusted) as caught,
            mongodb.connect(SourceAddress(source_url(mongod, getattr(certificates, ca), host=host))),
        ):
            pass
        assert named in caught.value.message
        assert f"{host}:{mongod.port}" in caught.value.message
        assert "tlsCAFile" in caught.value.hint
        assert PASSWORD not in str(caught.value)

    def test_an_expired_certificate_is_refused_as_such(self, mongod: PrivateMongod, certificates: Certificates) -> None:
        with (
            tls_proxy(mongod.url(), certificates.expired, greets=False) as proxy,
            pytest.raises(Untrusted, match="certificate has expired"),
            mongodb.connect(SourceAddress(source_url(mongod, certificates.ca, port=proxy.port))),
        ):
            pass

    def test_a_server_that_takes_nothing_but_tls_is_not_spoken_to_without(self, mongod: PrivateMongod) -> None:
        url = f"mongodb://reader:{PASSWORD}@{NAME}:{mongod.port}/shop?serverSelectionTimeoutMS=1000"
        with pytest.raises(NotAttempted) as caught, mongodb.connect(SourceAddress(url)):
            pass
        assert PASSWORD not in str(caught.value)

    def test_a_file_of_certificates_that_is_not_there_is_a_mistake_of_ours(
        self, mongod: PrivateMongod, tmp_path: Path
    ) -> None:
        with (
            pytest.raises(ConfigurationError, match=r"PRODUCT_SERVICE_MONGODB_URL.*absent\.pem: No such file"),
            mongodb.connect(SourceAddress(source_url(mongod, tmp_path / "absent.pem"))),
        ):
            pass


def test_a_sync_with_an_untrusted_server_attempts_nothing(
    market: Market, clerk: Role, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.stock([product(1)])
    with tls_proxy(clerk.url, certificates.server, greets=True) as proxy:
        market.env["CART_DB_URL"] = target_url(clerk, proxy, certificates.stranger)
        market.enter(monkeypatch)
        report = api.sync()
    assert report.failure is not None
    assert (report.failure.code, report.exit_status) == ("untrusted", 3)
    assert market.rows() == {}
