"""What the target refuses, through a whole sync on real servers, class by class of design section 5: rows are isolated,
what passes is waited for, what every batch would meet stops the run; and each says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg
import pytest

from product_sync.orchestration import names
from product_sync.orchestration.names import PRODUCT
from product_sync.runtime.progress import Progress
from product_sync_tests.shop import Outcome, Shop, ids, product, shop

__all__ = ["shop"]

ALL = ids(250)
RAISE = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$"
BEFORE = (
    "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON product FOR EACH ROW WHEN (NEW.title = 'bad') EXECUTE FUNCTION f()"
)
SELLERS = "CREATE TABLE seller (id text PRIMARY KEY); INSERT INTO seller VALUES ('s1')"
SOLD_BY = 'ALTER TABLE product ADD CONSTRAINT sold_by FOREIGN KEY ("sellerId") REFERENCES seller'


def stock(shop: Shop, **bad: Any) -> None:
    """A copy that lacks three products and has three old ones; among each a bad one, ``new`` and ``old``."""
    documents = [product(name, image=f"{name}.jpg") for name in (*ALL, "new", "old")]
    shop.put(*(document | (bad if document["_id"] in ("new", "old") else {}) for document in documents))
    with psycopg.connect(shop.cart_url) as cart, cart.cursor() as cursor:
        rows = [(name, 1 if name in ("p0003", "p0004", "old") else 500) for name in (*ALL[2:], "old")]
        values = "(%s, 'The ' || %s, %s, %s || '.jpg', 's1', 1)"
        cursor.executemany(f"INSERT INTO product VALUES {values}", [(name, name, price, name) for name, price in rows])


def loaded(outcome: Outcome) -> dict[str, Any]:
    return outcome.materialized[PRODUCT.load]


# Rows.


class Refusal(NamedTuple):
    ddl: tuple[str, ...]
    bad: dict[str, Any]
    answer: str
    reason: str = "refused_by_database"


ROWS = {
    "a check constraint": Refusal(
        ("ALTER TABLE product ADD CONSTRAINT cheap CHECK (price < 1000)",),
        {"price": 1000},
        "new row for relation \"product\" violates check constraint \"cheap\"",
    ),
    "a trigger that raises": Refusal(
        (RAISE.format(body="RAISE 'we do not sell %', NEW.id;"), BEFORE), {"title": "bad"}, "we do not sell"
    ),
    "a trigger that swallows the row": Refusal(
        (RAISE.format(body="RETURN NULL;"), BEFORE), {"title": "bad"}, "swallowed it", "suppressed_by_database"
    ),
}  # fmt: skip
EXCLUDED = {
    "a unique index on another column": Refusal(
        ("CREATE UNIQUE INDEX one_image ON product (image)",),
        {"image": "p0009.jpg"},
        "is to have the same image as the row p0009 has (constraint one_image).",
    ),
    "a foreign key": Refusal(
        (SELLERS, SOLD_BY),
        {"sellerId": "nobody"},
        "refers by sellerId to nobody in public.seller, which has no such row (constraint sold_by).",
    ),
    "a foreign key that is checked at COMMIT": Refusal(
        (SELLERS, f"{SOLD_BY} DEFERRABLE INITIALLY DEFERRED"),
        {"sellerId": "nobody"},
        "refers by sellerId to nobody in public.seller, which has no such row (constraint sold_by).",
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_refused_row_is_quarantined_with_the_answer_and_all_others_are_loaded(
    shop: Shop, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = ROWS[case]
    for statement in refusal.ddl:
        shop.sql(statement)
    stock(shop, price=500, **{name: value for name, value in refusal.bad.items() if name != "price"})
    shop.put(*(product(name, image=f"{name}.jpg") | refusal.bad for name in ("new", "old")))

    outcome = shop.run(batch_size=4)

    assert outcome.success, outcome.failures
    done = loaded(outcome)
    assert (done["inserted"], done["updated"], done["quarantined_in_load"], done["failed_batches"]) == (2, 2, 2, 0)
    assert shop.rows.keys() == {*ALL, "old"}
    assert {name for name, (price, _) in shop.rows.items() if price != 500} == {"old"}, "it keeps what it had"
    assert shop.quarantine.keys() == {'"new"', '"old"'}
    for entry in shop.quarantine.values():
        assert list(entry["reasons"]) == [refusal.reason]
        assert refusal.answer in entry["values"][0].replace('\\"', '"')
    assert "Row new goes to the quarantine" in caplog.text


@pytest.mark.parametrize("case", EXCLUDED)
def test_a_row_that_another_row_keeps_out_is_a_difference_and_no_bad_document(
    shop: Shop, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = EXCLUDED[case]
    for statement in refusal.ddl:
        shop.sql(statement)
    stock(shop, price=500, **refusal.bad)

    outcome = shop.run(batch_size=4)

    assert not outcome.success
    done = loaded(outcome)
    assert (done["inserted"], done["updated"], done["quarantined_in_load"], done["excluded"]) == (2, 2, 0, 2)
    assert shop.rows.keys() == {*ALL, "old"}
    assert shop.quarantine == {}
    assert {each["id"] for each in done["exclusions"]} == {"new", "old"}
    assert all(refusal.answer in each["message"] for each in done["exclusions"])
    found = outcome.checks[names.TARGET_MATCHES_SOURCE]
    assert not found.passed
    assert refusal.answer in str(found.description)
    assert f"Row new {refusal.answer}" in caplog.text


# What passes.


def settings(shop: Shop, setting: str) -> None:
    """As the owner of the role would limit it, in this database."""
    with psycopg.connect(shop.cart_url) as owner:
        owner.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {owner.info.dbname} SET {setting}")


def test_a_lock_that_another_session_gives_back_in_time_is_waited_for(shop: Shop) -> None:
    stock(shop)
    settings(shop, "lock_timeout = '100ms'")
    with psycopg.connect(shop.cart_url) as other:
        other.execute("SELECT FROM product WHERE id = 'p0003' FOR UPDATE")

        def give_back(progress: Progress) -> None:
            # The third sign of life is that of a retry: the batch of the held row is the second one.
            if progress.stage == "load" and progress.done == 3:
                other.rollback()

        outcome = shop.run(batch_size=3, on_progress=give_back)
    assert outcome.success, outcome.failures
    assert loaded(outcome)["failed_batches"] == 0
    assert len(shop.rows) == len(ALL) + 2


LASTING = {
    "a lock that another session keeps": ("lock_timeout = '100ms'", None, "lock timeout .SQLSTATE 55P03."),
    "a statement that takes longer than the role may": (
        "statement_timeout = '2s'",
        "PERFORM pg_sleep(60);",
        "statement timeout .SQLSTATE 57014.",
    ),
}


@pytest.mark.parametrize("case", LASTING)
def test_what_does_not_pass_in_time_fails_its_batch_only_and_the_next_run_converges(shop: Shop, case: str) -> None:
    setting, body, cause = LASTING[case]
    stock(shop)
    shop.put(product("p0003", image="p0003.jpg", title="bad"))
    settings(shop, setting)
    with psycopg.connect(shop.cart_url) as other:
        if body:
            shop.sql(RAISE.format(body=body))
            shop.sql(BEFORE)
        else:
            other.execute("SELECT FROM product WHERE id = 'p0003' FOR UPDATE")
        outcome = shop.run(batch_size=1, retry_s=0.3)
    done = loaded(outcome)
    assert not outcome.success
    assert (done["batches"], done["failed_batches"], done["inserted"], done["updated"]) == (6, 1, 3, 2)
    [failed] = done["failed"]
    assert failed["keys"] == "p0003"
    assert_found(cause, failed["cause"])
    assert_found("Gave up after 0.3 s of retries", failed["cause"])
    assert not outcome.checks[names.EVERY_BATCH_LOADED].passed
    assert outcome.checks[names.TARGET_MATCHES_SOURCE].metadata["changed_ids"].value == ["p0003"]
    assert shop.quarantine == {}, "it is not the row"

    shop.sql("DROP FUNCTION IF EXISTS f CASCADE")
    assert shop.run().success


# What every batch would meet.


class Change(NamedTuple):
    statement: str
    said: str
    what_to_do: str


CHANGES = {
    "a column dropped": Change("ALTER TABLE product DROP COLUMN image", "image is gone", "columns again"),
    "a column retyped, and the values fit": Change(
        "ALTER TABLE product ALTER COLUMN price TYPE real", "price is real now and was integer", "columns again"
    ),
    "the table renamed": Change(
        "ALTER TABLE product RENAME TO article", "SQLSTATE 42P01", "The table was dropped or renamed"
    ),
    "a full disk": Change(
        RAISE.format(body="RAISE 'No space left on device' USING ERRCODE = '53100';")
        + "; CREATE TRIGGER t BEFORE INSERT ON product FOR EACH ROW EXECUTE FUNCTION f()",
        "No space left on device (SQLSTATE 53100)",
        "Free disk space",
    ),
}


def after_the_first_batch(action: Callable[[], object]) -> Callable[[Progress], None]:
    heard: list[Progress] = []

    def listener(progress: Progress) -> None:
        if progress.stage == "load" and not heard:
            heard.append(progress)
            action()

    return listener


@pytest.mark.parametrize("case", CHANGES)
def test_what_every_batch_would_meet_stops_at_once_and_says_what_to_do(shop: Shop, case: str) -> None:
    change = CHANGES[case]
    shop.put(*(product(name) for name in ids(8)))
    outcome = shop.run(batch_size=2, on_progress=after_the_first_batch(lambda: shop.sql(change.statement)))

    assert not outcome.success
    done = loaded(outcome)
    assert (done["inserted"], done["batches"], done["failed_batches"], done["not_attempted_batches"]) == (2, 2, 1, 2)
    assert change.said in done["stopped"]
    assert change.what_to_do in done["stopped"]
    assert not outcome.checks[names.EVERY_BATCH_LOADED].passed
    table = "article" if "article" in change.statement else "product"
    assert shop.sql(f"SELECT id FROM {table} ORDER BY id") == [("p0000",), ("p0001",)], "what was done stays"
    assert done["quarantined_in_load"] == 0, "it is not the rows"


def test_after_a_column_was_retyped_the_next_run_goes_on(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(4)))
    retype = after_the_first_batch(lambda: shop.sql("ALTER TABLE product ALTER COLUMN price TYPE numeric(10,2)"))
    assert not shop.run(batch_size=2, on_progress=retype).success
    again = shop.run()
    assert again.success, again.failures
    assert loaded(again)["inserted"] == 2


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER TABLE product DROP COLUMN image", "image"),
        ("ALTER TABLE product ALTER COLUMN price TYPE bigint", "diff"),
    ],
    ids=["dropped", "retyped"],
)
def test_a_column_that_changed_between_the_diff_and_the_load_is_not_loaded(
    shop: Shop, statement: str, said: str
) -> None:
    shop.put(product("a"))
    assert shop.materialize(PRODUCT.source_snapshot, PRODUCT.target_snapshot, PRODUCT.diff).success
    shop.sql(statement)
    outcome = shop.materialize(PRODUCT.load, PRODUCT.quarantine)
    assert not outcome.success
    assert said in outcome.failures, outcome.failures
    assert shop.sql("SELECT id FROM product") == []


def assert_found(part: str, text: str) -> None:
    assert part.replace(".SQLSTATE", "(SQLSTATE").rstrip(".") in text
