"""The small shop that the tests of this layer run on."""

from product_sync_tests.shop import shop

__all__ = ["shop"]
