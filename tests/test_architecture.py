"""Import order, cycles, re-exports, module length and folder size of the package."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("resnet_tasks", "data_tools", "benchmarks", "examples")

# Lowest layer first. A module may import its own layer and the layers above it in this list.
LAYERS: list[list[str]] = [
    ["errors", "number_formats", "foreign_text"],
    ["docstrings", "json_schema", "best_metric"],
    ["registry", "options", "option_help", "foreign_names"],
    ["files", "runtime"],
    ["structures", "recipe"],
    ["run_folder"],
    ["layers"],
    ["heads", "backbone"],
    ["data"],
    ["model"],
    ["visualization"],
    ["inference"],
    ["evaluation"],
    ["tasks", "model_weights"],
    ["exported"],
    ["assemble"],
    ["runs"],
    ["training", "profiling"],
    ["report", "export"],
    ["sharing"],
    ["cli"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
USERS_OF_TASKS = {"assemble", "exported", "runs"}
"""Layers that may import `tasks`; all others find a task by its name, in `structures.tasks`."""
FREE = {"testing"}
"""May import everything, and nothing may import it."""
NEVER = {
    ("heads", "backbone"),
    ("backbone", "heads"),
    ("structures", "recipe"),
    ("recipe", "structures"),
    ("heads", "recipe"),
    ("backbone", "recipe"),
    ("layers", "recipe"),
    ("data", "recipe"),
    ("model", "recipe"),
    ("inference", "recipe"),
    ("evaluation", "recipe"),
    ("files", "runtime"),
    ("report", "export"),
    ("export", "report"),
}
LAZY = {
    (
        "resnet_tasks.evaluation.results_files.evaluate_files",
        "resnet_tasks.evaluation.results_files.semantic",
    ),
    (
        "resnet_tasks.evaluation.results_files.evaluate_files",
        "resnet_tasks.evaluation.results_files.box_protocols",
    ),
    (
        "resnet_tasks.evaluation.results_files.evaluate_files",
        "resnet_tasks.evaluation.results_files.boxes",
    ),
    (
        "resnet_tasks.evaluation.results_files.evaluate_files",
        "resnet_tasks.evaluation.results_files.masks",
    ),
    (
        "resnet_tasks.data.coco.truth",
        "resnet_tasks.data.coco.read",
    ),
}
"""Imports by a string: each takes 10 to 20 ms, as long as the evaluation of a small clean file."""
LAZY_LIBRARIES = {
    ("resnet_tasks.data.coco.packed.images", "hashlib"),
    ("resnet_tasks.evaluation.coco.precision_curves", "scipy"),
}
"""Libraries that a function imports: OpenSSL takes 3 MB of every evaluation, few files need it;
SciPy takes 10 ms, and only intervals need it."""
LONGEST = 400
"""Lines of a module."""
MOST_MODULES = 17
"""Modules of a folder."""


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {_module_name(path): path for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
LAYERED = sorted(name for name in MODULES if name.startswith("resnet_tasks."))


@cache
def _tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


@cache
def _definitions(name: str) -> frozenset[str]:
    """Names that a module binds itself, imports excluded."""
    names: set[str] = set()
    for node in ast.walk(_tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return frozenset(names)


def _statement_imports(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """(module, imported name) of all import statements, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:
                assert alias.name != "*", "star import"
                submodule = f"{node.module}.{alias.name}"
                if submodule in MODULES:
                    yield submodule, None
                else:
                    yield node.module or "", alias.name


def _string_imports(tree: ast.AST) -> Iterator[str]:
    """Modules named by a string: `"resnet_tasks.a.b"` or `"resnet_tasks.a.b:name"`.

    The name of an entry point group (`group=`) is not one, though it may look like one.
    """
    groups = {
        keyword.value
        for keyword in ast.walk(tree)
        if isinstance(keyword, ast.keyword) and keyword.arg == "group"
    }
    for node in ast.walk(tree):
        if node in groups:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            module = node.value.partition(":")[0]
            if re.fullmatch(r"[\w.]+", module) and module in MODULES and "." in module:
                yield module


@cache
def _imports(name: str) -> frozenset[str]:
    """Modules of this project that a module imports: at the top, lazily, or by a string."""
    tree = _tree(name)
    modules = {module for module, _ in _statement_imports(tree)} | set(_string_imports(tree))
    return frozenset(module for module in modules if module in MODULES and module != name)


def _layer(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "resnet_tasks" and len(parts) > 1 else None


def test_every_module_has_a_layer() -> None:
    assert {_layer(name) for name in LAYERED} == set(LEVEL) | FREE


# `resnet_tasks/__init__.py` names every layer, lazily; all others follow the order.
@pytest.mark.parametrize("name", LAYERED)
def test_imports_point_downward(name: str) -> None:
    layer = _layer(name)
    assert layer is not None
    if layer in FREE:
        return
    for target in _imports(name):
        other = _layer(target)
        if other is None or other == layer:
            continue
        assert other not in FREE, f"{name} imports {target}"
        assert LEVEL[other] <= LEVEL[layer], f"{name} imports {target}, which lies above it"
        assert (layer, other) not in NEVER, f"{name} must not import {target}"
        assert other != "tasks" or layer in USERS_OF_TASKS, f"{name} must not import {target}"


def test_there_is_no_import_cycle() -> None:
    """Lazy imports and imports by a string count like those at the top of a module."""
    lazy_namespaces = {"resnet_tasks"}
    graph = {name: _imports(name) - lazy_namespaces for name in MODULES}
    visited: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join((*trail, name))}"
        if name in visited:
            return
        for target in sorted(graph[name]):
            visit(target, (*trail, name))
        visited.add(name)

    for name in sorted(set(graph) - lazy_namespaces):
        visit(name, ())
    assert len(visited) >= 300


@pytest.mark.parametrize("name", sorted(MODULES))
def test_names_are_imported_from_the_module_that_defines_them(name: str) -> None:
    for module, imported in _statement_imports(_tree(name)):
        if imported is None or module not in MODULES or module == "resnet_tasks":
            continue
        assert imported in _definitions(module), f"{name}: {module} does not define {imported}"


def test_modules_are_short() -> None:
    lengths = {
        name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()
    }
    too_long = {name: length for name, length in lengths.items() if length > LONGEST}
    assert not too_long, too_long


def test_folders_are_small() -> None:
    sizes = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    too_full = {str(folder): size for folder, size in sizes.items() if size > MOST_MODULES}
    assert not too_full, too_full


def test_imports_are_lazy_only_in_the_command_line_and_where_they_cost_much() -> None:
    lazy, libraries = set(), set()
    for name in LAYERED:
        if _layer(name) in ("cli", "__main__"):
            continue
        for function in ast.walk(_tree(name)):
            if isinstance(function, ast.FunctionDef):
                libraries |= {(name, module) for module, _ in _statement_imports(function)}
        packages = {"resnet_tasks.report"}  # resources
        lazy |= {(name, module) for module in set(_string_imports(_tree(name))) - packages}
    assert lazy == LAZY
    assert libraries == LAZY_LIBRARIES


def test_recipes_are_replaced_only_before_and_in_the_set_up() -> None:
    """Recipes are frozen; `replace_settings` makes a variant, and only these modules call it."""
    replacing = "resnet_tasks.recipe.replace"
    copying = {
        name
        for name in MODULES
        for node in ast.walk(_tree(name))
        if isinstance(node, ast.Attribute) and node.attr == "model_copy"
    }
    assert copying == {replacing}
    assert {name for name in MODULES if replacing in _imports(name)} == {
        "benchmarks.harness.shipped_recipes",
        "resnet_tasks.assemble.extend_run",
        "resnet_tasks.assemble.measured_settings",
        "resnet_tasks.assemble.recipe_problems",
        "resnet_tasks.assemble.split_files",
        "resnet_tasks.recipe.load",
        "resnet_tasks.recipe.path_removal",
        # Variants of a recipe, each before its own set-up.
        "resnet_tasks.training.experiments.cross_validation",
        "resnet_tasks.training.experiments.lr_finder",
        "resnet_tasks.training.experiments.seeds",
        # A copy to share; the run keeps its recipe.
        "resnet_tasks.sharing.contents",
    }


def test_data_tools_use_little_of_the_package() -> None:
    allowed = {
        "resnet_tasks.data.coco.box_formats",
        "resnet_tasks.data.coco.categories",
        "resnet_tasks.data.coco.dataset_file",
        "resnet_tasks.data.coco.json_records",
        "resnet_tasks.data.coco.masks",
        "resnet_tasks.data.coco.read",
        "resnet_tasks.data.coco.records",
        "resnet_tasks.data.doctor.repeated_objects",
        "resnet_tasks.data.images.channels",
        "resnet_tasks.data.images.declared_sizes",
        "resnet_tasks.data.images.decoding",
        "resnet_tasks.data.images.find_images",
        "resnet_tasks.data.images.image_damage",
        "resnet_tasks.data.images.image_files",
        "resnet_tasks.data.images.label_files",
        "resnet_tasks.data.images.lossy_formats",
        "resnet_tasks.data.images.size_limits",
        "resnet_tasks.data.images.tiff_inflation",
        "resnet_tasks.data.splits.splitting",
        "resnet_tasks.docstrings",
        "resnet_tasks.errors",
        "resnet_tasks.files.atomic",
        "resnet_tasks.files.foreign_files",
        "resnet_tasks.files.json_encoding",
        "resnet_tasks.files.json_files",
        "resnet_tasks.files.partial_paths",
        "resnet_tasks.files.safe_names",
        "resnet_tasks.files.text_encoding",
        "resnet_tasks.foreign_text",
        "resnet_tasks.json_schema",
        "resnet_tasks.option_help",
        "resnet_tasks.number_formats",
        "resnet_tasks.options",
        "resnet_tasks.recipe.dataset_hints",
        "resnet_tasks.recipe.yaml_text",
        "resnet_tasks.registry",
    }
    used = {
        module
        for name in MODULES
        if name.startswith("data_tools")
        for module in _imports(name)
        if module.startswith("resnet_tasks")
    }
    assert used == allowed
    users = [name for name in LAYERED if any(m.startswith("data_tools") for m in _imports(name))]
    assert all(name.startswith("resnet_tasks.cli.") for name in users), users


def test_import_is_light_and_silent() -> None:
    code = (
        "import sys, resnet_tasks; "
        "heavy = [m for m in ('torch', 'timm', 'albumentations', 'pydantic') if m in sys.modules]; "
        "assert not heavy, heavy; assert len(resnet_tasks.__all__) <= 15; "
        "assert all(hasattr(resnet_tasks, name) for name in resnet_tasks.__all__)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
