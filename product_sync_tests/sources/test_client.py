"""Getting in: what a person reads when the server, the login or the privileges are not as they should be."""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pymongo import MongoClient

from product_sync.errors import AccessDenied, ConfigurationError, ProductSyncError, Unreachable
from product_sync.schema.addresses import SourceAddress
from product_sync.schema.records import IdType, SourceId
from product_sync.sources.mongodb import MongoSource, connect, inspect
from product_sync_tests.source_contract import ids_of, product, product_row_schema
from product_sync_tests.sources.private_mongod import PrivateMongod, private_mongod

PASSWORD = "p@ss/w:rd%"
LOGIN = "reader:p%40ss%2Fw%3Ard%25@"


@pytest.fixture(scope="module")
def guarded() -> Iterator[PrivateMongod]:
    """A server with access control, a database ``shop`` with one product, and three users of ``shop``: ``reader`` with
    the role read, ``narrow`` who may find in the collection alone, ``nobody`` who may do nothing."""
    with private_mongod("--auth", "--setParameter", "enableTestCommands=1") as server:
        with MongoClient[dict[str, Any]]("127.0.0.1", server.port) as client:
            # The first user may be made without a login, from this machine.
            client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
        with MongoClient[dict[str, Any]](
            "127.0.0.1", server.port, username="root", password=PASSWORD, authSource="admin"
        ) as client:
            shop = client["shop"]
            shop["products"].insert_one(product("a"))
            find = {"resource": {"db": "shop", "collection": "products"}, "actions": ["find"]}
            shop.command("createRole", "finder", privileges=[find], roles=[])
            for user, roles in {"reader": ["read"], "narrow": ["finder"], "nobody": []}.items():
                shop.command("createUser", user, pwd=PASSWORD, roles=roles)
        yield server


def everything_shown(error: ProductSyncError) -> str:
    return "".join(traceback.format_exception(error)) + str(error)


class TestReachability:
    def test_no_server_is_told_within_seconds_with_the_address_and_without_the_password(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        url = f"mongodb://{LOGIN}127.0.0.1:{port}/shop?serverSelectionTimeoutMS=500"
        started = time.monotonic()

        with pytest.raises(Unreachable) as caught, connect(SourceAddress(url)):
            pass

        assert time.monotonic() - started < 5
        assert f"127.0.0.1:{port}" in caught.value.message
        assert "Connection refused" in caught.value.message
        assert "Topology" not in caught.value.message
        assert not any(secret in everything_shown(caught.value) for secret in (PASSWORD, LOGIN))
        assert caught.value.exit_status == 3

    def test_a_replica_set_of_another_name_is_told_at_once(self, mongodb_url: str) -> None:
        url = mongodb_url.split("?", maxsplit=1)[0] + "?replicaSet=other&serverSelectionTimeoutMS=500"

        with pytest.raises(Unreachable, match="other"), connect(SourceAddress(url)):
            pass

    def test_the_connection_is_closed_also_after_an_error(self, mongodb_url: str) -> None:
        def use() -> None:
            with connect(SourceAddress(mongodb_url)) as database:
                clients.append(database.client)
                raise RuntimeError

        clients: list[MongoClient[dict[str, Any]]] = []
        with pytest.raises(RuntimeError):
            use()
        with pytest.raises(Exception, match="after close"):
            clients[0].admin.command("ping")

    def test_the_time_limits_of_the_url_win(self, mongodb_url: str) -> None:
        with connect(SourceAddress(mongodb_url + "&socketTimeoutMS=1234")) as database:
            assert database.client.options.pool_options.socket_timeout == 1.234
            assert database.client.options.pool_options.connect_timeout == 10
            assert database.client.options.retry_reads


class TestLogin:
    def test_the_login_may_stand_in_the_url(self, guarded: PrivateMongod) -> None:
        with connect(SourceAddress(guarded.url(login=LOGIN))) as shop:
            assert ids_of(list(MongoSource(shop, product_row_schema()).snapshot())) == [SourceId(IdType.STRING, "a")]

    def test_the_login_may_stand_beside_the_url(self, guarded: PrivateMongod) -> None:
        with connect(SourceAddress(guarded.url(), "reader", PASSWORD)) as shop:
            assert MongoSource(shop, product_row_schema()).estimated_count() == 1

    def test_the_login_beside_the_url_wins(self, guarded: PrivateMongod) -> None:
        with connect(SourceAddress(guarded.url(login="nobody:wrong@"), "reader", PASSWORD)) as shop:
            assert MongoSource(shop, product_row_schema()).estimated_count() == 1

    def test_an_empty_login_beside_the_url_counts_as_none(self, guarded: PrivateMongod) -> None:
        with connect(SourceAddress(guarded.url(login=LOGIN), "", "")) as shop:
            assert MongoSource(shop, product_row_schema()).estimated_count() == 1

    @pytest.mark.parametrize(
        ("login", "named"),
        [
            ({"user": "reader"}, "MONGO_USER is set, but MONGO_PASSWORD is not"),
            ({"password": "topsecret"}, "MONGO_PASSWORD is set, but MONGO_USER is not"),
        ],
    )
    def test_half_a_login_is_a_mistake(self, login: dict[str, str], named: str) -> None:
        with (
            pytest.raises(ConfigurationError, match=named) as caught,
            connect(SourceAddress("mongodb://host/shop", **login)),
        ):
            pass

        assert "topsecret" not in str(caught.value)

    def test_a_refused_login_names_the_variables_of_its_sync(self, guarded: PrivateMongod) -> None:
        address = SourceAddress(guarded.url(), "reader", "wrong", "SHOP_URL", "SHOP_USER", "SHOP_PASSWORD")
        with pytest.raises(AccessDenied) as refused, connect(address):
            pass
        with (
            pytest.raises(AccessDenied) as anonymous,
            connect(replace(address, user=None, password=None)) as shop,
        ):
            list(MongoSource(shop, product_row_schema()).snapshot())
        for hint in (refused.value.hint, anonymous.value.hint):
            assert all(name in hint for name in ("SHOP_URL", "SHOP_USER", "SHOP_PASSWORD"))
            assert "MONGO_" not in hint

    def test_the_error_names_the_database_in_which_the_user_was_looked_up(self, guarded: PrivateMongod) -> None:
        with (
            pytest.raises(AccessDenied, match="'shpo', the one that the URL names") as caught,
            connect(SourceAddress(guarded.url("shpo"), "reader", PASSWORD)),
        ):
            pass
        assert caught.value.hint.startswith("Check the database name at the end of PRODUCT_SERVICE_MONGODB_URL")

    def test_a_wrong_password_is_told_as_such_and_not_shown(self, guarded: PrivateMongod) -> None:
        with (
            pytest.raises(AccessDenied, match="user name or the password") as caught,
            connect(SourceAddress(guarded.url(), "reader", "topsecret")),
        ):
            pass

        assert "authSource=admin" in caught.value.hint
        assert "topsecret" not in everything_shown(caught.value)

    def test_an_option_that_does_not_fit_the_login_is_told_without_the_login(self) -> None:
        url = "mongodb://reader:topsecret@host/shop?authMechanism=MONGODB-X509"

        with (
            pytest.raises(ConfigurationError, match="PRODUCT_SERVICE_MONGODB_URL") as caught,
            connect(SourceAddress(url)),
        ):
            pass

        assert "topsecret" not in everything_shown(caught.value).split("Error: ", 1)[1]
        assert caught.value.__context__ is None


class TestPrivileges:
    @pytest.mark.parametrize("user", ["nobody", "narrow"])
    def test_a_user_without_the_role_is_told_which_one_to_grant(self, guarded: PrivateMongod, user: str) -> None:
        with (
            connect(SourceAddress(guarded.url(), user, PASSWORD)) as shop,
            pytest.raises(AccessDenied, match="`read`") as caught,
        ):
            list(MongoSource(shop, product_row_schema()).snapshot())

        roles = '[{"role": "read", "db": "shop"}]'
        assert caught.value.hint == f'db.getSiblingDB("shop").grantRolesToUser("{user}", {roles})'

    def test_a_server_that_wants_a_login_says_so(self, guarded: PrivateMongod) -> None:
        with (
            connect(SourceAddress(guarded.url())) as shop,
            pytest.raises(AccessDenied, match="requires a user name") as caught,
        ):
            list(MongoSource(shop, product_row_schema()).snapshot())

        assert "MONGO_USER" in caught.value.hint

    def test_a_privilege_taken_away_in_mid_read_is_told_as_such(self, guarded: PrivateMongod) -> None:
        with (
            connect(SourceAddress(guarded.url(), "reader", PASSWORD)) as shop,
            MongoClient[dict[str, Any]](
                guarded.url(), username="root", password=PASSWORD, authSource="admin"
            ) as administrator,
        ):
            reading = MongoSource(shop, product_row_schema())
            assert reading.fetch([SourceId(IdType.STRING, "a")]).documents == 1
            administrator["shop"].command("revokeRolesFromUser", "reader", roles=["read"])
            try:
                with pytest.raises(AccessDenied):
                    reading.fetch([SourceId(IdType.STRING, "a")])
            finally:
                administrator["shop"].command("grantRolesToUser", "reader", roles=["read"])


class TestInspect:
    def test_a_replica_set_without_access_control_grants_everything(self, mongodb_url: str) -> None:
        with connect(SourceAddress(mongodb_url)) as database:
            absent = inspect(database, "products")
            database["products"].insert_one(product("a"))
            health = inspect(database, "products")

        assert absent.estimated_count == 0
        assert health.estimated_count == 1
        assert health.replica_set is not None
        assert (health.granted, health.lacking) == (("find", "listCollections"), ())
        assert health.version[0].isdigit()
        assert 0.01 < health.latency_ms < 60_000, "milliseconds"

    @pytest.mark.parametrize(
        ("user", "granted", "count"),
        [
            ("reader", ("find", "listCollections"), 1),
            ("narrow", ("find",), 1),
            ("nobody", (), None),
        ],
    )
    def test_missing_privileges_are_an_answer_and_no_error(
        self, guarded: PrivateMongod, user: str, granted: tuple[str, ...], count: int | None
    ) -> None:
        with connect(SourceAddress(guarded.url(), user, PASSWORD)) as shop:
            health = inspect(shop, "products")

        assert health.granted == granted
        assert set(health.lacking) == {"find", "listCollections"} - set(granted)
        assert health.estimated_count == count
        assert health.replica_set is None

    def test_without_a_login_on_a_guarded_server_nothing_is_granted(self, guarded: PrivateMongod) -> None:
        with connect(SourceAddress(guarded.url())) as shop:
            assert inspect(shop, "products").lacking == ("find", "listCollections")
