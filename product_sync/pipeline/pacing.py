"""Builds the pacing policy of a run from its options, with a pressure probe if the policy needs one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from product_sync.load.pacing import AdaptivePacing, AdaptiveSettings, FixedPacing, Pacing
from product_sync.runtime.clock import Timing
from product_sync.schema.addresses import TargetAddress
from product_sync.settings import RunOptions
from product_sync.targets.postgres.pressure import PostgresPressure


@contextmanager
def pacing_of_load(settings: RunOptions, target: TargetAddress, timing: Timing) -> Iterator[Pacing]:
    with PostgresPressure(target) if settings.pacing == "adaptive" else nullcontext() as probe:
        yield pacing_policy(settings, timing, probe)


def pacing_policy(settings: RunOptions, timing: Timing, probe: PostgresPressure | None = None) -> Pacing:
    """Without ``probe`` the policy is as if nobody else used the target: for an estimate."""
    if settings.pacing == "fixed":
        return FixedPacing(settings.batch_size, settings.batch_delay_ms)
    return AdaptivePacing(_adaptive(settings), probe, timing)


def flush_within_s(settings: RunOptions) -> float | None:
    """How many seconds a committed batch may stay unflushed, so that other clients can commit faster: the pause after a
    batch. ``None`` if each COMMIT waits for the disk."""
    return None if settings.pacing == "fixed" else _adaptive(settings).rest_s


def _adaptive(settings: RunOptions) -> AdaptiveSettings:
    return AdaptiveSettings(settings.target_batch_s, settings.max_duty, settings.batch_size)
