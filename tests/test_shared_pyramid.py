"""One pyramid for several heads: what it computes, how often, under which names, and refusals."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from resnet_tasks.assemble.labels import build_labels
from resnet_tasks.assemble.model import build_model
from resnet_tasks.assemble.training_setup import check_recipe
from resnet_tasks.data.coco.categories import Category, CategoryMap
from resnet_tasks.errors import RecipeError, WeightsError
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.semantic.fpn import SemanticFPN
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.samples import Sample, collate
from resnet_tasks.structures.targets import Target

CATEGORIES = CategoryMap((Category(1, "car"), Category(2, "road", is_thing=False)))
LIGHT = {
    "anchor_sizes": (16, 32, 64, 128, 256),
    "box_head_channels": 16,
    "rpn_pre_nms": (50, 50),
    "rpn_post_nms": (20, 20),
    "score_threshold": 0.0,
}
OBJECTS = {"type": "faster_rcnn", "options": LIGHT}
SCENE = {"type": "fpn", "options": {"segmentation_channels": 64, "dropout": 0.0}}


def recipe(heads: dict[str, Any], **changes: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "test",
            "data": {
                "root": "here",
                "train": [{"annotations": "a.json"}],
                "val": [{"annotations": "a.json"}],
            },
            "backbone": {"name": "resnet18", "weights": "none"},
            "pyramid": {"channels": 32},
            "heads": heads,
            **changes,
        }
    )


def build(made: Recipe) -> TaskModel:
    torch.manual_seed(0)
    return build_model(made, build_labels(made, CATEGORIES))


def sample() -> Sample:
    target = Target(
        boxes=torch.tensor([[8.0, 8, 40, 50]]),
        labels=torch.tensor([0]),
        ignore=torch.tensor([False]),
        semantic=torch.randint(0, 2, (64, 96)),
    )
    return Sample(torch.rand(3, 64, 96), Geometry((64, 96), (64, 96)), 1, "a.png", target)


@pytest.fixture
def model() -> TaskModel:
    return build(recipe({"objects": OBJECTS, "scene": SCENE})).eval()


def test_heads_read_what_one_pyramid_computes(model: TaskModel) -> None:
    """Equal to backbone, torchvision's pyramid and the heads, put together by hand."""
    batch = collate([sample(), sample()])
    theirs = FeaturePyramidNetwork([64, 128, 256, 512], 32, LastLevelMaxPool())
    assert model.pyramid is not None
    theirs.load_state_dict(model.pyramid.state_dict())
    with torch.inference_mode():
        raw = model(batch, mode="raw")
        features = model.backbone(model.normalize(batch.images, [(64, 96)] * 2))
        levels = list(theirs({f"C{k}": features[f"C{k}"] for k in (2, 3, 4, 5)}).values())
        pyramid = dict(zip(("P2", "P3", "P4", "P5", "P6"), levels, strict=True))
        for name, head in model.named_heads.items():
            for key, expected in head(pyramid).items():
                torch.testing.assert_close(raw[name][key], expected)
    objects, scene = model.named_heads["objects"], model.named_heads["scene"]
    assert isinstance(objects, FasterRCNN)
    assert objects.fpn is None
    assert isinstance(scene, SemanticFPN)
    assert scene.in_levels == ("P2", "P3", "P4", "P5")
    assert not [key for key in scene.state_dict() if key.startswith("decoder.p")]
    assert raw["scene"]["logits"].shape == (2, 2, 64, 96)


@pytest.mark.parametrize("mode", ["raw", "loss"])
def test_backbone_and_pyramid_run_once_for_all_heads(model: TaskModel, mode: Any) -> None:
    calls: Counter[str] = Counter()
    for name in ("backbone", "pyramid"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.update([name]))
    model(collate([sample()]), mode=mode)
    assert calls == {"backbone": 1, "pyramid": 1}


def test_it_is_counted_once_and_learns_from_all_heads(model: TaskModel) -> None:
    assert model.pyramid is not None
    single = {
        name: build(recipe({name: part}))
        for name, part in {"objects": OBJECTS, "scene": SCENE}.items()
    }

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    shared = count(model.backbone) + count(model.pyramid)
    assert count(model) == sum(map(count, single.values())) - shared
    losses = model(collate([sample()]), mode="loss")
    weight = model.pyramid.layer_blocks[0][0].weight
    for head in ("objects", "scene"):
        part = {key: term for key, term in losses.items() if key.startswith(head)}
        (gradient,) = torch.autograd.grad(model.compute_total_loss(part), weight, retain_graph=True)
        assert gradient.abs().sum() > 0


def detector_weights(channels: int) -> dict[str, Tensor]:
    torch.manual_seed(2)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    if channels != 256:
        backbone.fpn = FeaturePyramidNetwork([64, 128, 256, 512], channels, LastLevelMaxPool())
        backbone.out_channels = channels
    detector = TorchvisionFasterRCNN(backbone, 2)
    return dict(detector.state_dict())


def test_a_detector_of_torchvision_fills_it(tmp_path: Path) -> None:
    """Shared or the head's own: the same file gives the same boxes."""
    torch.save(detector_weights(256), tmp_path / "detector.pth")
    source = {"source": str(tmp_path / "detector.pth"), "head": "objects"}
    plain = {"type": "faster_rcnn", "classes": ["car"], "options": {"score_threshold": 0.0}}
    shared = build(
        recipe({"objects": plain, "scene": SCENE}, pyramid={}, model_weights=source)
    ).eval()
    own = build(recipe({"objects": plain}, pyramid=None, model_weights=source)).eval()
    assert shared.pyramid is not None
    torch.testing.assert_close(
        dict(shared.pyramid.state_dict()),
        {
            key.removeprefix("heads.objects.fpn."): value
            for key, value in own.state_dict().items()
            if key.startswith("heads.objects.fpn.")
        },
    )
    batch = collate([sample()])
    with torch.inference_mode():
        mine, theirs = (each(batch, mode="raw")["objects"] for each in (shared, own))
    torch.testing.assert_close(mine, theirs)
    report = shared.backbone.report  # type: ignore[attr-defined]
    assert "pyramid.inner_blocks.0.0.weight" in report.matched
    small = recipe({"objects": plain, "scene": SCENE}, model_weights=source)
    with pytest.raises(WeightsError, match=r"set pyramid\.channels=256"):
        build(small)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(
        RecipeError, match="pyramid: no head reads P2, P3, P4, P5, P6; remove the key pyramid"
    ):
        build(recipe({"scene": {"type": "unet"}}))
    asks = {"type": "fpn", "options": {"pyramid_channels": 64}}
    with pytest.raises(
        RecipeError, match=r"shares a pyramid of 32 channels, .* is 64; remove that"
    ):
        build(recipe({"scene": asks}))
    told = r"FasterRCNN needs a pyramid with pooled extra levels, but P6 .* is convolved; set"
    with pytest.raises(RecipeError, match=told):
        build(recipe({"objects": OBJECTS}, pyramid={"extra_levels": "convolved"}))
    with pytest.raises(RecipeError, match=r"pyramid: the strides"):
        check_recipe(
            recipe(
                {"objects": OBJECTS},
                backbone={"name": "resnet18", "weights": "none", "output_stride": 16},
            ),
            Path("nowhere"),
        )


DENSE = {"type": "fcos", "options": {"num_convs": 1}}
ANCHORS = {"type": "retinanet", "options": {"num_convs": 1}}
CONVOLVED = {"channels": 64, "extra_levels": "convolved"}


def test_dense_detectors_share_convolved_levels_with_pixels() -> None:
    model = build(recipe({"a": DENSE, "b": ANCHORS, "scene": SCENE}, pyramid=CONVOLVED))
    assert [head.in_levels[0] for head in model.named_heads.values()] == ["P3", "P3", "P2"]
    assert not [key for key in model.state_dict() if ".fpn." in key]
    losses = model(collate([sample()]), mode="loss")
    assert {name.split("/")[0] for name in losses} == {"a", "b", "scene"}
    assert torch.isfinite(model.compute_total_loss(losses))


def test_levels_that_no_head_reads_are_not_computed() -> None:
    model = build(recipe({"a": DENSE, "b": ANCHORS}, pyramid=CONVOLVED))
    assert model.pyramid is not None
    assert model.pyramid.computed_levels == ("P3", "P4", "P5", "P6", "P7")
    model.compute_total_loss(model(collate([sample()]), mode="loss")).backward()
    for name, parameter in model.pyramid.named_parameters():
        is_skipped = name.startswith(("inner_blocks.0.", "layer_blocks.0."))
        assert parameter.requires_grad is not is_skipped, name
        assert (parameter.grad is None) is is_skipped, name


@pytest.mark.parametrize("extra_levels", ["pooled", "convolved"])
def test_detectors_with_different_extra_levels_are_refused_in_one_sentence(
    extra_levels: str,
) -> None:
    made = recipe(
        {"objects": OBJECTS, "dense": DENSE}, pyramid={"channels": 64, "extra_levels": extra_levels}
    )
    with pytest.raises(RecipeError) as caught:
        build(made)
    assert str(caught.value) == (
        "recipe test: pyramid: one shared pyramid has extra levels of one kind, but heads.objects "
        "(faster_rcnn) needs pooled ones and heads.dense (fcos) needs convolved ones; remove the "
        "key pyramid, so that each head computes its own"
    )
    both = build(recipe({"objects": OBJECTS, "dense": DENSE}, pyramid=None))
    assert {head.in_levels[0] for head in both.named_heads.values()} == {"C2", "C3"}


def test_the_input_of_p6_is_part_of_the_variant() -> None:
    from_c5 = {"type": "retinanet", "options": {"num_convs": 1, "extra_levels": "convolved_c5"}}
    build(recipe({"a": from_c5}, pyramid={"channels": 64, "extra_levels": "convolved_c5"}))
    with pytest.raises(RecipeError, match=r"a \(fcos\) needs convolved ones and heads\.b"):
        build(recipe({"a": DENSE, "b": from_c5}, pyramid=CONVOLVED))
    with pytest.raises(RecipeError, match=r"needs a pyramid with convolved_c5 extra levels, but"):
        build(recipe({"a": from_c5}, pyramid=CONVOLVED))


def test_a_dense_detector_of_torchvision_fills_the_levels_that_it_has(tmp_path: Path) -> None:
    torch.manual_seed(2)
    own_options = {**DENSE["options"], "pyramid_channels": 64}  # type: ignore[dict-item]
    donor = build(recipe({"a": {**DENSE, "options": own_options}}, pyramid=None))
    tensors = {f"backbone.body.{k}": v for k, v in donor.backbone.state_dict().items()}  # type: ignore[union-attr,operator]
    for key, value in donor.named_heads["a"].state_dict().items():
        tensors[f"backbone.{key}" if key.startswith("fpn.") else key] = value
    torch.save(tensors, tmp_path / "detector.pth")
    source = {"source": str(tmp_path / "detector.pth"), "head": "a"}
    heads = {"a": DENSE, "scene": SCENE}
    model = build(recipe(heads, pyramid=CONVOLVED, model_weights=source))
    assert model.pyramid is not None
    own = donor.named_heads["a"].state_dict()
    filled = model.pyramid.state_dict()
    for level in range(3):
        for part in ("inner_blocks", "layer_blocks"):
            key = f"{part}.{level + 1}.0.weight"
            assert torch.equal(filled[key], own[f"fpn.{part}.{level}.0.weight"])
    assert torch.equal(filled["extra_blocks.p7.weight"], own["fpn.extra_blocks.p7.weight"])
    report = model.backbone.report  # type: ignore[attr-defined]
    assert "pyramid.layer_blocks.3.0.weight" in report.matched
    assert "pyramid.layer_blocks.0.0.weight" not in report.matched
    (note,) = (note for note in report.notes if "not in the file" in note and "levels" in note)
    assert note.endswith("start from random weights: P2")
    wide = recipe({"a": DENSE}, pyramid={**CONVOLVED, "channels": 96}, model_weights=source)
    with pytest.raises(WeightsError, match=r"set pyramid\.channels=64"):
        build(wide)
