"""Every command of the README and the guide that can run here is run, page by page, against the real servers.

Those that cannot have a line ``<!-- not run here: why -->`` above their block. `test_privileges.py` executes its page
by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from product_sync import api
from product_sync.embedded.servers import Servers
from product_sync_tests.databases import cart_database
from product_sync_tests.docs.pages import ROOT, Fence, Page, all_pages
from product_sync_tests.docs.session import Session
from product_sync_tests.market import Market, product

NOT_HERE = re.compile(r"<!-- not run here: .+ -->")
COPIED, IN_SHOP = 100, 120


def runs(shown: Page) -> list[Fence]:
    """The blocks of a page that are executed."""
    if shown.name in ("docs/host-projects.md", "docs/cookbook.md"):
        return []  # `test_host_project.py` and `test_cookbook.py` do what they say
    languages = {"console", "python", "sql"} if shown.name != "docs/privileges.md" else {"console", "python"}
    return [each for each in shown.fences if each.language in languages and not NOT_HERE.fullmatch(each.before)]


PAGES = [shown for shown in all_pages() if runs(shown)]


@pytest.fixture
def session(market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """Twenty products are missing, three have another price, and one cannot be copied.

    None is extra: a proof that has differences looks at them twice, five seconds apart.
    """
    catalogue = [product(number, shipping={"weightGrams": number}) for number in range(IN_SHOP)]
    market.stock([*catalogue, product(7000, price="a lot")])
    market.copy([{**each, "price": 1} for each in catalogue[:3]] + catalogue[3:COPIED])
    folder = tmp_path / "folder"
    folder.mkdir()
    return Session(market, folder, monkeypatch)


@pytest.mark.parametrize("shown", PAGES, ids=lambda shown: shown.name)
def test_what_the_page_says_can_be_done(shown: Page, session: Session, request: pytest.FixtureRequest) -> None:
    if shown.name in PREPARED:
        PREPARED[shown.name](session, shown)
    if shown.name in WITH_DAGSTER:
        request.getfixturevalue("dagster_home")
    for fence in runs(shown):
        session.follow(fence)


def write_the_mappings(session: Session, shown: Page) -> None:
    """What the reader of the page has saved, and the second pair of collection and table."""
    for name, holds in (("mapping", "weight_grams: {"), ("sellers", "collection: sellers")):
        [text] = [fence.text for fence in shown.fences if fence.text.startswith("source:") and holds in fence.text]
        (session.folder / f"{name}.yaml").write_text(text)
    session.market.sql("CREATE TABLE seller (id text PRIMARY KEY, name text NOT NULL)")
    session.market.stock([{"_id": "s1", "name": "Sara"}], "sellers")


def sync_once(session: Session, shown: Page) -> None:
    api.sync().raise_for_error()


PREPARED: dict[str, Callable[[Session, Page], None]] = {
    "docs/mapping.md": write_the_mappings,
    "docs/quarantine.md": sync_once,
}
WITH_DAGSTER = {"docs/upgrading.md"}


@pytest.fixture
def dagster_home(servers: Servers, session: Session) -> Iterator[None]:
    """An instance as in production: the project's ``dagster.yaml`` and a database of its own."""
    with cart_database(servers) as url:
        (session.folder / "dagster.yaml").write_bytes((ROOT / "dagster.yaml").read_bytes())
        session.export("DAGSTER_HOME", str(session.folder))
        session.export("DAGSTER_PG_URL", url.replace("postgresql://", "postgresql+psycopg2://"))
        yield


def test_the_pages_that_are_run_are_those_that_say_how() -> None:
    assert {shown.name for shown in PAGES} >= {
        "README.md",
        *(f"docs/{name}.md" for name in ("setup", "plan", "programs")),
    }


def test_a_command_that_fails_and_an_output_that_differs_are_noticed(session: Session) -> None:
    with pytest.raises(AssertionError, match="sync_overdue"):
        session.follow(Fence("console", "$ product-sync stats --max-age 1h", ""))
    with pytest.raises(AssertionError, match="Statistics"):
        session.follow(Fence("console", "$ product-sync stats\nStatistics\nand nothing else", ""))
    with pytest.raises(AssertionError, match="false"):
        session.follow(Fence("console", "$ false", ""))
    session.follow(Fence("console", "$ product-sync stats\nSync: product\nStatistics\n…\n$ echo $HOME >out", ""))
