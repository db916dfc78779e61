"""Owners, links to the documentation and freshness policies on the pages of the assets.

They depend on settings only, so they are added where definitions are loaded to be shown. Only the proven copy has a
policy: a load is also recorded when its checks fail afterwards, and a snapshot also by a dry run, so their age does not
show when a sync last succeeded.
"""

from collections.abc import Iterable
from dataclasses import astuple

import dagster as dg

from product_sync.orchestration.names import PRODUCT, SyncNames
from product_sync.settings import PageSettings

Asset = dg.AssetsDefinition | dg.AssetSpec
_PAGE = "ui.md"


def with_pages(names: SyncNames, assets: Iterable[Asset], settings: PageSettings) -> list[Asset]:
    """The assets of one sync with owners, links to the documentation and the freshness policy."""
    sections = dict(zip(astuple(names), astuple(PRODUCT), strict=True))

    def describe(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        page = f"{_PAGE}#{sections[name]}"
        return spec.replace_attributes(
            owners=spec.owners or list(settings.owners),
            description=f"{spec.description} {_sentence(page, settings.docs_url)}",
            metadata={**spec.metadata, "docs": _link(page, settings.docs_url)},
            freshness_policy=_policy(settings) if name == names.proof else None,
        )

    return list(dg.map_asset_specs(describe, assets))


def _link(page: str, docs_url: str) -> dg.MetadataValue[str]:
    return dg.MetadataValue.url(f"{docs_url}/{page}") if docs_url else dg.MetadataValue.text(f"docs/{page}")


def _sentence(page: str, docs_url: str) -> str:
    """The same link below the description, where it is seen first."""
    return f"[What this page shows]({docs_url}/{page})" if docs_url else f"What this page shows: docs/{page}"


def _policy(settings: PageSettings) -> dg.FreshnessPolicy | None:
    """Red after the whole time, a warning after two thirds of it, if Dagster can measure that.

    The two are not closer because the UI rounds 45 minutes to an hour.
    """
    if settings.fresh_for is None:
        return None
    warn = settings.fresh_for * 2 / 3
    return dg.FreshnessPolicy.time_window(
        fail_window=settings.fresh_for, warn_window=warn if warn.total_seconds() >= 60 else None
    )
