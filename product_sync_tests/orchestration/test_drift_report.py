"""The drift report of a run: its content, the runs that write one, and the secrets that it must not show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from product_sync.errors import StateStoreError, Unreachable
from product_sync.orchestration.names import PRODUCT
from product_sync.state.store import StateFolder
from product_sync_tests.shop import Outcome, Shop, ids, product


def page(outcome: Outcome) -> str:
    return Path(outcome.materialized[PRODUCT.drift_report]["report"]).read_text(encoding="utf-8")


def accounts(outcome: Outcome) -> tuple[dict[str, int], dict[str, int]]:
    """The two tables: what was found, and what was done."""
    between = page(outcome).partition('class="accounts">')[2].partition("<h2>")[0]
    tables = [
        re.findall(r'<td>([^<]+)</td><td class="number">([0-9,]+)</td>', text) for text in between.split("</table>")
    ]
    first, second, *_ = [{name: int(count.replace(",", "")) for name, count in rows} for rows in tables]
    return first, second


def check_results(outcome: Outcome) -> set[str]:
    """What stands at the top and at the end, which is the same."""
    said = re.findall(r'<p class="conclusion">(.*?)</p>', page(outcome), re.DOTALL)
    assert len(said) == 2
    return {re.sub("<!--.*?-->", "", each) for each in said}


def explained(outcome: Outcome) -> dict[str, str]:
    return {line["id"]: line["cause"] for line in outcome.materialized[PRODUCT.drift_report]["first_explained"]}


def test_each_difference_has_the_cause_that_the_earlier_snapshots_prove(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(300)), product("mended", price="12"))
    shop.sql("INSERT INTO product VALUES ('old', 't', 1, 'i', 's', 1)")
    assert shop.run().success

    shop.put(product("new"), product("p0001", price=700), product("mended", price=12))
    shop.remove("p0002")
    shop.sql("UPDATE product SET price = 1 WHERE id = 'p0003'")
    shop.sql("DELETE FROM product WHERE id = 'p0004'")
    dry = shop.run(dry_run=True)
    assert explained(dry) == {
        "new": "creation lost",
        "mended": "could not be copied before",
        "p0004": "deleted on the target",
        "p0001": "change lost",
        "p0003": "changed on the target",
        "p0002": "deletion lost",
        "old": "unknown",
    }
    assert "This was a dry run: nothing was written." in page(dry)
    assert "conflicts" not in dry.materialized[PRODUCT.drift_report], "nobody knows them yet"

    done = shop.run()
    assert explained(done) == explained(dry), "the files of the dry run are evidence too, and say the same"
    told = done.materialized[PRODUCT.drift_report]
    assert {line["id"]: line["difference"] for line in told["first_explained"]}["p0001"] == "price: 500 → 700"
    assert (told["missing"], told["changed"], told["extra"], told["conflicts"]) == (3, 2, 2, 0)
    assert accounts(done) == (
        {"missing": 3, "changed": 2, "extra": 2, "total": 7},
        {"inserted": 3, "updated": 2, "left alone": 2, "total": 7},
    )
    assert accounts(dry)[1] == {"not written": 5, "left alone": 2, "total": 7}


def test_the_report_ends_with_what_the_checks_say_after_the_load(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(150)), product("bad", price="<a lot>"))
    shop.sql("INSERT INTO product VALUES ('old', 't', 1, 'i', 's', 1)")
    dry = shop.run(dry_run=True)
    assert check_results(dry) == {
        "The copy does not agree with the source: 150 missing, 0 changed. Nothing was written."
        " Exceptions: 1 cannot be copied, 1 only in the target."
    }
    assert "A sync would pass, with a warning:" in page(dry)
    done = shop.run()
    assert check_results(done) == {
        "The copy agrees with the source: 151 documents and 151 rows were compared after the load."
        " Exceptions: 1 cannot be copied, 1 only in the target."
    }
    assert page(done).rstrip().removesuffix("</html>").rstrip().removesuffix("</body>").rstrip().endswith("</p>")
    shop.sql("CREATE FUNCTION gone() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    shop.sql("CREATE TRIGGER gone BEFORE INSERT ON product FOR EACH ROW EXECUTE FUNCTION gone()")
    shop.put(product("new"))
    swallowed = shop.run()
    assert not swallowed.success
    assert accounts(swallowed)[1] == {"quarantined": 1, "left alone": 1, "cannot be copied": 1, "total": 3}
    [said] = check_results(swallowed)
    assert said.startswith("The copy is not proven to agree with the source. ")


def test_a_result_that_could_not_be_verified_is_not_called_right(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise Unreachable("PostgreSQL cannot be reached.")

    monkeypatch.setattr("product_sync.pipeline.run_checks.confirm", away)
    shop.put(product("a"))
    outcome = shop.run()
    assert not outcome.success
    [said] = check_results(outcome)
    assert "not verified yet" in said


def test_a_change_that_is_refused_has_a_report_too(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(150)))
    assert shop.run().success
    shop.put(*(product(name, price=1) for name in ids(150)))
    refused = shop.run()
    assert not refused.success
    assert "Nothing was written: too many rows would change." in page(refused)
    assert "150 products differ" in page(refused)


def test_what_a_catalogue_holds_is_text_on_the_page_which_needs_nothing_from_anywhere(shop: Shop) -> None:
    nasty = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
    shop.put(product("a", title=nasty), product("<b>id</b>"), product("bad", title={"<i>": nasty}))
    shown = page(shop.run(dry_run=True))
    assert "<script" not in shown
    assert "<img" not in shown
    assert "<b>id" not in shown
    assert "<i>" not in shown
    assert "&lt;script&gt;alert(1)" in shown
    assert "default-src 'none'" in shown
    for what in ("http://", "https://", "<link", "<iframe", "url(", "@import"):
        assert what not in shown


def test_the_first_run_of_all_proves_nothing_and_the_last_runs_are_bars(shop: Shop) -> None:
    shop.put(product("a"))
    first = shop.run()
    assert explained(first) == {"a": "unknown"}
    assert "No earlier snapshot of the two sides is kept" in page(first)
    again = shop.run()
    shown = page(again)
    assert "No product differs" in shown
    assert "The last 2 runs" in shown
    assert f"run {again.run_id[:8]}: 0" in shown


def test_a_report_links_the_run_and_the_run_the_report_where_people_can_reach_them(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRODUCT_SYNC_UI_URL", "https://dagster.example/")
    monkeypatch.setenv("PRODUCT_SYNC_REPORTS_URL", "https://reports.example/drift")
    shop.put(product("a"))
    outcome = shop.run(dry_run=True)
    assert (
        outcome.materialized[PRODUCT.drift_report]["report"] == f"https://reports.example/drift/{outcome.run_id}.html"
    )
    [written] = shop.state.glob("*/reports/*.html")
    assert f'href="https://dagster.example/runs/{outcome.run_id}"' in written.read_text(encoding="utf-8")
    assert written.stat().st_mode & 0o077 == 0, "it holds products"


def test_a_report_that_cannot_be_written_is_told_in_the_log_and_the_sync_goes_on(shop: Shop) -> None:
    shop.put(product("a"))
    assert shop.run().success
    [folder] = shop.state.glob("*/reports")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    outcome = shop.run()
    assert outcome.success
    assert PRODUCT.drift_report not in outcome.materialized
    assert f"The drift report could not be written: The state folder {shop.state} could not be" in outcome.log


def test_a_conclusion_that_cannot_be_fetched_is_told_in_the_log_and_the_sync_goes_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StateStoreError("The object store does not answer.")

    shop.put(product("a"))
    monkeypatch.setattr(StateFolder, "report", fail)
    outcome = shop.run()
    assert outcome.success, outcome.failures
    assert "The conclusion could not be written into the drift report: The object store does not answer." in outcome.log
