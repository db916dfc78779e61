"""The pages hold together: links lead somewhere, the index names every page, and what looks like a command is one."""

from __future__ import annotations

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
