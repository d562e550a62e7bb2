"""The documentation is consistent: links, index, names of files, layout, import order."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from itertools import zip_longest
from pathlib import Path

import pytest

from tests.support.markdown import (
    find_code_blocks,
    find_inline_code,
    find_links,
    list_anchors,
)
from tests.support.paths import ROOT
from tests.test_architecture import LAYERS

PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *(ROOT / "docs").glob("*.md"),
    ]
)
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TOP = ("resnet_tasks", "data_tools", "benchmarks", "recipes", "examples", "tests", "docs")
"""Folders of the project that a page may name a file of."""
PLACEHOLDER = re.compile(r"[^/]*(?:NAME|FIELD|DATASET)")
"""First part of a path that stands for any name: only the folder above it must exist."""


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_page(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def find_broken_links(page: Path) -> list[str]:
    """Return the relative links of a page whose file or heading does not exist."""
    broken = []
    for link in find_links(read(page)):
        if re.match(r"[a-z]+://", link):
            continue
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        is_broken = not path.exists()
        if anchor and not is_broken:
            is_broken = path.suffix != ".md" or anchor not in list_anchors(read(path))
        if is_broken:
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_links_and_anchors_resolve(page: Path) -> None:
    assert find_broken_links(page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# A heading, with `code`\n## Twice\n## Twice\n")
    page.write_text(
        "# Here\n[a](other.md) [b](missing.md) [c](other.md#a-heading-with-code) [d](other.md#x)\n"
        "[e](#here) [f](#there) [g](https://example.org/x) ![h](other.md#twice-1) `[i](no.md)`\n"
        "```python\nx = y[1](none.md)\n```\n[j](other.md#twice-2)\n"
    )
    assert find_broken_links(page) == ["missing.md", "other.md#x", "#there", "other.md#twice-2"]


def test_the_index_lists_every_page_once() -> None:
    index = ROOT / "docs" / "README.md"
    tables = [line for line in read(index).splitlines() if line.startswith("|")]
    links = [link for line in tables for link in find_links(line)]
    assert sorted(links) == sorted(
        [
            *("../CONTRIBUTING.md", "../SECURITY.md"),
            *(page.name for page in index.parent.glob("*.md") if page != index),
        ]
    )


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_named_files_exist(page: Path) -> None:
    """Paths such as `tests/test_docs.py` and modules such as `resnet_tasks.model.TaskModel`."""
    missing = []
    for code in find_inline_code(read(page)):
        if re.fullmatch(rf"(?:{'|'.join(TOP)})/[\w./-]+", code):
            path = re.split(PLACEHOLDER, code)[0]
            missing += [] if (ROOT / path).exists() else [code]
        elif re.fullmatch(r"(?:resnet_tasks|data_tools|benchmarks)(?:\.\w+)+", code):
            missing += [] if has_python_name(code) else [code]
    assert missing == []


@cache
def list_entry_point_groups() -> set[str]:
    """Entry point groups of the registries, which look like names of modules."""
    sources = [
        path for name in ("resnet_tasks", "data_tools") for path in (ROOT / name).rglob("*.py")
    ]
    return {group for path in sources for group in re.findall(r'group="([\w.]+)"', read(path))}


def has_python_name(dotted: str) -> bool:
    """Return whether a dotted name is a module, a name in a module, or an entry point group."""
    if dotted in list_entry_point_groups():
        return True
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        for module in (path.with_suffix(".py"), path / "__init__.py"):
            if module.is_file():
                text = read(module)
                return all(re.search(rf"\b{name}\b", text) for name in parts[length:])
    return False


def test_wrong_python_names_are_found() -> None:
    assert has_python_name("resnet_tasks.model.TaskModel.forward")
    assert has_python_name("resnet_tasks.combiners")
    assert not has_python_name("resnet_tasks.model.TaskModels")
    assert not has_python_name("resnet_tasks.models")
    assert not has_python_name("elsewhere.model")


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_python_of_the_pages_is_valid(page: Path) -> None:
    for block in find_code_blocks(read(page), "python"):
        ast.parse(block)


def test_the_layout_matches_the_folders() -> None:
    """Every folder that holds tracked files has one line, with the summary of its package."""
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout, so that tracked files cannot be listed")
    folders = {str(parent) for path in tracked for parent in Path(path).parents} - {"."}
    folders = {path for path in folders if not path.startswith("tests/")}
    lines = find_code_blocks(ARCHITECTURE.split("## Layout")[1], "text")[0].splitlines()
    expected = make_layout(folders, lines)
    for line, expected_line in zip_longest(lines, expected):
        assert line == expected_line, f"docs/architecture.md: expected the line\n{expected_line}"


def make_layout(folders: set[str], lines: list[str]) -> list[str]:
    """Return the lines of the layout, in the order of the folders' names.

    Args:
        folders: Paths of the folders.
        lines: Present lines, which describe the folders that are no packages.
    """
    descriptions = {line.split()[0]: line.partition("/ ")[2].strip() for line in lines}
    expected = []
    for folder in sorted(folders, key=lambda path: path.split("/")):
        name = folder.rpartition("/")[2]
        package = ROOT / folder / "__init__.py"
        summary = descriptions.get(f"{name}/", "DESCRIBE THIS FOLDER IN ONE LINE")
        if package.is_file():
            docstring = ast.get_docstring(ast.parse(read(package))) or ""
            summary = docstring.partition("\n")[0].removesuffix(".")
        expected.append(f"{'  ' * folder.count('/') + name + '/':28} {summary}")
    return expected


def test_a_new_folder_is_missed() -> None:
    """A package has the summary of its docstring, any other folder the description it has."""
    lines = ["docs/                        pages"]
    assert make_layout({"docs", "docs/new", "tests"}, lines) == [
        "docs/                        pages",
        "  new/                       DESCRIBE THIS FOLDER IN ONE LINE",
        "tests/                       DESCRIBE THIS FOLDER IN ONE LINE",
    ]


def test_the_import_order_is_that_of_the_architecture_test() -> None:
    block = find_code_blocks(ARCHITECTURE.split("## Import order")[1], "text")[0]
    described = [line.partition("  ")[0].split(", ") for line in block.splitlines()]
    assert described == [*reversed(LAYERS)]
