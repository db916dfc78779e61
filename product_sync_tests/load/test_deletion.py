"""Nothing is deleted while there is a reason not to."""

from __future__ import annotations

import pytest
from bson import ObjectId
from bson.int64 import Int64

from product_sync.load.deletion import DeletionFacts, present_in_source, reason_to_keep
from product_sync_tests.fakes import FakeSource
from product_sync_tests.source_contract import UUID_ID, product, product_row_schema


def facts(
    extra: int = 5,
    target_count: int = 100,
    *,
    complete: bool = True,
    cascading: tuple[str, ...] = (),
    max_delete_share: float = 0.05,
) -> DeletionFacts:
    return DeletionFacts(extra, target_count, complete, cascading, max_delete_share)


def test_a_few_extra_rows_may_go() -> None:
    assert reason_to_keep(facts()) is None
    assert reason_to_keep(facts(extra=0, target_count=0)) is None


@pytest.mark.parametrize(
    ("kept", "because"),
    [
        (facts(complete=False), "source snapshot"),
        (facts(cascading=("cart_item_product_fkey",)), "cart_item_product_fkey"),
        (facts(extra=6), "6 of 100 rows are extra, which is more than 5 %"),
        (facts(extra=6, max_delete_share=0.001), "6 of 100 rows are extra, which is more than 0.1 %"),
    ],
)
def test_no_row_may_go_while_a_guard_objects_and_it_says_why(kept: DeletionFacts, because: str) -> None:
    found = reason_to_keep(kept)
    assert found is not None
    assert because in found


@pytest.mark.parametrize("bson_id", [ObjectId(), "text", 7, Int64(7), 2**40, UUID_ID])
def test_an_id_is_absent_only_if_no_type_of_id_has_its_text(bson_id: object) -> None:
    source = FakeSource(product_row_schema(), [product(bson_id)])
    assert present_in_source([str(bson_id), "other"], source) == {str(bson_id)}
