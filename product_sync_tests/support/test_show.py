"""One product from its documents to its row: everything that is known of it, as it is, and nothing else touched."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import Binary, Decimal128, Int64, ObjectId
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from product_sync import show, sync
from product_sync.conversion.extended_json import EXCERPT_LENGTH
from product_sync.embedded.servers import Servers
from product_sync.results import ExclusionReport, ProductReport
from product_sync.terminal.product import show_product
from product_sync_tests.market import Market, open_market, product, products

HEX = "507f1f77bcf86cd799439011"


@pytest.fixture
def here(market: Market, monkeypatch: pytest.MonkeyPatch) -> Market:
    """The market, entered, with three products on both sides."""
    market.stock(products(3))
    market.copy(products(3))
    market.enter(monkeypatch)
    return market


def only(report: ProductReport) -> Any:
    """The one document that was found."""
    assert report.failure is None, report.failure
    assert report.documents is not None
    [document] = report.documents
    return document


def test_a_product_that_agrees(here: Market) -> None:
    report = show("p0001")
    assert (report.state, report.exit_status, report.differences) == ("equal", 0, [])
    document = only(report)
    assert (document.source_key, document.id_type, document.defects) == ('"p0001"', "string", [])
    assert document.fields["price"] == '{"$numberInt": "101"}'
    assert document.fields["sellerId"] == '"s1"'
    assert report.target_row == document.row
    assert document.row["title"] == "Ring 1"
    assert (report.quarantine, report.earlier) == ([], [])


def test_a_product_that_differs_column_by_column(here: Market) -> None:
    here.sql("UPDATE product SET price = 99, title = 'Old' WHERE id = 'p0001'")
    report = show("p0001")
    assert (report.state, report.exit_status) == ("changed", 1)
    assert report.differences is not None
    found = {line.column: (line.target, line.source) for line in report.differences}
    assert found == {"price": ("99", "101"), "title": ("Old", "Ring 1")}


def test_a_product_that_one_side_has(here: Market) -> None:
    here.sql("DELETE FROM product WHERE id = 'p0001'")
    here.unstock({"_id": "p0002"})
    missing, extra, nowhere = show("p0001"), show("p0002"), show("p9999")
    assert [report.state for report in (missing, extra, nowhere)] == ["missing", "extra", "nowhere"]
    assert [report.exit_status for report in (missing, extra, nowhere)] == [1, 1, 1]
    assert missing.target_row is None
    assert only(missing).row["id"] == "p0001"
    assert (extra.documents, (extra.target_row or {})["id"]) == ([], "p0002")
    assert (nowhere.documents, nowhere.target_row) == ([], None)


def test_a_product_that_another_row_keeps_out(here: Market, capsys: pytest.CaptureFixture[str]) -> None:
    here.sql("CREATE UNIQUE INDEX slug ON product (title)")
    here.sql("DELETE FROM product WHERE id = 'p0002'; UPDATE product SET title = 'Ring 2' WHERE id = 'p0000'")
    kept_out, free = show("p0002"), show("p0000")
    assert (kept_out.state, kept_out.exit_status, free.state, free.exclusions) == ("missing", 1, "changed", [])
    assert kept_out.exclusions == [
        ExclusionReport(
            id="p0002",
            other="p0000",
            constraint="slug",
            message="p0002 is to have the same title as the row p0000 has (constraint slug).",
        )
    ]
    show_product(kept_out)
    assert capsys.readouterr().out.endswith("The target does not have it; another row is in its way.\n")


@pytest.fixture(scope="module")
def synced(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """Two syncs: one when all was well, one after some documents had been broken."""
    with open_market(servers, tmp_path_factory.mktemp("state")) as market, pytest.MonkeyPatch.context() as patch:
        market.enter(patch)
        market.sql("ALTER TABLE product ADD CHECK (price < 1000)")
        market.stock(products(3))
        sync(settle_seconds=0)
        market.unstock({"_id": "p0001"})
        market.stock(
            [
                {"_id": "p0001", "title": "x" * 1_000_000, "price": 2.5, "sellerId": [1], "quantity": None},
                product(7, price=5_000),
                product(8, _id=dt.datetime(2020, 1, 1, tzinfo=dt.UTC)),
                product(9, _id={"a": {"b": [2]}}),
            ]
        )
        sync(settle_seconds=0)
        yield market


@pytest.fixture
def afterwards(synced: Market, monkeypatch: pytest.MonkeyPatch) -> Market:
    synced.enter(monkeypatch)
    return synced


@pytest.mark.usefixtures("afterwards")
def test_a_broken_product_with_all_its_reasons_its_history_and_what_it_was_before() -> None:
    report = show("p0001")
    assert (report.state, report.exit_status) == ("quarantined", 1)
    document = only(report)
    assert document.row is None
    reasons = {defect.column: defect.reason for defect in document.defects}
    assert reasons == {"price": "not_exact", "sellerId": "wrong_type", "image": "missing_field"}
    assert document.fields["image"] is None, "absent"
    assert document.fields["quantity"] == "null", "there, and null"
    assert len(document.fields["title"]) == EXCERPT_LENGTH + 1
    assert (report.target_row or {})["title"] == "Ring 1", "the target keeps what it has"
    assert report.quarantine is not None
    [entry] = report.quarantine
    assert (entry.stage, entry.attempts) == ("convert", 1)
    assert {defect.column: defect.reason for defect in entry.defects} == reasons
    assert entry.first_seen == entry.last_seen
    assert report.earlier is not None
    source = [look for look in report.earlier if look.side == "source"]
    assert [sorted(look.reasons) for look in source] == [sorted(reasons.values()), []]
    assert (source[-1].row or {})["title"] == "Ring 1"
    assert [look.at for look in report.earlier] == sorted((look.at for look in report.earlier), reverse=True)
    target = [look for look in report.earlier if look.side == "target"]
    assert [(look.row or {}).get("price") for look in target] == ["101", "101", "101", None][-len(target) :]
    assert target[-1].present is False, "before the first sync"


def test_a_product_that_the_database_refused_is_quarantined_until_its_values_change(afterwards: Market) -> None:
    report = show("p0007")
    assert report.state == "quarantined"
    assert report.quarantine is not None
    [entry] = report.quarantine
    assert (entry.stage, entry.defects[0].reason) == ("load", "refused_by_database")
    afterwards.unstock({"_id": "p0007"})
    afterwards.stock([product(7, price=500)])
    assert show("p0007").state == "missing", "nobody has refused this price"


def test_every_document_that_has_the_id_as_its_text_is_shown(here: Market) -> None:
    here.stock([product(8, _id=ObjectId(HEX)), product(9, _id=HEX)])
    report = show(HEX)
    assert report.state == "quarantined"
    assert report.documents is not None
    assert {document.id_type for document in report.documents} == {"objectId", "string"}
    assert {defect.reason for document in report.documents for defect in document.defects} == {"duplicate_id"}
    here.unstock({"_id": HEX})
    assert only(show(HEX)).id_type == "objectId"


@pytest.mark.parametrize(
    ("bson_id", "text", "id_type"),
    [
        (5, "5", "int"),
        (Int64(2**40), str(2**40), "long"),
        (uuid.UUID(int=7), str(uuid.UUID(int=7)), "uuid"),
        (5.0, "5", None),
        (Decimal128("5"), "5", None),
    ],
)
def test_ids_of_every_type(here: Market, bson_id: Any, text: str, id_type: str | None) -> None:
    here.stock([product(8, _id=bson_id if not isinstance(bson_id, uuid.UUID) else _binary(bson_id))])
    report = show(text)
    document = only(report)
    assert document.id_type == id_type
    assert report.state == ("missing" if id_type else "quarantined")
    if id_type is None:
        assert document.defects[0].reason == "unsupported_id"


def _binary(value: uuid.UUID) -> Any:
    return Binary.from_uuid(value)


@pytest.mark.usefixtures("afterwards")
def test_a_document_whose_id_has_no_text_is_found_by_the_name_that_the_quarantine_gives_it() -> None:
    for key in ('{"$date": {"$numberLong": "1577836800000"}}', '{"a": {"b": [{"$numberInt": "2"}]}}'):
        report = show(key)
        document = only(report)
        assert document.source_key == key
        assert document.defects[0].reason == "unsupported_id"
        assert report.quarantine is not None
        assert [entry.source_key for entry in report.quarantine] == [key]
    assert only(show('{"$date": "2020-01-01T00:00:00Z"}')).id_type is None, "the short form is understood too"


def test_the_extended_json_of_an_id_that_has_a_text_finds_the_row_too(here: Market) -> None:
    here.stock([product(8, _id=ObjectId(HEX))])
    here.copy([product(8, _id=HEX)])
    report = show(f'{{"$oid": "{HEX}"}}')
    assert (report.state, only(report).id_type) == ("equal", "objectId")


HOSTILE = [
    "'; DROP TABLE product; --",
    '{"$gt": ""}',
    '{"$regex": ".*"}',
    '{"$where": "sleep(1000)"}',
    '{"$oid": "nonsense"}',
    '{"$numberLong": {}}',
    "{",
    "%s $1 {} [bold]",
    "",
    "p0001\0",
    "a" * 100_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_an_id_that_looks_like_something_else_is_data(here: Market, text: str) -> None:
    assert show(text).state == "nowhere"
    if "\0" not in text and 0 < len(text) < 1_000:
        here.stock([product(8, _id=text)])
        here.copy([product(8, _id=text)])
        report = show(text)
        assert (report.state, only(report).id_type) == ("equal", "string")
    assert len(here.rows()) >= 3


def test_an_id_that_is_no_text_is_refused(here: Market) -> None:
    report = show("p\udcff")
    assert (report.exit_status, report.state) == (2, None)
    assert report.error is not None
    assert "UTF-8" in report.error.message


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=30), st.text(max_size=30).map(lambda text: "{" + text)))
def test_whatever_is_asked_there_is_an_answer(here: Market, text: str) -> None:
    report = show(text)
    assert report.state == "nowhere" or report.error is not None


def test_under_a_mapping_with_a_uuid_id_and_dotted_paths(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(
        "source: {collection: goods}\ntarget: {table: goods}\ncolumns:\n  key: {source: _id}\n"
        "  amount: {source: price.amount}\n  made: {source: made, required: false}\n"
        "  note: {source: note, required: false, update: false}\n"
    )
    market.env["PRODUCT_SYNC_MAPPING"] = str(mapping)
    market.enter(monkeypatch)
    market.sql("CREATE TABLE goods (key uuid PRIMARY KEY, amount numeric(10,2) NOT NULL, made timestamptz, note text)")
    good, bad = uuid.UUID(int=0xABC), uuid.UUID(int=2)
    made = dt.datetime(2024, 5, 6, 7, 8, 9, tzinfo=dt.UTC)
    market.stock(
        [
            {"_id": _binary(good), "price": {"amount": 99.9}, "made": made, "note": "new"},
            {"_id": str(bad), "price": "free"},
        ],
        collection="goods",
    )
    market.sql("INSERT INTO goods VALUES (%s, 99.90, '2024-05-06 07:08:09+00', 'old')", str(good))
    report = show(str(good))
    assert (report.state, report.differences) == ("equal", []), "what is written on insert only is not compared"
    assert only(report).fields["price.amount"] == '{"$numberDouble": "99.9"}'
    assert (report.target_row or {})["amount"] == "99.90"
    broken = only(show(str(bad)))
    assert broken.fields["price.amount"] == '"free"', "what stands in the way"
    assert [defect.reason for defect in broken.defects] == ["wrong_type"]
    assert show("no uuid").state == "nowhere"
    assert show(str(good).upper()).state == "nowhere"


def test_the_command_prints_all_of_it_and_its_status_says_whether_both_agree(here: Market) -> None:
    outcome = here.run("show", "--json", "p0001")
    assert outcome.status == 0, outcome
    assert set(outcome.answer) == {
        "sync", "id", "state", "documents", "target_row", "differences", "quarantine", "earlier", "exclusions",
    }  # fmt: skip
    assert outcome.answer["documents"][0]["fields"]["price"] == '{"$numberInt": "101"}'
    hostile = "[red]\x1b[2J"
    here.stock([product(8, _id=hostile, price="a lot")])
    here.copy([product(8, _id=hostile)])
    outcome = here.run("show", hostile)
    assert outcome.status == 1
    for part in (
        "Document",
        "(string)",
        '"a lot"',
        "wrong_type",
        "Row of the target",
        "108",
        "[red]",
        "cannot be copied",
    ):
        assert part in outcome.stdout
    assert "\x1b[2J" not in outcome.stdout, "a product does not get hold of the terminal"


@pytest.mark.usefixtures("here")
def test_a_side_that_cannot_be_read_is_said_and_no_password_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CART_DB_URL", "postgresql://syncer:sesame@127.0.0.1:1/cart")
    report = show("p0001")
    assert (report.exit_status, report.state) == (3, None)
    answer = report.as_json()
    assert answer["error"]["code"] == "unreachable"
    assert "sesame" not in str(answer)


def test_nothing_is_written_anywhere(here: Market) -> None:
    here.forget_all()
    before = here.rows()
    show("p0001")
    show("p9999")
    assert here.rows() == before
    assert not here.state.exists()
