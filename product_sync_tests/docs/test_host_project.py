"""docs/host-projects.md, done from the first line to the last in a fresh Dagster project that has things of its own."""

from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster.components.core.component_tree import ComponentTreeException
from dagster.components.testing import create_defs_folder_sandbox

from product_sync import SyncComponent
from product_sync.errors import MappingError
from product_sync_tests.docs.pages import page
from product_sync_tests.docs.session import Session
from product_sync_tests.market import Market, product, products

#: What the project has before: `dg`'s layout, resources with the names that a project is likely to have, an executor.
PROJECT = {
    "pyproject.toml": """
[project]
name = "shop"
version = "0"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "shop"
code_location_target_module = "shop.definitions"
""",
    "shop/__init__.py": "",
    "shop/definitions.py": """
from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
""",
    "shop/defs/__init__.py": "",
    "shop/resources.py": """
from pathlib import Path

import dagster as dg
import pandas as pd


class CsvIOManager(dg.ConfigurableIOManager):
    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        obj.to_csv(Path(context.asset_key.to_user_string()).with_suffix(".csv"), index=False)

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        return pd.read_csv(Path(context.asset_key.to_user_string()).with_suffix(".csv"))


class Mongo(dg.ConfigurableResource):
    answer: int
""",
    "shop/defs/assets.py": """
import dagster as dg
import pandas as pd

from shop.resources import Mongo


@dg.asset
def own_asset(mongodb: Mongo, sync: Mongo) -> pd.DataFrame:
    return pd.DataFrame({"answer": [mongodb.answer + sync.answer]})
""",
    "shop/defs/resources.py": """
import dagster as dg

from shop.resources import CsvIOManager, Mongo


@dg.definitions
def own() -> dg.Definitions:
    return dg.Definitions(
        resources={"mongodb": Mongo(answer=42), "sync": Mongo(answer=1), "io_manager": CsvIOManager()},
        executor=dg.in_process_executor,
    )
""",
}


SELLERS = [f"s{number:02}" for number in range(25)]


@pytest.fixture
def session(market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """All sellers and two products are missing in the target, which has one seller that is gone from the source."""
    market.sql("CREATE TABLE seller (id text PRIMARY KEY, name text NOT NULL)")
    market.sql("INSERT INTO seller VALUES ('s99', 'Gone')")
    market.stock([{"_id": seller, "name": f"Seller {seller}"} for seller in SELLERS], "sellers")
    market.stock(products(3))
    market.copy([product(0, title="An old title")])
    folder = tmp_path / "project"
    for name, text in PROJECT.items():
        write(folder / name, text)
    opened = Session(market, folder, monkeypatch)
    (tmp_path / "home").mkdir()
    opened.export("DAGSTER_HOME", str(tmp_path / "home"))
    return opened


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_project_with_its_own_resources_takes_two_syncs_and_uses_their_results(session: Session) -> None:
    for fence in page("host-projects.md").fences:
        if file := re.fullmatch(r"`(shop/[\w/.]+)`:", fence.before):
            write(session.folder / file[1], fence.text)
        else:
            session.follow(fence)
            if "dg scaffold" in fence.text:
                scaffolded = yaml.safe_load((session.folder / "shop/defs/seller/defs.yaml").read_text())
                assert SyncComponent.resolve_from_dict(scaffolded["attributes"]).sync.name == "seller"
    assert len(session.market.rows()) == 3
    assert (session.folder / "own_asset.csv").read_text() == "answer\n43\n"
    drifted = (session.folder / "drifted_sellers.csv").read_text().split()
    assert drifted == ["op,id", *(f"insert,{seller}" for seller in SELLERS), "extra,s99"]
    with dg.DagsterInstance.get() as instance:
        [run] = instance.get_run_records(limit=1)
        said = [
            event.dagster_event.asset_check_evaluation_data.description or ""
            for event in instance.all_logs(run.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
            if event.dagster_event
        ]
    [command] = re.findall(r"`(dg .*?delete.*?)`", " ".join(said))
    session.type(command)
    assert session.market.sql("SELECT id FROM seller ORDER BY id") == [(seller,) for seller in SELLERS]


@pytest.mark.parametrize(
    ("attribute", "told"),
    [
        ("source: {collection: a, url: b}", 'source has the key "url", which does not exist. Allowed: collection'),
        (
            "columns: {id: {source: _id}, a: {sauce: a}}",
            'columns.a has the key "sauce", did you mean "source"? Allowed: source, ',
        ),
        ("schedule: {cron: 5}", "schedule.cron is the number 5; expected text."),
        ("shedule: {cron: 5}", 'the mapping has the key "shedule", did you mean "schedule"? Allowed: name, '),
        ("name: Shop", 'name is the text "Shop"; expected lower-case letters'),
    ],
)
def test_a_mistake_in_the_attributes_is_named_with_its_line(attribute: str, told: str) -> None:
    lines = ["name: a", "source: {collection: a}", "target: {table: a}", "columns: {id: {source: _id}, a: {source: a}}"]
    kept = [line for line in lines if line.partition(":")[0] != attribute.partition(":")[0]]
    with pytest.raises(MappingError) as refused:
        SyncComponent.resolve_from_yaml("\n".join([*kept, attribute]))
    assert f", line {len(kept) + 1}: {told}" in str(refused.value)


def test_a_component_that_is_wrong_names_its_file() -> None:
    with create_defs_folder_sandbox() as project:
        folder = project.scaffold_component(component_cls=SyncComponent, defs_path="seller")
        text = (folder / "defs.yaml").read_text()
        write(folder / "defs.yaml", text.replace("source: _id", "sauce: _id").replace("collection:", "colection:"))
        with pytest.raises(ComponentTreeException) as refused, project.build_all_defs():
            pass
    cause = refused.value.__cause__
    assert isinstance(cause, MappingError)
    said = [re.search(r"seller/defs\.yaml, line (\d+): (\S+)", line) for line in cause.message.split("\n")]
    assert [found and found.groups() for found in said] == [("5", "source"), ("6", "source"), ("12", "columns.id")]


@pytest.mark.filterwarnings("ignore:.* is currently in beta")  # Dagster uses such parts of its own
def test_two_components_of_one_table_are_refused_unless_they_are_of_different_tenants() -> None:
    with create_defs_folder_sandbox() as project:

        def scaffold(name: str, columns: dict[str, object]) -> None:
            attributes = {
                "name": name,
                "source": {"collection": name},
                "target": {"table": "seller"},
                "columns": {"id": {"source": "_id"}, **columns},
            }
            content = {"type": "product_sync.SyncComponent", "attributes": attributes}
            project.scaffold_component(component_cls=SyncComponent, defs_path=name, defs_yaml_contents=content)

        scaffold("eu", {"shop": {"value": "eu"}})
        scaffold("us", {"name": {"source": "name"}})
        with pytest.raises(ComponentTreeException) as refused, project.build_all_defs():
            pass
        told = "The component eu and the component us both have the target table public.seller of CART_DB_URL."
        assert told in str(refused.value.__cause__)
        scaffold("us", {"shop": {"value": "us"}})
        with project.build_all_defs() as defs:
            assert {"eu_sync", "us_sync"} <= {job.name for job in defs.resolve_all_job_defs()}
