"""No module outside `tasks` depends on which tasks, predictions or heads there are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import resnet_tasks
from resnet_tasks.structures.predictions.base import Prediction
from resnet_tasks.structures.tasks import TASKS
from resnet_tasks.tasks.built_in import BUILT_IN_TASKS

PACKAGE = Path(resnet_tasks.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
MAY_NAME_A_TASK = ("heads/", "evaluation/protocols/")
"""Folders where a class or a constant names a task."""
HEADS_MODULE = "assemble/heads.py"
"""Module that imports the built-in heads."""


def _task_names() -> set[str]:
    assert BUILT_IN_TASKS  # the import registers the tasks
    return {name for name in TASKS if type(TASKS.get(name)).__module__.startswith("resnet_tasks.")}


def _prediction_names() -> set[str]:
    def collect(base: type) -> Iterator[str]:
        for subclass in base.__subclasses__():
            if subclass.__module__.startswith("resnet_tasks."):
                yield subclass.__name__
            yield from collect(subclass)

    return set(collect(Prediction))


def _find_task_literals(tree: ast.AST, *, may_assign: bool) -> list[tuple[int, str]]:
    """Return (line, text) of strings equal to the name of a task.

    Args:
        tree: Module.
        may_assign: Whether they are allowed as the whole value of an assignment to a name that
            ends in `task`, in any case.
    """
    names = _task_names()
    allowed: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, text = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, text = node.target, node.value
        else:
            continue
        if may_assign and isinstance(target, ast.Name) and target.id.lower().endswith("task"):
            allowed.add(text)
    return sorted(
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value in names
        and node not in allowed
    )


def _find_type_tests(tree: ast.AST) -> list[int]:
    """Return the lines that branch on the type of a prediction: `isinstance` and `match`."""
    names = _prediction_names()
    types: list[tuple[int, ast.AST]] = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            types.append((node.lineno, node.args[1]))
        elif isinstance(node, ast.MatchClass):
            types.append((node.lineno, node.cls))
    return [
        line
        for line, type_expression in types
        if any(
            getattr(part, "id", getattr(part, "attr", None)) in names
            for part in ast.walk(type_expression)
        )
    ]


HEAD_BASES = ("resnet_tasks.heads.base", "resnet_tasks.heads.foreign_weights")
"""Modules of `heads` that know no concrete head."""


def _find_head_imports(tree: ast.AST) -> list[str]:
    """Return the imported modules of concrete heads."""
    modules: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            # Without the name that is imported from a base module.
            is_base = module in HEAD_BASES
            modules += [module if is_base else f"{module}.{alias.name}" for alias in node.names]
    return [
        module
        for module in modules
        if f"{module}.".startswith("resnet_tasks.heads.") and module not in HEAD_BASES
    ]


def _parse(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", MODULES)
def test_only_tasks_heads_and_evaluators_name_a_task(module: str) -> None:
    if not module.startswith("tasks/"):
        may_assign = module.startswith(MAY_NAME_A_TASK)
        assert _find_task_literals(_parse(module), may_assign=may_assign) == []


@pytest.mark.parametrize("module", MODULES)
def test_only_tasks_know_the_types_of_predictions(module: str) -> None:
    if not module.startswith(("tasks/", "structures/predictions/")):
        assert _find_type_tests(_parse(module)) == []


@pytest.mark.parametrize("module", MODULES)
def test_heads_are_imported_in_one_place(module: str) -> None:
    if module != HEADS_MODULE and not module.startswith("heads/"):
        assert _find_head_imports(_parse(module)) == []


def test_rules_find_what_they_forbid() -> None:
    assert {"detection", "semantic_segmentation", "classification"} <= _task_names()
    assert {"Detections", "SegmentationMap", "Classification"} <= _prediction_names()
    assignment = ast.parse('class A:\n    task: ClassVar[str] = "detection"\nMY_TASK = "detection"')
    assert _find_task_literals(assignment, may_assign=True) == []
    assert _find_task_literals(assignment, may_assign=False) == [(2, "detection"), (3, "detection")]
    comparison = ast.parse('if head.task == "detection":\n    task = {"classification": 1}')
    assert _find_task_literals(comparison, may_assign=True) == [
        (1, "detection"),
        (2, "classification"),
    ]
    assert _find_type_tests(ast.parse("isinstance(x, (list, predictions.Detections))")) == [1]
    assert _find_type_tests(ast.parse("match x:\n    case Detections(): pass")) == [2]
    assert _find_type_tests(ast.parse("isinstance(x, task.prediction)")) == []
    assert _find_head_imports(ast.parse("from resnet_tasks.heads.base import Head")) == []
    for statement, module in {
        "from resnet_tasks.heads import rcnn": "resnet_tasks.heads.rcnn",
        "from resnet_tasks.heads.rcnn.roi import Roi": "resnet_tasks.heads.rcnn.roi.Roi",
        "import resnet_tasks.heads.classifier": "resnet_tasks.heads.classifier",
    }.items():
        assert _find_head_imports(ast.parse(statement)) == [module]
