"""A dry run shows everything and changes nothing: not the target, not the quarantine, not what later runs go by."""

from __future__ import annotations

import dagster as dg
import pytest

from product_sync.orchestration import names
from product_sync.orchestration.names import PRODUCT
from product_sync.orchestration.run_history import last_successful_sync
from product_sync_tests.shop import Outcome, Shop, ids, product, project

LOAD_CHECKS = {
    names.EVERY_BATCH_LOADED, names.TARGET_MATCHES_SOURCE, names.NO_EXTRA_PRODUCTS, names.QUARANTINE_WITHIN_BUDGET
}  # fmt: skip


def with_drift(shop: Shop) -> None:
    """Ten synced products and one in quarantine; then one missing, one changed, one extra, one more that cannot go."""
    shop.put(*(product(name) for name in ids(199)), product("bad", price="12"))
    assert shop.run().success
    shop.put(product("new"), product("p0001", price=501), product("worse", title=None))
    shop.sql("INSERT INTO product VALUES ('gone', 't', 1, 'i', 's', 1)")


def test_a_dry_run_shows_what_a_sync_would_do_and_leaves_everything_as_it_was(shop: Shop) -> None:
    with_drift(shop)
    rows, files = shop.fingerprint, shop.files()
    last = last_successful_sync(shop.instance, PRODUCT, state_key(shop))
    dry = shop.run(dry_run=True)
    assert dry.success

    shown = dry.observed[PRODUCT.load]
    assert (shown["missing"], shown["changed"], shown["extra"], shown["quarantined"]) == (1, 1, 1, 2)
    assert shown["batches"] == 1
    assert shown["estimated_s"] > 0
    assert shown["privileges"] == "sufficient"
    differences = {
        (line["op"], line["id"], line["column"], line["old"], line["new"]) for line in shown["first_differences"]
    }
    assert ("update", "p0001", "price", "500", "501") in differences
    assert {line["id"] for line in shown["first_differences"]} == {"new", "p0001", "gone"}
    assert [line["why"] for line in shown["first_quarantined"]] == [
        'price: wrong_type ("12")',
        "title: missing_field (null)",
    ]

    assert shop.fingerprint == rows
    assert shop.files() == files
    assert last_successful_sync(shop.instance, PRODUCT, state_key(shop)) == last


def test_in_a_dry_run_the_load_is_observed_not_materialised_and_its_checks_are_skipped(shop: Shop) -> None:
    shop.put(product("a"))
    dry = shop.run(dry_run=True)
    assert set(dry.materialized) == {
        PRODUCT.source_snapshot,
        PRODUCT.target_snapshot,
        PRODUCT.diff,
        PRODUCT.drift_report,
    }
    assert set(dry.checks) == {names.SOURCE_LOOKS_COMPLETE, names.MAPPING_FITS_SOURCE, names.CHANGE_IS_PLAUSIBLE}
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED
    planned = {event.asset_check_planned_data.asset_check_key.name for event in dry.events if event.event_type is kind}
    assert planned - set(dry.checks) == LOAD_CHECKS, "which the UI shows as skipped where the run succeeded"
    assert shop.rows == {}


@pytest.mark.parametrize(
    ("job", "switch"),
    [
        (PRODUCT.sync_job, {"dry_run": True}),
        (PRODUCT.sync_job, {"ops": {"product_load": {"config": {"dry_run": True}}}}),
        (PRODUCT.sync_job, {"dry_run": False, "resources": {"sync": {"config": {"dry_run": True}}}}),
        (PRODUCT.dry_run_job, {"dry_run": False, "batch_size": 10}),
        (PRODUCT.sync_job, {"dryRun": True}),
        (PRODUCT.sync_job, {"dryRun": True, "dry_run": False}),
    ],
    ids=[
        "at the top",
        "of the load",
        "dry if any switch says so",
        "the dry job stays dry with a config of its own",
        "as GraphQL spells it",
        "either spelling is enough",
    ],
)
def test_each_of_the_switches_makes_a_run_dry(shop: Shop, job: str, switch: dict[str, object]) -> None:
    shop.put(product("a"))
    dry = shop.run(job, config=switch)
    assert dry.success
    assert PRODUCT.load in dry.observed
    assert shop.rows == {}
    assert_told_from_a_sync_at_first_sight(dry)


@pytest.mark.parametrize("of", ["ops: load", "resources: sync"])
def test_a_switch_makes_a_run_of_the_materialize_button_dry(shop: Shop, of: str) -> None:
    shop.put(product("a"))
    definition, (section, _, key) = project().resolve_implicit_global_asset_job_def(), of.partition(": ")
    ours = names.PRODUCT
    pipeline = [ours.source_snapshot, ours.target_snapshot, ours.diff, ours.load, ours.quarantine]
    result = definition.execute_in_process(
        instance=shop.instance,
        asset_selection=[dg.AssetKey(name) for name in pipeline],
        run_config={section: {{"load": ours.load}.get(key, key): {"config": {"dry_run": True}}}},
    )
    assert shop.rows == {}
    assert_told_from_a_sync_at_first_sight(Outcome(shop.instance, result.run_id, result.success))


def test_neither_a_dry_run_of_another_asset_nor_a_tag_of_the_parent_makes_a_run_dry(shop: Shop) -> None:
    @dg.asset(config_schema={"dry_run": bool})
    def mail_to_suppliers() -> None: ...

    shop.put(product("a"))
    both = dg.Definitions.merge(project(), dg.Definitions(assets=[mail_to_suppliers]))
    ours = names.PRODUCT
    pipeline = [ours.source_snapshot, ours.target_snapshot, ours.diff, ours.load, ours.quarantine, "mail_to_suppliers"]
    result = both.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=shop.instance,
        asset_selection=[dg.AssetKey(name) for name in pipeline],
        run_config={"ops": {"mail_to_suppliers": {"config": {"dry_run": True}}}},
        tags={names.DRY_RUN_TAG: "true", names.SCOPE_TAG: "ids"},
    )
    assert result.success
    assert list(shop.rows) == ["a"]
    run = shop.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert (run.tags[names.DRY_RUN_TAG], run.tags[names.SCOPE_TAG]) == ("false", "everything")


def assert_told_from_a_sync_at_first_sight(dry: Outcome) -> None:
    run = dry.instance.get_run_by_id(dry.run_id)
    assert run is not None
    assert run.tags[names.DRY_RUN_TAG] == "true"
    opening = next(entry for entry in dry.instance.all_logs(dry.run_id) if entry.dagster_event is None)
    assert opening.user_message.startswith("Dry run: nothing is written. From the collection products of ")
    [observation] = [
        event.asset_observation_data.asset_observation
        for event in dry.events
        if event.event_type is dg.DagsterEventType.ASSET_OBSERVATION
    ]
    assert observation.description
    assert observation.description.startswith("Dry run: nothing was written. A sync would pass the checks")
    assert next(iter(observation.metadata.items())) == ("dry_run", dg.TextMetadataValue("nothing was written"))


def test_the_ui_shows_one_product_and_in_how_many_documents_each_column_was_found(shop: Shop) -> None:
    shop.put({"_id": "a", "title": "x" * 30}, product("b", title="y" * 30, quantity=None))
    dry = shop.run(dry_run=True)
    assert dry.observed[PRODUCT.load]["sample"] == [
        {"column": "id", "source → target": '"b" (string) → b'},
        {"column": "title", "source → target": f'"{"y" * 18}… (string) → {"y" * 19}…'},
        {"column": "price", "source → target": "500 (int) → 500"},
        {"column": "image", "source → target": '"i.jpg" (string) → i.jpg'},
        {"column": "sellerId", "source → target": '"s1" (string) → s1'},
        {"column": "quantity", "source → target": "null → 0"},
    ]
    found = {"id": 2, "title": 2, "price": 1, "image": 1, "sellerId": 1, "quantity": 0}
    shown = dry.materialized[PRODUCT.source_snapshot]["found_by_column"]
    assert {row["column"]: int(row["documents"]) for row in shown} == found
    assert {row["column"]: row["from"] for row in shown} == {**{name: name for name in found}, "id": "_id"}


def test_a_dry_run_tries_no_batch_beside_a_sync_and_says_so(shop: Shop) -> None:
    shop.put(product("a"))
    with shop.locked():
        dry = shop.run(dry_run=True)
    assert dry.success
    assert dry.observed[PRODUCT.load]["estimated_s"] is None
    assert "another sync" in dry.observed[PRODUCT.load]["estimate"]


def state_key(shop: Shop) -> str:
    [folder] = [path.parent for path in shop.state.glob("*/runs")]
    return folder.name
