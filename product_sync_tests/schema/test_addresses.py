"""Each sync may have variables of its own for its addresses. An error names those, and never the address."""

from __future__ import annotations

import pytest

from product_sync import api
from product_sync.schema.definition import SourceSpec, SyncDefinition, TargetSpec, load_definition

SOURCE = SourceSpec(
    collection="sellers", url_variable="SHOP_URL", user_variable="SHOP_USER", password_variable="SHOP_PASSWORD"
)
SELLERS: SyncDefinition = load_definition().model_copy(
    update={
        "name": "sellers",
        "source": SOURCE,
        "target": TargetSpec.model_validate({"table": "seller", "url_variable": "MARKET_URL"}),
    }
)
GOOD = {"SHOP_URL": "mongodb://127.0.0.1:1/shop?serverSelectionTimeoutMS=1", "MARKET_URL": "postgresql://127.0.0.1:1/x"}


@pytest.mark.parametrize(
    ("side", "env", "named"),
    [
        ("mongodb", {"SHOP_URL": ""}, "SHOP_URL is not set"),
        ("mongodb", {"SHOP_URL": "hush"}, "SHOP_URL does not begin with mongodb://"),
        ("mongodb", {"SHOP_URL": "mongodb://h"}, "SHOP_URL names no database"),
        ("mongodb", {"SHOP_URL": "mongodb://u:hu@sh@h/shop"}, "SHOP_URL has a user name or password"),
        ("mongodb", {"SHOP_URL": "mongodb://h/shop?tls=hush"}, "SHOP_URL has options"),
        ("mongodb", {"SHOP_USER": "hush"}, "SHOP_USER is set, but SHOP_PASSWORD is not"),
        ("mongodb", {"SHOP_PASSWORD": "hush"}, "SHOP_PASSWORD is set, but SHOP_USER is not"),
        ("mongodb", {}, "Check that it runs and that SHOP_URL has the right host"),
        ("postgres", {"MARKET_URL": ""}, "MARKET_URL is not set"),
        ("postgres", {"MARKET_URL": "mysql://hush"}, "MARKET_URL is not a valid address"),
        ("postgres", {"MARKET_URL": "postgresql://u:hu@sh@h/x"}, "MARKET_URL is not a valid address"),
        ("postgres", {}, "Check that the server runs and that MARKET_URL names it"),
    ],
)
def test_an_error_of_an_address_names_the_variables_of_its_sync(
    monkeypatch: pytest.MonkeyPatch, side: str, env: dict[str, str], named: str
) -> None:
    for name, value in (GOOD | env).items():
        monkeypatch.setenv(name, value)
    report = api.doctor(sync=SELLERS)
    error = getattr(report, side).error
    text = f"{error.message} {error.hint}"
    assert named in text
    assert not any(other in text for other in ("PRODUCT_SERVICE_MONGODB_URL", "CART_DB_URL", "MONGO_", "hush"))
