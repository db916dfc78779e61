"""Campaigns that try to break the promises of `product_sync`: seeded, on real servers, with reports in ``docs``."""
