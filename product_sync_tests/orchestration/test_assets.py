"""What each asset shows in the UI, what remains of it when a run fails, and which files a single asset needs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from product_sync.orchestration import names
from product_sync.orchestration.names import PRODUCT
from product_sync.orchestration.run_history import finished_runs, last_successful_sync
from product_sync.runtime.progress import Progress
from product_sync.schema.definition import DEFAULT_MAPPING
from product_sync_tests.shop import Shop, ids, product
from product_sync_tests.tables import read_table, write_table

#: A rule of the cart's table that a product can break, which the conversion cannot know.
NOT_NEGATIVE = "ALTER TABLE product ADD CONSTRAINT not_negative CHECK (price >= 0)"


def refuse_with(shop: Shop, sqlstate: str, when: str) -> None:
    """A trigger that raises ``sqlstate`` for the rows of ``when``."""
    shop.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION 'refused by the trigger' USING ERRCODE = '{sqlstate}'; END $$"
    )
    shop.sql(f"CREATE TRIGGER refuse BEFORE INSERT ON product FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION refuse()")


def test_the_source_snapshot_says_how_many_documents_the_filter_leaves_out(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.put(product("p1", status="active"), product("p2", status="sold"), product("p3"))
    mapping = tmp_path / "active.yaml"
    mapping.write_text(DEFAULT_MAPPING.read_text().replace("source:\n", "source:\n  filter: {status: active}\n", 1))
    monkeypatch.setenv("PRODUCT_SYNC_MAPPING", str(mapping))
    run = shop.materialize(PRODUCT.source_snapshot)
    found = run.materialized[PRODUCT.source_snapshot]
    assert (found["documents"], found["filtered_out"]) == (1, 2)
    assert "The filter leaves out 2 documents." in run.log


def test_every_materialisation_tells_its_counts_its_rate_its_duration_and_what_differed(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(3)), product("bad", price="12"))
    shop.sql("INSERT INTO product VALUES ('p0001', 'The p0001', 7, 'i.jpg', 's1', 1), ('x', 't', 1, 'i', 's', 1)")
    told = shop.run().materialized

    source, target = told[PRODUCT.source_snapshot], told[PRODUCT.target_snapshot]
    assert (source["documents"], source["rejected"], target["rows"]) == (4, 1, 2)
    assert source["rejected_by_reason"] == [{"name": "wrong_type", "rows": 1}]

    found = told[PRODUCT.diff]
    expected = {
        "source_count": 4,
        "target_count": 2,
        "missing": 2,
        "changed": 1,
        "extra": 1,
        "quarantined": 1,
        "refused": 0,
    }
    assert expected.items() <= found.items()
    assert {"op": "update", "id": "p0001", "column": "price", "old": "7", "new": "500"} in found["first_differences"]
    assert found["first_changed"] == [{"id": "p0001", "old → new": "price: 7 → 500"}]
    assert [line["id"] for line in found["first_missing"]] == ["p0000", "p0002"]
    assert [line["id"] for line in found["first_extra"]] == ["x"]
    assert {"name": "price", "rows": 1} in found["changed_by_column"]
    assert {"name": "title", "rows": 0} in found["changed_by_column"], "zeros are told"

    done = told[PRODUCT.load]
    expected_load: dict[str, Any] = {
        "planned": 3, "inserted": 2, "updated": 1, "deleted": 0, "conflicts": 0, "taken_back": 0, "kept_referenced": 0,
        "quarantined_in_load": 0, "batches": 1, "failed_batches": 0, "not_attempted_batches": 0, "retries": 0,
    }  # fmt: skip
    assert expected_load.items() <= done.items()
    assert "quarantined" not in done, "a dry run records another number under this name on the same page"
    assert not {"stopped", "failed", "plan_id", "no_deletion_because"} & set(done), "nothing to say of what went well"
    assert done["first_changed"] == found["first_changed"]

    kept = told[PRODUCT.quarantine]
    assert kept["quarantined"] == 1
    [entry] = kept["first_quarantined"]
    assert (entry["document"], entry["why"]) == ('"bad"', 'price: wrong_type ("12")')
    [whole] = kept["quarantine_entries"]
    assert whole["values"] == ['"12"']
    assert whole["first_seen"]
    for name in (
        PRODUCT.source_snapshot,
        PRODUCT.target_snapshot,
        PRODUCT.diff,
        PRODUCT.load,
        PRODUCT.quarantine,
    ):
        assert told[name]["duration_s"] > 0
        assert told[name]["rows_per_second"] > 0


def test_a_row_that_the_database_refuses_is_isolated_logged_and_tried_again_until_it_is_mended(shop: Shop) -> None:
    shop.sql(NOT_NEGATIVE)
    shop.put(*(product(name) for name in ids(120)), product("bad", price=-1))
    first = shop.run(batch_size=50)
    assert first.success
    assert first.materialized[PRODUCT.load]["inserted"] == 120
    [entry] = shop.quarantine.values()
    assert (entry["id"], list(entry["reasons"]), entry["attempts"]) == ("bad", ["refused_by_database"], 1)

    shop.put(product("new"))
    second = shop.run()
    assert second.materialized[PRODUCT.load]["batches"] == 2, "what was refused comes last, in a batch of its own"
    assert second.materialized[PRODUCT.load]["inserted"] == 1
    assert [entry["attempts"] for entry in shop.quarantine.values()] == [2]
    assert second.checks[names.QUARANTINE_WITHIN_BUDGET].metadata["kept_out_by_database"].value == 1

    shop.put(product("bad", price=1))
    assert shop.run().materialized[PRODUCT.load]["inserted"] == 1
    assert shop.quarantine == {}


def test_a_quarantined_product_leaves_when_it_is_deleted_at_the_source(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(200)), product("bad", price="12"))
    shop.run()
    assert len(shop.quarantine) == 1
    shop.remove("bad")
    assert shop.run().success
    assert shop.quarantine == {}


def test_a_load_that_stops_still_tells_its_counts_and_keeps_what_it_did_not_get_to(shop: Shop) -> None:
    shop.sql(NOT_NEGATIVE)
    shop.put(*(product(name) for name in ids(200)), product("bad", price=-1))
    assert shop.run().success
    refuse_with(shop, "42501", "NEW.id = 'x2'")
    shop.put(product("x1"), product("x2"), product("x3"))
    stopped = shop.run(batch_size=1)

    assert not stopped.success
    done = stopped.materialized[PRODUCT.load]
    assert (done["inserted"], done["batches"], done["failed_batches"], done["not_attempted_batches"]) == (1, 2, 1, 2)
    assert "refused by the trigger" in done["stopped"]
    assert done["failed"][0]["keys"] == "x2"
    assert not stopped.checks[names.EVERY_BATCH_LOADED].passed
    assert stopped.checks[names.TARGET_MATCHES_SOURCE].metadata["missing_ids"].value == ["x2", "x3"]
    assert stopped.materialized[PRODUCT.quarantine]["quarantined"] == 1
    assert [(entry["id"], entry["attempts"]) for entry in shop.quarantine.values()] == [("bad", 1)]


@pytest.mark.parametrize("launched_by", ["dagster/schedule_name", "dagster/sensor_name"])
def test_a_scheduled_run_that_meets_another_sync_is_skipped_with_the_reason(shop: Shop, launched_by: str) -> None:
    shop.put(product("a"))
    with shop.locked():
        outcome = shop.run(tags={launched_by: "product_sync_schedule"})
    assert outcome.success
    assert shop.rows == {}
    assert PRODUCT.load not in outcome.materialized, "no green load that was none"
    assert PRODUCT.proof not in outcome.materialized
    assert names.TARGET_MATCHES_SOURCE not in outcome.checks, "nothing was proven"
    assert "Skipped: public.product is being synced by another sync" in outcome.log
    assert "another sync" in outcome.observed[PRODUCT.load]["skipped"]
    run = shop.instance.get_run_by_id(outcome.run_id)
    assert run is not None
    assert "another sync" in run.tags[names.SKIPPED_TAG]
    assert finished_runs(shop.instance, 0.0, ()) == [], "no alert, no heartbeat, no metrics"
    assert last_successful_sync(shop.instance, PRODUCT, "") is None


def test_what_the_steps_make_loads_as_a_data_frame_and_the_rest_says_that_it_is_only_recorded(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(3)), product("bad", price="12"))
    shop.sql("INSERT INTO product VALUES ('x', 't', 1, 'i', 's', 1)")
    shop.run()
    frames = {
        name: shop.frame(name)
        for name in (
            PRODUCT.source_snapshot,
            PRODUCT.target_snapshot,
            PRODUCT.diff,
            PRODUCT.quarantine,
        )
    }
    assert sorted(frames[PRODUCT.source_snapshot]["id"]) == ids(3)
    assert list(frames[PRODUCT.target_snapshot]["id"]) == ["x"]
    assert list(frames[PRODUCT.diff]["op"]) == ["insert"] * 3 + ["extra"]
    assert [list(reasons) for reasons in frames[PRODUCT.quarantine]["reasons"]] == [["wrong_type"]]
    [load] = shop.frame(PRODUCT.load).to_dict("records")
    assert (load["inserted"], load["updated"], load["failures"]) == (3, 0, [])
    with pytest.raises(Exception, match="is only recorded and holds no rows to load"):
        shop.frame(PRODUCT.health)


def test_one_step_reads_both_sides_or_only_the_one_that_is_selected(shop: Shop) -> None:
    shop.put(product("a"))
    alone = shop.materialize(PRODUCT.target_snapshot)
    assert set(alone.materialized) == {PRODUCT.target_snapshot}
    assert [Path(file).name for file in shop.state.glob("*/runs/*/*.arrow")] == ["target.arrow"]
    assert set(shop.materialize(PRODUCT.source_snapshot).materialized) == {PRODUCT.source_snapshot}

    both = shop.run()
    assert both.success
    steps = {event.step_key for event in both.events if event.is_step_materialization}
    assert steps == {PRODUCT.snapshots, PRODUCT.diff, PRODUCT.load}


def test_a_load_alone_uses_the_newest_diff_of_the_same_two_sides(shop: Shop) -> None:
    shop.put(product("a"))
    shop.materialize(PRODUCT.source_snapshot, PRODUCT.target_snapshot, PRODUCT.diff)
    assert shop.rows == {}
    loaded = shop.materialize(PRODUCT.load, PRODUCT.quarantine)
    assert loaded.success
    assert loaded.materialized[PRODUCT.load]["inserted"] == 1
    assert list(shop.rows) == ["a"]


def test_the_result_of_a_load_alone_is_proven_by_a_fresh_reading_of_both_sides(shop: Shop) -> None:
    shop.put(product("a"))
    assert shop.run().success
    shop.materialize(PRODUCT.source_snapshot, PRODUCT.target_snapshot, PRODUCT.diff)
    shop.put(product("later"))
    loaded = shop.materialize(PRODUCT.load, PRODUCT.quarantine)
    assert loaded.materialized[PRODUCT.load]["planned"] == 0
    assert loaded.checks[names.TARGET_MATCHES_SOURCE].metadata["missing_ids"].value == ["later"]


def test_a_load_alone_writes_nothing_of_a_diff_that_a_check_has_stopped(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(150)))
    assert shop.run().success
    before = shop.fingerprint
    shop.put(*(product(name, price=1) for name in ids(150)))
    assert not shop.run().success
    loaded = shop.materialize(PRODUCT.load, PRODUCT.quarantine)
    assert not loaded.success
    assert "change_is_plausible" in loaded.failures
    assert shop.fingerprint == before


def test_a_diff_alone_is_not_made_of_a_source_that_a_check_has_stopped(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(10)))
    assert shop.run().success
    shop.remove(*ids(5))
    assert not shop.run().success
    outcome = shop.materialize(PRODUCT.diff)
    assert not outcome.success
    assert "source_looks_complete" in outcome.failures


def test_a_diff_older_than_an_hour_is_refused(shop: Shop) -> None:
    shop.put(product("a"))
    shop.materialize(PRODUCT.source_snapshot, PRODUCT.target_snapshot, PRODUCT.diff)
    [diff] = shop.state.glob("*/runs/*/diff.arrow")
    rewrite_metadata(diff, {"taken_at": "2020-01-01T00:00:00+00:00"})
    loaded = shop.materialize(PRODUCT.load, PRODUCT.quarantine)
    assert not loaded.success
    assert "minutes old; loads trust 60" in loaded.failures
    assert shop.rows == {}


def test_another_target_never_meets_the_state_of_the_first(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.put(product("a"))
    shop.materialize(PRODUCT.source_snapshot, PRODUCT.target_snapshot, PRODUCT.diff)
    shop.sql("CREATE SCHEMA other")
    shop.sql("CREATE TABLE other.product (LIKE product INCLUDING ALL)")
    mapping = shop.state.parent / "mapping.yaml"
    mapping.write_text(other_schema())
    monkeypatch.setenv("PRODUCT_SYNC_MAPPING", str(mapping))
    loaded = shop.materialize(PRODUCT.load, PRODUCT.quarantine)
    assert not loaded.success
    assert "There is no diff of this source, target and mapping yet" in loaded.failures
    shop.run()
    assert len(shop.frame(PRODUCT.target_snapshot)) == 0, "of the two states, the one that the environment names"
    assert shop.rows == {}
    assert shop.sql("SELECT id FROM other.product") == [("a",)]


def test_the_files_of_a_long_run_survive_the_dry_runs_beside_it(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(3)))
    once = iter([True])

    def other_runs(progress: Progress) -> None:
        if progress.stage == "load" and next(once, False):
            for _ in range(6):
                assert shop.run(dry_run=True, probe=False).success

    outcome = shop.run(batch_size=1, on_progress=other_runs)
    assert outcome.success
    assert outcome.materialized[PRODUCT.load]["inserted"] == 3


def other_schema() -> str:
    import yaml

    from product_sync.schema.definition import DEFAULT_MAPPING

    content: dict[str, Any] = yaml.safe_load(DEFAULT_MAPPING.read_text())
    content["target"]["schema"] = "other"
    return json.dumps(content)


def rewrite_metadata(path: Path, changes: Mapping[str, str]) -> None:
    table = read_table(path)
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    write_table(path, table.schema.remove_metadata(), table.to_batches(), metadata={**metadata, **changes})
    os.utime(path)
