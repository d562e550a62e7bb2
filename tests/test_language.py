"""The language of the project: terms, names and docstrings of the field, in US spelling."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tests.support.language import KINDS, Kind, Measurement, measure
from tests.support.paths import ROOT

MEASURED = (
    "resnet_tasks",
    "data_tools",
    "benchmarks",
    "recipes",
    "examples",
    "docs",
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
)

# Kind -> (text with one hit, text without a hit, suffix of the file).
EXAMPLES = {
    "participle": (
        "def kept_boxes(): ...\ndef merged(): ...\n",
        """
def keep_boxes(): ...
def seed_worker(): ...
class Box:
    @property
    def merged(self): ...
    @functools.cached_property
    def kept(self): ...
""",
        ".py",
    ),
    "of-suffix": (
        "def area_of(box): ...\nasync def _count_of(box): ...\n",
        "def of(box): ...\ndef compute_area(box): ...\n",
        ".py",
    ),
    "vague name": (
        "for each in boxes: ...\ndef f(found): ...\n",
        "for box in each: ...\nprint(found)\n",
        ".py",
    ),
    "docstring opening": (
        "'''What a box is.'''\ndef f():\n    '''Whether it is empty.'''\n",
        """
def f():
    '''Return whether it is empty.'''
def g():
    '''None if it is empty.'''
""",
        ".py",
    ),
    "args fragment": (
        """
def f(a, b):
    '''Return a box.

    Args:
        a: Of the run.
        **b: In pixels of the image.
    '''
""",
        """
def f(a):
    '''Return a box.

    Args:
        a: Width, in pixels of the image.
    '''
b = {"a: Of the run.": 1}
""",
        ".py",
    ),
    "picture": ("A picture and a Picture.\n", "An image and an Image.\n", ".md"),
    "odd word": (
        "The data set is judged.\n",
        "The dataset is evaluated at `stream.tell()`; teacher, intellect.\n",
        ".md",
    ),
    "British spelling": (
        "normalised: true   # grey\n",
        "normalized: true   # gray, optimistic, labeled, licensed, analysis, parameter\n",
        ".yaml",
    ),
}


@cache
def _measure_project() -> Measurement:
    return measure([ROOT / name for name in MEASURED], ROOT)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_project_stays_within_the_limit(kind: Kind) -> None:
    measurement = _measure_project()
    assert measurement.compute_rate(kind) <= kind.limit, measurement.describe(kind)


def test_every_folder_is_measured() -> None:
    """Folders that move must not drop out of the measurement without notice."""
    for name in MEASURED:
        assert measure([ROOT / name], ROOT).num_files, name
    measurement = _measure_project()
    assert measurement.units["functions"] > 2000
    assert measurement.units["docstrings"] > 2000
    assert measurement.units["words"] > 100_000


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_finds_its_examples_and_nothing_else(kind: Kind, tmp_path: Path) -> None:
    faulty, correct, suffix = EXAMPLES[kind.name]
    (tmp_path / f"faulty{suffix}").write_text(faulty, encoding="utf-8")
    (tmp_path / f"correct{suffix}").write_text(correct, encoding="utf-8")
    measurement = measure([tmp_path], tmp_path)
    hits = measurement.hits[kind.name]
    assert {hit.path for hit in hits} == {f"faulty{suffix}"}
    assert len(hits) == 2, hits
    assert not [hit for other in KINDS if other is not kind for hit in measurement.hits[other.name]]


def test_the_message_lists_every_hit_with_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "b.py").write_text("\n\ndef told(): ...\n", encoding="utf-8")
    (folder / "a.py").write_text("def ask(): ...\ndef found_by(): ...\n", encoding="utf-8")
    (folder / "ignored.txt").write_text("def told(): ...\n", encoding="utf-8")
    measurement = measure([folder], tmp_path)
    (kind,) = [kind for kind in KINDS if kind.name == "participle"]
    assert measurement.compute_rate(kind) == pytest.approx(100 * 2 / 3)
    assert measurement.describe(kind).splitlines() == [
        f"participle: 66.67 per 100 functions, limit 3; {kind.advice}",
        "package/a.py:2: found_by",
        "package/b.py:3: told",
    ]


def test_an_empty_tree_has_a_rate_of_zero(tmp_path: Path) -> None:
    measurement = measure([tmp_path], tmp_path)
    assert [measurement.compute_rate(kind) for kind in KINDS] == [0] * len(KINDS)
