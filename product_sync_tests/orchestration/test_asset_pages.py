"""An asset's page shows its owner, its documentation, its columns, and how old it may be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from product_sync.errors import ConfigurationError
from product_sync.orchestration.names import PRODUCT
from product_sync.settings import PageSettings
from product_sync_tests.shop import Shop, ids, product, project


def specs(settings: PageSettings) -> dict[str, dg.AssetSpec]:
    found = project(pages=settings).resolve_all_asset_specs()
    return {spec.key.to_user_string(): spec for spec in found}


def test_every_asset_has_a_group_a_kind_an_owner_a_description_and_a_link_to_the_documentation() -> None:
    for name, spec in specs(PageSettings(docs_url="https://docs.example/here")).items():
        assert spec.group_name, name
        assert spec.kinds, name
        assert spec.owners, name
        assert spec.description, name
        assert spec.metadata["docs"].value == f"https://docs.example/here/ui.md#{name}"
        assert f"(https://docs.example/here/ui.md#{name})" in spec.description


def test_only_the_proven_copy_has_an_age_that_it_may_not_exceed() -> None:
    policies = {name: spec.freshness_policy for name, spec in specs(PageSettings()).items()}
    proof = policies.pop(PRODUCT.proof)
    assert proof == dg.FreshnessPolicy.time_window(timedelta(minutes=60), timedelta(minutes=40))
    assert set(policies.values()) == {None}


@pytest.mark.parametrize(("minutes", "age"), [("90", timedelta(minutes=90)), ("0", None), ("", timedelta(minutes=60))])
def test_the_age_is_a_setting_in_minutes(minutes: str, age: timedelta | None) -> None:
    assert PageSettings.from_environment({"PRODUCT_SYNC_FRESH_MINUTES": minutes}).fresh_for == age


def test_the_shortest_age_of_a_minute_has_no_warning_before_it() -> None:
    policy = specs(PageSettings(fresh_minutes=1))[PRODUCT.proof].freshness_policy
    assert policy == dg.FreshnessPolicy.time_window(timedelta(minutes=1))


def test_owners_are_a_setting_and_those_of_the_two_databases_stay() -> None:
    found = specs(PageSettings.from_environment({"PRODUCT_SYNC_OWNERS": "team:catalogue, shop@example.org"}))
    assert found[PRODUCT.load].owners == ["team:catalogue", "shop@example.org"]
    assert found[PRODUCT.source].owners == ["team:product_service"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PRODUCT_SYNC_FRESH_MINUTES", "-1"),
        ("PRODUCT_SYNC_FRESH_MINUTES", "an hour"),
        ("PRODUCT_SYNC_OWNERS", "the shop"),
        ("PRODUCT_SYNC_DOCS_URL", "docs"),
    ],
)
def test_a_setting_that_cannot_be_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PageSettings.from_environment({name: value})
    assert name in caught.value.message
    assert caught.value.hint


def test_dagster_is_told_to_look_at_the_age(tmp_path: Path) -> None:
    shipped = (Path(__file__).parents[2] / "dagster.yaml").read_text().splitlines(keepends=True)
    (tmp_path / "dagster.yaml").write_text("".join(line for line in shipped if line.startswith(("freshness", "telem"))))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.freshness_enabled


def last_proof(shop: Shop) -> datetime | None:
    found = shop.instance.fetch_materializations(dg.AssetKey(PRODUCT.proof), limit=1).records
    return datetime.fromtimestamp(found[0].timestamp, UTC) if found else None


def test_a_sync_that_succeeds_proves_the_copy_and_nothing_else_does(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(10)))
    assert shop.run(dry_run=True).success
    assert last_proof(shop) is None, "a dry run does not count"

    first = shop.run()
    proven = first.materialized[PRODUCT.proof]
    assert (proven["proven_source_count"], proven["proven_target_count"], proven["dagster/row_count"]) == (10, 10, 10)
    assert first.materialized[PRODUCT.diff]["missing"] == 10
    at = last_proof(shop)
    assert at is not None

    assert shop.run(PRODUCT.validate_job).success
    assert shop.run(dry_run=True).success
    shop.remove(*ids(5))
    assert not shop.run().success
    assert last_proof(shop) == at, "neither a validation nor a dry run nor a failed run"


def test_a_sync_whose_load_went_through_but_whose_checks_are_red_proves_nothing(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(3)), product("bad", price="12"))
    outcome = shop.run()
    assert not outcome.success, "a quarter is quarantined"
    assert outcome.materialized[PRODUCT.load]["inserted"] == 3
    assert PRODUCT.proof not in outcome.materialized


def test_a_snapshot_tells_its_columns_with_where_they_come_from(shop: Shop) -> None:
    shop.put(product("a"))
    told = shop.run().materialized
    assert told[PRODUCT.source_snapshot]["dagster/row_count"] == 1
    assert told[PRODUCT.target_snapshot]["dagster/row_count"] == 0
    for name in (PRODUCT.source_snapshot, PRODUCT.target_snapshot):
        columns = {column.name: column for column in told[name]["dagster/column_schema"].columns}
        assert columns["id"].description == "from `_id`"
        assert columns["price"].type == "integer"
        assert columns["quantity"].description == "from `quantity`, 0 where it is missing"
