"""Every link of the guide leads somewhere, the index names every page, each text in the form of a command is one."""

from __future__ import annotations

import ast
import re
import shlex

import click
import pytest

from product_sync import cli
from product_sync_tests.docs.pages import DOCS, ROOT, Page, all_pages

#: Languages that a fenced block may name. What is typed is `console`, so that `test_guide_runs.py` finds it.
LANGUAGES = {"console", "python", "sql", "js", "yaml", "ini", "json", "promql", "text"}
PAGES = pytest.mark.parametrize("shown", all_pages(), ids=lambda shown: shown.name)


@PAGES
def test_every_link_leads_to_a_file_and_a_heading(shown: Page) -> None:
    for link in shown.links:
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (shown.path.parent / name).resolve() if name else shown.path
        assert target.exists(), f"{shown.name}: {link}"
        assert target.is_relative_to(ROOT), f"{shown.name}: {link}"
        if anchor:
            assert anchor in Page(target).anchors, f"{shown.name}: {link}"


@PAGES
def test_every_fenced_block_names_its_language(shown: Page) -> None:
    for fence in shown.fences:
        assert fence.language in LANGUAGES, f"{shown.name}: {fence.language or 'none'} over {fence.text[:60]!r}"


@PAGES
def test_what_is_typed_stands_behind_a_prompt_in_a_console(shown: Page) -> None:
    typed = re.compile(r"^(\$ |product-sync |dagster |make |pip |docker |systemctl |helm |export )", re.MULTILINE)
    for fence in shown.fences:
        if fence.language != "console":
            assert not typed.search(fence.text), f"{shown.name}: {fence.text[:60]!r}"
        else:
            assert fence.text.startswith("$ "), f"{shown.name}: {fence.text[:60]!r}"


@PAGES
def test_every_command_that_is_named_exists_with_its_flags(shown: Page) -> None:
    named = re.findall(r"`product-sync ([^`]+)`", shown.prose)
    typed = [
        line.removeprefix("$ product-sync ")
        for fence in shown.fences
        for line in fence.text.splitlines()
        if line.startswith("$ product-sync ")
    ]
    for text in [*named, *typed]:
        arguments = shlex.split(text, comments=True)
        if arguments[0].startswith("-"):
            continue
        command = cli.cli.commands[arguments[0].rstrip("…")]
        context = click.Context(command, info_name=arguments[0], resilient_parsing=True)
        command.parse_args(context, [word for word in arguments[1:] if word != "…"])


def test_every_target_of_make_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for shown in all_pages():
        named = re.findall(r"`make ([a-z-]+)", shown.prose) + re.findall(
            r"^\$ make ([a-z-]+)", shown.text, re.MULTILINE
        )
        assert set(named) <= targets, shown.name


def test_the_index_names_every_page() -> None:
    index = Page(DOCS / "README.md")
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in index.links}
    pages = {path for path in DOCS.rglob("*.md") if path != index.path and path.parent != DOCS / "decisions"}
    assert pages <= linked
    assert DOCS / "decisions" in linked


CONTRIBUTING = Page(ROOT / "CONTRIBUTING.md")
#: Where a name between backticks that looks like a path is looked up.
_BELOW = ("", "product_sync", "product_sync_bench", "product_sync_tests")
_PATH = re.compile(
    r"`((?:[\w.-]+/)*[\w-]+\.(?:py|cfg|toml|md|yaml)|(?:[\w-]+/)+|(?:sources|targets|orchestration)/\w+)`"
)
_SUPERSEDED = re.compile(r"^Superseded by \[\d{4}\]\([\w-]+\.md\): .+$", re.MULTILINE)


def named_paths(text: str) -> list[str]:
    return _PATH.findall(text)


def decisions() -> list[Page]:
    """The records that still hold."""
    pages = map(Page, sorted((DOCS / "decisions").glob("*.md")))
    return [shown for shown in pages if not _SUPERSEDED.match(shown.text.split("\n", 2)[2])]


@pytest.mark.parametrize("shown", [CONTRIBUTING, *decisions()], ids=lambda shown: shown.name)
def test_every_file_and_function_that_a_page_for_developers_names_exists(shown: Page) -> None:
    for name in named_paths(shown.prose):
        assert any((ROOT / folder / name).exists() for folder in _BELOW), f"{shown.name} names {name}"
    modules = {file.stem for file in (ROOT / "product_sync").rglob("*.py")}
    for module, name in re.findall(r"`(\w+)\.(\w+)(?:\([^`]*\))?`", shown.prose):
        if module in modules and name not in ("py", "txt", "yaml"):
            files = (ROOT / "product_sync").rglob(f"{module}.py")
            assert any(re.search(rf"\b{name}\b", file.read_text()) for file in files), f"{shown.name}: {module}.{name}"


def test_every_docstring_can_be_printed() -> None:
    """An escape in a docstring may be half a surrogate pair, on which `help` ends with an error."""
    texts = (file.read_text() for file in (ROOT / "product_sync").rglob("*.py"))
    for text in (text for text in texts if "\\" in text):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                (ast.get_docstring(node) or "").encode()


def test_the_picture_shows_every_package_and_the_table_says_where_to_change_what() -> None:
    picture, prose = CONTRIBUTING.fences[1].text, CONTRIBUTING.prose
    packages = [file.parent.name for file in (ROOT / "product_sync").glob("*/__init__.py")]
    assert not [name for name in packages if name not in picture and f"`{name}" not in prose]
    steps = ["sources", "conversion", "compare", "load", "verify", "notify"]
    assert sorted(steps, key=picture.index) == steps, "in the order of the data"
    rows = {row["to change"]: row["touch"] for row in CONTRIBUTING.rows("to change", "touch")}
    for subject in ("BSON", "column type", "check", "alert channel", "target database", "source", "sync", "scope"):
        assert any(subject in what for what in rows), subject
    assert [what for what, touch in rows.items() if not named_paths(touch)] == []


def test_the_index_of_the_decisions_names_each_with_its_title() -> None:
    index = (DOCS / "decisions" / "README.md").read_text().splitlines()
    records = map(Page, sorted((DOCS / "decisions").glob("[0-9]*.md")))
    lines = [f"- [{shown.text.splitlines()[0].removeprefix('# ')}]({shown.path.name})" for shown in records]
    assert [line for line in lines if line not in index] == []


def test_a_decision_that_no_longer_holds_says_so_first() -> None:
    marked = [shown for shown in map(Page, (DOCS / "decisions").glob("*.md")) if "Superseded" in shown.text]
    assert marked
    for shown in marked:
        assert shown.text.splitlines()[2].startswith(("Superseded by [", "Superseded in part by [")), shown.name
