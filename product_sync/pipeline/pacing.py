"""Builds the pacing policy of a run from its options, with a pressure probe if the policy needs one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from product_sync.load.pacing import AdaptivePacing, AdaptiveSettings, FixedPacing, Pacing
from product_sync.runtime.clock import Timing
from product_sync.schema.addresses import TargetAddress
from product_sync.settings import RunOptions
from product_sync.targets.postgres.pressure import PostgresPressure


@contextmanager
def pacing_of_load(settings: RunOptions, target: TargetAddress, timing: Timing) -> Iterator[Pacing]:
    """The pacing policy of one load."""
    if settings.pacing == "fixed":
        yield _fixed(settings)
        return
    with PostgresPressure(target) as probe:
        yield AdaptivePacing(_adaptive(settings), probe, timing)


def pacing_without_pressure(settings: RunOptions, timing: Timing) -> Pacing:
    """The policy for an estimate: as if nobody else used the target."""
    if settings.pacing == "fixed":
        return _fixed(settings)
    return AdaptivePacing(_adaptive(settings), None, timing)


def flush_within_s(settings: RunOptions) -> float | None:
    """How many seconds a committed batch may stay unflushed, so that other clients can commit faster: the pause after a
    batch. ``None`` if each COMMIT waits for the disk."""
    return None if settings.pacing == "fixed" else _adaptive(settings).rest_s


def _fixed(settings: RunOptions) -> FixedPacing:
    return FixedPacing(settings.batch_size, settings.batch_delay_ms)


def _adaptive(settings: RunOptions) -> AdaptiveSettings:
    return AdaptiveSettings(settings.target_batch_s, settings.max_duty, settings.batch_size)
