"""Who may import whom: arrows point downward, there are no cycles, and imports cost nothing "
"until needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Lower layers first. A module may import its own layer and those above it in this list.
LAYERS: list[list[str]] = [
    ["errors"],
    [
        "registry",
        "metrics",
        "names",
        "whole_files",
        "in_use",
        "geometry",
        "progress",
        "processors",
        "freed_memory",
    ],
    ["predictions"],
    ["structures"],
    ["layers"],
    ["heads", "backbone"],
    ["data"],
    ["recipe", "model", "testing"],
    ["evaluation", "drawing", "model_weights", "explain"],
    ["assemble", "prediction_files"],
    ["predict", "preview", "exported", "streaming"],
    ["training"],
    ["export"],
    ["report"],
    ["sharing"],
    ["cli"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
NEVER = {
    ("heads", "backbone"),
    ("backbone", "heads"),
    ("model", "recipe"),
    ("heads", "data"),
    ("backbone", "data"),
}
KNOWS_RECIPES = {"recipe", "assemble", "training", "report", "sharing", "cli"}


def _modules(package: str) -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / package).rglob("*.py")
    }


def _imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.iter_child_nodes(tree) if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.names[0].name != "*", f"{path}: star import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _part(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "resnet_tasks" and len(parts) > 1 else None


PACKAGE = _modules("resnet_tasks")


def test_every_module_has_a_layer() -> None:
    parts = {_part(name) for name in PACKAGE} - {None}
    assert parts == set(LEVEL)


# `resnet_tasks/__init__.py` names every layer, lazily; all others are held to the order.
@pytest.mark.parametrize("name", sorted(name for name in PACKAGE if _part(name)))
def test_arrows_point_downward(name: str) -> None:
    part = _part(name)
    assert part is not None
    for target in _imports(PACKAGE[name]):
        other = _part(target)
        if other is None or other == part:
            continue
        assert LEVEL[other] <= LEVEL[part], f"{name} imports {target}, which lies above it"
        assert (part, other) not in NEVER, f"{name} must not know {target}"
        if other == "recipe":
            assert part in KNOWS_RECIPES, (
                f"{name} must be usable without recipes, but imports {target}"
            )


def test_there_is_no_import_cycle() -> None:
    graph = {
        name: {
            target
            for target in _imports(path, top_level_only=True)
            if target in PACKAGE and target != name
        }
        for name, path in PACKAGE.items()
        if name != "resnet_tasks"
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join((*trail, name))}"
        if name in done:
            return
        for target in sorted(graph.get(name, ())):
            visit(target, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())
    assert len(done) >= 40


def test_imports_inside_functions_only_in_the_command_line() -> None:
    for name, path in PACKAGE.items():
        if name == "resnet_tasks" or name.startswith("resnet_tasks.cli"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                inner = [
                    n for n in ast.walk(function) if isinstance(n, (ast.Import, ast.ImportFrom))
                ]
                assert not inner, f"{name}.{function.name} imports inside a function"


def test_data_tools_use_little_of_the_package() -> None:
    allowed = {
        "resnet_tasks.errors",
        "resnet_tasks.files.safe_names",
        "resnet_tasks.registry",
        "resnet_tasks.data.coco.read",
        "resnet_tasks.data.coco.masks",
        "resnet_tasks.data.coco.validation",
        "resnet_tasks.data.images.decoding",
        "resnet_tasks.files.json_files",
        "resnet_tasks.data.images.label_files",
        "resnet_tasks.data.images.lossy_formats",
        "resnet_tasks.data.images.image_files",
        "resnet_tasks.data.splits.splitting",
        "resnet_tasks.recipe.yaml_text",
    }
    for name, path in _modules("data_tools").items():
        used = {each for each in _imports(path) if each.startswith("resnet_tasks")}
        assert all(any(each == a or each.startswith(f"{a}.") for a in allowed) for each in used), (
            name
        )
    users = [
        name
        for name, path in PACKAGE.items()
        if any(each.split(".")[0] == "data_tools" for each in _imports(path))
    ]
    assert all(name.startswith("resnet_tasks.cli.") for name in users), users


def test_import_is_light_and_silent() -> None:
    code = (
        "import sys, resnet_tasks; "
        "heavy = [m for m in ('torch', 'timm', 'albumentations', 'pydantic') if m in sys.modules]; "
        "assert not heavy, heavy; assert len(resnet_tasks.__all__) <= 15; "
        "assert all(hasattr(resnet_tasks, name) for name in resnet_tasks.__all__)"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
