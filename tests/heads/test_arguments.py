"""Arguments of heads and models in Python that are something else than what is expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import resnet_tasks
from resnet_tasks.assemble.heads import BUILT_IN_HEADS
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.data.coco.categories import Category, CategoryMap
from resnet_tasks.errors import HeadError, RecipeError, ResnetTasksError
from resnet_tasks.heads.base import HEADS, Head
from resnet_tasks.heads.classifier import Classifier
from resnet_tasks.structures.feature_spec import FeatureSpec

assert BUILT_IN_HEADS  # the import registers the heads
SPECS = {f"C{level}": FeatureSpec(8 * level, 2**level) for level in range(1, 6)}
CATEGORIES = CategoryMap((Category(1, "cell"), Category(2, "nucleus")))
BACKBONE = ResNet("resnet10t")
HEAD_CLASSES = [
    HEADS.get(name) for name in ("faster_rcnn", "mask_rcnn", "unet", "fpn", "classifier")
]


@pytest.mark.parametrize("head_class", HEAD_CLASSES)
@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            3,
            r"classes is 3; allowed: a list of .*; a number does not name the classes$",
        ),
        (2.5, r"classes is 2.5; allowed: a list of class names"),
        (None, "classes is None; allowed: a list"),
        ("cell", r"classes is 'cell'; allowed: .*; a single class is \['cell'\]"),
        (CATEGORIES, "classes is of the type CategoryMap; .*; pass its attribute names"),
        (CATEGORIES.categories, r"classes holds Category\(id=1, name='cell', .*; allowed: a list"),
        ({"cell": 1}, "classes is of the type dict; .* a list, whose order gives the labels"),
        ({"cell"}, "classes is of the type set"),
        (np.array(["cell"]), "classes is of the type ndarray"),
        (["cell", 2, ""], "classes holds 2, ''; allowed: a list"),
        (["cell", "nucleus", "cell"], "classes holds 'cell' more than once; allowed: different"),
        ([], "needs at least one class, got none"),
    ],
)
def test_classes_of_another_kind(head_class: type[Head], classes: Any, message: str) -> None:
    with pytest.raises(HeadError, match=f"head {head_class.__name__}:? {message}"):
        head_class(SPECS, classes)


@pytest.mark.parametrize("head_class", HEAD_CLASSES)
@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["cell", "nucleus"], r"specs has the type list; allowed: a mapping of levels to Feat"),
        (3, "specs has the type int"),
        ("resnet18", "specs has the type str"),
        (BACKBONE, "specs has the type ResNet; .*such as backbone.specs; pass its attribute specs"),
        (list(SPECS.values()), "specs has the type list"),
        ({"C5": 512}, "specs has 'C5': 512; allowed"),
        ({5: FeatureSpec(8, 32)}, r"specs has 5: FeatureSpec\(channels=8"),
        (
            {"C5": FeatureSpec(0, 32)},
            "channels of level C5 is 0; allowed: an integer of at least 1",
        ),
        ({"C5": FeatureSpec(8, 0.5)}, "stride of level C5 is 0.5; allowed"),  # type: ignore[arg-type]
    ],
)
def test_specs_of_another_kind(head_class: type[Head], specs: Any, message: str) -> None:
    with pytest.raises(HeadError, match=f"head {head_class.__name__}: {message}"):
        head_class(specs, ["cell", "nucleus"])


@pytest.mark.parametrize("options", [3, "dropout", [("dropout", 0.5)], True])
def test_options_of_another_kind(options: Any) -> None:
    kind = type(options).__name__
    message = rf"options of head Classifier: the value has the type {kind}; allowed: ClassifierOpt"
    with pytest.raises(HeadError, match=message):
        Classifier(SPECS, ["cell", "nucleus"], options)
    with pytest.raises(HeadError, match=r"3 is not an option \(options are: pooling"):
        Classifier(SPECS, ["cell", "nucleus"], {3: 0.5})  # type: ignore[dict-item]


def test_models_and_backbones_of_another_kind() -> None:
    head = Classifier(BACKBONE.specs, ["cell", "nucleus"])
    for backbone, heads, message in (
        ("resnet18", {"kind": head}, "backbone has the type str; allowed: a module with specs"),
        ({"kind": head}, BACKBONE, "backbone has the type dict"),
        (BACKBONE, [head], "heads has the type list; allowed: a mapping of names to heads"),
        (BACKBONE, head, "heads has the type Classifier"),
        (BACKBONE, {"kind": Classifier}, r"heads\['kind'\] has the type ABCMeta; allowed: a head"),
        (BACKBONE, {1: head}, "the head name 1 is not allowed"),
    ):
        with pytest.raises(RecipeError, match=message):
            resnet_tasks.TaskModel(backbone, heads)  # type: ignore[arg-type]
    with pytest.raises(ResnetTasksError, match=r"backbone.name is 18; allowed: .* 'resnet18', or"):
        ResNet(18)  # type: ignore[arg-type]
