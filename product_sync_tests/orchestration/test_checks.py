"""The checks as Dagster shows them: which are red, which stop what comes after them, and what each is about."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import dagster as dg
import pytest

from product_sync.errors import Unreachable
from product_sync.orchestration import names
from product_sync.orchestration.names import PRODUCT
from product_sync.schema.definition import DEFAULT_MAPPING
from product_sync_tests.shop import Shop, ids, product, project

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


def fill(shop: Shop, count: int = 10) -> None:
    shop.put(*(product(name) for name in ids(count)))


def test_every_check_that_can_be_an_error_is_blocking() -> None:
    graph = project().resolve_asset_graph()
    specs = {key.name: graph.get(key).blocking for key in graph.asset_check_keys if key.name not in names.CONNECTIONS}
    assert specs == {
        names.SOURCE_LOOKS_COMPLETE: True,
        names.MAPPING_FITS_SOURCE: False,
        names.CHANGE_IS_PLAUSIBLE: True,
        names.TARGET_MATCHES_SOURCE: True,
        names.EVERY_BATCH_LOADED: True,
        names.QUARANTINE_WITHIN_BUDGET: True,
        names.NO_EXTRA_PRODUCTS: False,
        names.FULL_PROOF_IS_RECENT: False,
    }


def test_a_sync_that_repairs_everything_passes_every_check(shop: Shop) -> None:
    fill(shop)
    outcome = shop.run()
    assert outcome.success
    assert {name: check.passed for name, check in outcome.checks.items()} == dict.fromkeys(outcome.checks, True)
    assert len(outcome.checks) == 7


def test_an_empty_source_stops_the_run_before_the_diff(shop: Shop) -> None:
    shop.sql("INSERT INTO product VALUES ('a', 't', 1, 'i', 's', 1)")
    outcome = shop.run(extra="delete", max_delete_share=1.0)
    assert not outcome.success
    assert not outcome.checks[names.SOURCE_LOOKS_COMPLETE].passed
    assert outcome.checks[names.SOURCE_LOOKS_COMPLETE].severity is ERROR
    assert PRODUCT.diff not in outcome.materialized
    assert list(shop.rows) == ["a"]


def test_a_path_that_no_document_has_is_a_warning_with_the_nearest_field(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.put(*(product(name, quantity=3) for name in ids(10)))
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(DEFAULT_MAPPING.read_text().replace("source: quantity", "source: quantty"))
    monkeypatch.setenv("PRODUCT_SYNC_MAPPING", str(mapping))
    outcome = shop.run()
    assert outcome.success
    check = outcome.checks[names.MAPPING_FITS_SOURCE]
    assert (check.passed, check.severity) == (False, WARN)
    assert check.description == (
        "None of 10 documents has a value at quantty for column quantity: every row gets the default 0."
        " The nearest field is quantity. Check the mapping."
    )


def test_a_source_that_shrank_by_more_than_a_fifth_stops_the_run_until_it_is_accepted(shop: Shop) -> None:
    fill(shop)
    assert shop.run().success
    shop.remove(*ids(3))
    stopped = shop.run()
    assert not stopped.success
    assert PRODUCT.diff not in stopped.materialized
    assert "--accept-source-count 7" in (stopped.checks[names.SOURCE_LOOKS_COMPLETE].description or "")
    assert shop.run(accept_source_count=7).success
    assert shop.run().success, "the accepted size is the baseline from then on"


def test_overwriting_more_than_half_of_the_target_stops_the_run_before_the_load(shop: Shop) -> None:
    fill(shop, 150)
    assert shop.run().success
    before = shop.fingerprint
    shop.put(*(product(name, price=1) for name in ids(101)))
    stopped = shop.run()
    assert not stopped.success
    assert not stopped.checks[names.CHANGE_IS_PLAUSIBLE].passed
    assert PRODUCT.load not in stopped.materialized
    assert shop.fingerprint == before
    accepted = shop.run(accept_changes=True)
    assert accepted.success
    assert accepted.materialized[PRODUCT.load]["updated"] == 101


def test_extra_products_are_a_warning_that_leaves_the_run_green(shop: Shop) -> None:
    fill(shop)
    shop.sql("INSERT INTO product VALUES ('gone', 't', 1, 'i', 's', 1)")
    outcome = shop.run()
    check = outcome.checks[names.NO_EXTRA_PRODUCTS]
    assert (outcome.success, check.passed, check.severity) == (True, False, WARN)
    assert check.metadata["extra"].value == 1
    assert "gone" in (check.description or "")


@pytest.mark.parametrize(("bad", "severity", "green"), [(1, WARN, True), (3, ERROR, False)])
def test_quarantine_is_a_warning_within_one_per_cent_and_red_above(
    shop: Shop, bad: int, severity: dg.AssetCheckSeverity, green: bool
) -> None:
    fill(shop, 199)
    shop.put(*(product(f"bad{number}", price="12") for number in range(bad)))
    outcome = shop.run()
    check = outcome.checks[names.QUARANTINE_WITHIN_BUDGET]
    assert (outcome.success, check.passed, check.severity) == (green, False, severity)
    assert check.metadata["wrong_type"].value == bad
    assert len(shop.rows) == 199, "the good ones are loaded all the same"


def test_a_target_that_will_not_keep_what_is_written_is_red(shop: Shop) -> None:
    """Somebody else deletes a row between our load and our verification."""
    fill(shop)
    shop.sql(
        "CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " DELETE FROM product WHERE id = 'p0003'; RETURN NULL; END $$"
    )
    shop.sql(
        "CREATE CONSTRAINT TRIGGER undo AFTER INSERT ON product DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (NEW.id = 'p0003') EXECUTE FUNCTION undo()"
    )
    outcome = shop.run()
    check = outcome.checks[names.TARGET_MATCHES_SOURCE]
    assert (outcome.success, check.passed, check.severity) == (False, False, ERROR)
    assert check.metadata["missing_ids"].value == ["p0003"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Unreachable("PostgreSQL cannot be reached."), "PostgreSQL cannot be reached."),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "The disk of the state folder {state} is full"),
    ],
)
def test_a_load_that_stopped_is_the_cause_also_where_nothing_can_be_compared(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    fill(shop)
    shop.sql(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$"
    )
    shop.sql("CREATE TRIGGER full_disk BEFORE INSERT ON product FOR EACH ROW EXECUTE FUNCTION full_disk()")
    monkeypatch.setattr("product_sync.pipeline.run_checks.check_result", fail)
    outcome = shop.run()
    assert "every_batch_loaded: failed" in outcome.failures
    assert f"could not be compared with the source: {said.format(state=shop.state)}" in outcome.log


def test_validation_reads_both_sides_and_writes_nothing_even_when_nothing_was_ever_materialised(shop: Shop) -> None:
    fill(shop)
    shop.sql("INSERT INTO product VALUES ('p0000', 'The p0000', 499, 'i.jpg', 's1', 1), ('x', 't', 1, 'i', 's', 1)")
    before = shop.fingerprint
    outcome = shop.run(PRODUCT.validate_job)
    found = {name: value.value for name, value in outcome.checks[names.TARGET_MATCHES_SOURCE].metadata.items()}
    assert not outcome.success
    assert (found["missing"], found["changed"], found["extra"]) == (9, 1, 1)
    assert (found["changed_ids"], found["extra_ids"]) == (["p0000"], ["x"])
    assert len(outcome.checks) == 5
    assert outcome.materialized == {}
    assert shop.fingerprint == before
    assert {path.parent.name for path in shop.state.glob("*/*") if path.is_file()} == {"sides"}, "whose state it is"


def test_validation_does_not_trust_what_a_sync_has_read_and_never_moves_the_baseline(shop: Shop) -> None:
    fill(shop)
    assert shop.run().success
    before = shop.files()
    shop.remove("p0000")
    assert shop.run(PRODUCT.validate_job).success, "only a warning: it could take 9 documents for the baseline"
    shop.sql("UPDATE product SET price = 1 WHERE id = 'p0001'")
    assert shop.run(PRODUCT.validate_job).checks[names.TARGET_MATCHES_SOURCE].metadata["changed_ids"].value == ["p0001"]
    shop.put(product("new"))
    assert shop.run(PRODUCT.validate_job).checks[names.TARGET_MATCHES_SOURCE].metadata["missing_ids"].value == ["new"]
    assert shop.files() == before


def test_a_run_that_is_red_for_any_reason_does_not_move_the_baseline(shop: Shop) -> None:
    fill(shop)
    assert shop.run().success
    baseline = shop.files()["baseline.json"]
    shop.put(*(product(f"bad{number}", price="12") for number in range(5)))
    red = shop.run()
    assert red.checks[names.TARGET_MATCHES_SOURCE].passed
    assert not red.success
    assert shop.files()["baseline.json"] == baseline
