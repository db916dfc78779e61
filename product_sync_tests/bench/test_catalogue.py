"""The benchmark's catalogue: the same every time, its rows those that its documents become."""

from __future__ import annotations

import bson

from product_sync_bench.catalogue import Catalogue, ensure


def test_a_product_is_the_same_whatever_the_size_of_its_catalogue() -> None:
    assert Catalogue(10).document(7) == Catalogue(1_000_000).document(7)


def test_the_row_is_what_the_document_becomes() -> None:
    catalogue = Catalogue(100)
    for number in range(100):
        document = catalogue.document(number)
        fields = ("_id", "title", "price", "image", "sellerId", "quantity")
        texts = [str(document[name]) for name in fields]
        assert texts == [str(value) for value in catalogue.row(number)]


def test_an_irregular_product_has_the_same_row_and_one_field_of_another_type() -> None:
    regular, irregular = Catalogue(1_000), Catalogue(1_000, irregular=True)
    odd = [
        number
        for number in range(1_000)
        if bson.encode(regular.document(number)) != bson.encode(irregular.document(number))
    ]
    assert len(odd) == 10
    assert all(regular.row(number) == irregular.row(number) for number in odd)


def test_ids_differ_and_rise() -> None:
    catalogue = Catalogue(5_000)
    ids = [catalogue.row(number)[0] for number in range(5_000)]
    assert ids == sorted(set(ids))


def test_a_document_has_about_615_bytes() -> None:
    catalogue = Catalogue(2_000)
    sizes = [len(bson.encode(catalogue.document(number))) for number in range(2_000)]
    assert 605 < sum(sizes) / len(sizes) < 625


def test_a_stored_catalogue_is_made_once(mongodb_url: str) -> None:
    assert ensure(mongodb_url, Catalogue(300)) is True
    assert ensure(mongodb_url, Catalogue(300)) is False
    assert ensure(mongodb_url, Catalogue(200)) is True
