"""A MongoDB URL is parsed, and shown without its secrets."""

from __future__ import annotations

import traceback

import pytest

from product_sync.errors import ConfigurationError
from product_sync.schema.addresses import SourceAddress
from product_sync.sources.mongodb import without_credentials
from product_sync.sources.mongodb.url import parse


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mongodb://host/shop", "mongodb://host:27017/shop"),
        ("mongodb://user:hush@host:27018/shop", "mongodb://host:27018/shop"),
        ("mongodb://us%40er:hu%2Fsh@B,a:1/shop?replicaSet=rs", "mongodb://a:1,b:27017/shop"),
        ("mongodb://[::1]:27017/shop", "mongodb://[::1]:27017/shop"),
        ("mongodb://%2Ftmp%2Fmongodb-27017.sock/shop", "mongodb://%2Ftmp%2Fmongodb-27017.sock/shop"),
        ("mongodb+srv://user:hush@Cluster.example.net/shop?w=majority", "mongodb+srv://cluster.example.net/shop"),
        ("mongodb://h/shop?tls=true&tlsCertificateKeyFilePassword=hush", "mongodb://h:27017/shop"),
        (
            "mongodb://h/shop?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:hush",
            "mongodb://h:27017/shop",
        ),
    ],
)
def test_a_url_is_shown_as_hosts_and_database_alone(url: str, shown: str) -> None:
    assert without_credentials(SourceAddress(url)) == shown


def test_two_spellings_of_one_source_are_shown_alike() -> None:
    assert without_credentials(SourceAddress("mongodb://u:p@B:27017,a/shop?tls=true")) == without_credentials(
        SourceAddress("mongodb://a,b/shop")
    )


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "begin with mongodb://"),
        ("postgresql://hush@host/shop", "begin with mongodb://"),
        ("mongodb://host", "names no database"),
        ("mongodb://host:27017/", "names no database"),
        ("mongodb://host/?replicaSet=rs", "names no database"),
        ("mongodb://host/shop.products", "database name"),
        ("mongodb:///shop", "hosts"),
        ("mongodb://host:port/shop", "hosts"),
        ("mongodb://a b/shop", "hosts"),
        ("mongodb://user:hu@sh@host/shop", "percent-encoded"),
        ("mongodb://user:hush%zz@host/shop", "percent-encoded"),
        ("mongodb://user:hu/sh@host/shop", "%2F"),
        ("mongodb://user:27/hush@host/shop", "database name"),
        ("mongodb://user:27/hush@host", "database name"),
        ("mongodb://host/shop?tls=ture", "tls must be 'true' or 'false'"),
        ("mongodb://host/shop?tsl=true", "Unknown option: tsl"),
        ("mongodb://host/shop?replicaSet", "key=value"),
        ("mongodb://host/shop?tlsCertificateKeyFilePassword=hush&tls=1", "not shown"),
        ("mongodb://host/shop?authMechanismProperties=hush:hush", "not shown"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_by_variable_and_fault_without_being_quoted(url: str, fault: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(SourceAddress(url))

    assert "PRODUCT_SERVICE_MONGODB_URL" in str(caught.value)
    assert fault in str(caught.value)
    assert "mongodb://host:27017/shop" in caught.value.hint
    shown = "".join(traceback.format_exception(caught.value)).split("Error: ", 1)[1]
    assert not any(secret in shown for secret in ("hush", "hu@", "hu/", "sh@"))


def test_the_options_that_the_url_sets_are_known() -> None:
    assert parse(SourceAddress("mongodb://host/shop?socketTimeoutMS=5&READPREFERENCE=secondary")).options == {
        "sockettimeoutms",
        "readpreference",
    }
