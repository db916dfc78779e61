"""The benchmark's judge: what a contestant loses, alters or leaves is found and counted, on a real table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from pymongo import MongoClient

from product_sync_bench.verification import Shape, Verdict, count_differences, line, shape, verify, write_expected

COUNT = 20
COPY = 'COPY product (id, title, price, image, "sellerId", quantity) FROM STDIN'


def rows() -> Iterator[tuple[object, ...]]:
    for number in range(COUNT):
        yield f"{number:024x}", f"Título\t{number} \\ n", number, "a.png", "s", 1


@pytest.fixture
def judged(mongodb_url: str, cart_url: str, product_table: str, tmp_path: Path) -> Iterator[Judge]:
    names = ("_id", "title", "price", "image", "sellerId", "quantity")
    with MongoClient[dict[str, object]](mongodb_url) as client:
        documents = [dict(zip(names, row, strict=True)) for row in rows()]
        client.get_default_database()["products"].insert_many(documents[::-1])
    with psycopg.connect(cart_url, autocommit=True) as connection:
        with connection.cursor().copy(COPY) as copy:
            for row in rows():
                copy.write_row(row)
        yield Judge(mongodb_url, cart_url, tmp_path / "expected", connection)


class Judge:
    """The source, an equal target, and a connection to spoil it."""

    def __init__(self, mongodb_url: str, cart_url: str, file: Path, connection: psycopg.Connection) -> None:
        self.connection = connection
        self._url = cart_url
        self._file = file
        self._digest = write_expected(mongodb_url, file)
        self._before = shape(connection)

    def verdict(self) -> Verdict:
        return verify(self._url, self._file, self._digest, self._before)


def test_an_equal_table_has_nothing_wrong(judged: Judge) -> None:
    assert judged.verdict() == Verdict()


def test_a_lost_row_an_altered_row_and_a_row_too_many_are_counted(judged: Judge) -> None:
    judged.connection.execute("DELETE FROM product WHERE price IN (0, 7)")
    judged.connection.execute("UPDATE product SET quantity = 2 WHERE price IN (3, 4, 19)")
    judged.connection.execute("INSERT INTO product VALUES ('zzz', 't', 1, 'i', 's', 1)")
    found = judged.verdict()
    assert (found.missing, found.differing, found.extra) == (2, 3, 1)
    assert not found.rows_are_right


def test_a_value_turned_into_null_is_an_altered_row(judged: Judge) -> None:
    judged.connection.execute("ALTER TABLE product ALTER title DROP NOT NULL")
    judged.connection.execute("UPDATE product SET title = NULL WHERE price = 5")
    assert judged.verdict().differing == 1


def test_an_altered_table_is_described(judged: Judge) -> None:
    judged.connection.execute("ALTER TABLE product ALTER price TYPE bigint, ALTER image DROP NOT NULL, ADD note text")
    judged.connection.execute("ALTER TABLE product DROP CONSTRAINT product_pkey")
    found = judged.verdict()
    assert sorted(found.altered_table) == [
        "constraint product product_pkey dropped",
        "image: text NOT NULL became text",
        "note added",
        "price: integer NOT NULL became bigint NOT NULL",
    ]
    assert found.rows_are_right


def test_tables_left_behind_are_named(judged: Judge) -> None:
    judged.connection.execute("CREATE SCHEMA staging; CREATE TABLE staging.product (id text)")
    assert judged.verdict().left_behind == ["staging.product"]


def test_a_table_that_is_gone_is_a_verdict_and_no_crash(judged: Judge) -> None:
    judged.connection.execute("DROP TABLE product")
    found = judged.verdict()
    assert "does not exist" in found.unreadable
    assert not found.rows_are_right


def test_a_table_that_was_replaced_by_one_without_its_columns_is_unreadable(judged: Judge) -> None:
    judged.connection.execute('ALTER TABLE product RENAME "sellerId" TO seller_id')
    found = judged.verdict()
    assert "sellerId" in found.unreadable
    assert "sellerId dropped" in found.altered_table


def test_an_id_that_comes_twice_is_one_too_many() -> None:
    verdict = Verdict()
    count_differences([b"a\t1\n", b"b\t1\n"], [b"a\t1\n", b"a\t1\n", b"b\t1\n"], verdict)
    assert (verdict.missing, verdict.differing, verdict.extra) == (0, 0, 1)


@pytest.mark.parametrize(
    ("expected", "actual", "counts"),
    [
        ([], [b"a\t1\n"], (0, 0, 1)),
        ([b"a\t1\n"], [], (1, 0, 0)),
        ([b"a\t1\n", b"c\t1\n"], [b"b\t1\n", b"c\t2\n"], (1, 1, 1)),
        ([], [], (0, 0, 0)),
    ],
)
def test_streams_are_merged_to_their_very_end(
    expected: list[bytes], actual: list[bytes], counts: tuple[int, int, int]
) -> None:
    verdict = Verdict()
    count_differences(expected, actual, verdict)
    assert (verdict.missing, verdict.differing, verdict.extra) == counts


def test_a_line_is_what_copy_writes(cart_url: str) -> None:
    values = ("a\\b\tc\nd\re\bf\vg\fh", None, 7)
    with psycopg.connect(cart_url) as connection:
        connection.execute("CREATE TEMPORARY TABLE one (a text, b text, c integer)")
        connection.execute("INSERT INTO one VALUES (%s, %s, %s)", values)
        with connection.cursor().copy("COPY one TO STDOUT") as copy:
            assert b"".join(bytes(block) for block in copy) == line(values)


def test_the_shape_knows_who_references_the_table(cart_url: str, product_table: str) -> None:
    with psycopg.connect(cart_url) as connection:
        connection.execute("CREATE TABLE cart_item (product_id text REFERENCES product (id))")
        found = shape(connection)
    assert isinstance(found, Shape)
    assert "cart_item cart_item_product_id_fkey" in found.constraints
