"""Whole models of torchvision and segmentation_models_pytorch, through a recipe: same outputs."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import (
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
    fcos_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
)
from torchvision.transforms._presets import ObjectDetection

from resnet_tasks.assemble.labels import build_labels
from resnet_tasks.assemble.model import build_model
from resnet_tasks.assemble.setup_notes import describe_model
from resnet_tasks.assemble.training_setup import check_recipe
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.data.coco.categories import Category, CategoryMap
from resnet_tasks.errors import WeightsError
from resnet_tasks.heads.torchvision_classes import COCO_NAMES
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.samples import Sample, collate

SIZE = (96, 128)
LIGHT = {
    "pyramid_channels": 32,
    "box_head_channels": 64,
    "anchor_sizes": (16, 32, 64, 128, 256),
    "score_threshold": 0.0,
}


def recipe(
    model_weights: Any, heads: dict[str, Any], *, name: str = "resnet18", **more: Any
) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "test",
            "data": {
                "root": "here",
                "train": [{"annotations": "a.json"}],
                "val": [{"annotations": "a.json"}],
            },
            "backbone": {"name": name, "weights": "none", **more},
            "heads": heads,
            "model_weights": model_weights,
        }
    )


def build(made: Recipe, *names: str) -> TaskModel:
    categories = CategoryMap(tuple(Category(i + 1, name) for i, name in enumerate(names)))
    return build_model(made, build_labels(made, categories))


def lively(model: nn.Module) -> nn.Module:
    """Random statistics, and outputs that differ from place to place."""
    torch.manual_seed(4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


def detector(**options: Any) -> TorchvisionFasterRCNN:
    model = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=SIZE[0], max_size=SIZE[1], **options
    )
    lively(model)
    for name, parameter in model.named_parameters():
        if name.endswith("bn3.weight"):  # or features grow until all scores are 0 or 1
            nn.init.constant_(parameter, 0.2)
        elif "bbox_pred.weight" in name:
            nn.init.normal_(parameter, std=0.01)
        elif "cls_" in name and name.endswith("weight"):
            nn.init.normal_(parameter, std=0.03)
    return model


def images(number: int = 2) -> list[Tensor]:
    torch.manual_seed(9)
    return [torch.rand(3, *SIZE) for _ in range(number)]


def samples(images: list[Tensor]) -> list[Sample]:
    return [
        Sample(image, Geometry.from_resize(SIZE, SIZE), image_id=i, file_name=str(i))
        for i, image in enumerate(images)
    ]


@pytest.fixture(scope="module")
def small_detector(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """A detector on a ResNet-18 with few channels and COCO's 91 rows, under torchvision's names."""
    torch.manual_seed(2)
    made = recipe(None, {"objects": {"type": "faster_rcnn", "options": LIGHT}})
    model = build(made, *(f"class {i}" for i in range(90)))
    head = model.heads["objects"].state_dict()
    tensors = {f"backbone.body.{k}": v for k, v in model.backbone.state_dict().items()}
    tensors |= {f"backbone.{k}" if k.startswith("fpn.") else k: v for k, v in head.items()}
    assert len(tensors["roi_heads.box_predictor.cls_score.bias"]) == 91
    nn.init.normal_(tensors["roi_heads.box_predictor.cls_score.bias"])
    return tensors


def saved(tensors: dict[str, Tensor], folder: Path) -> str:
    torch.save(tensors, folder / "model.pth")
    return str(folder / "model.pth")


def test_torchvisions_detector_gives_the_same_boxes(tmp_path: Path) -> None:
    theirs = detector(num_classes=4)
    file = saved(theirs.state_dict(), tmp_path)
    made = recipe(file, {"objects": {"type": "faster_rcnn"}}, name="resnet50", frozen_stages=2)
    model = build(made, "a", "b", "c")
    input_images = images()
    with torch.no_grad():
        expected = theirs(input_images)
    found = model.predict(collate(samples(input_images)))["objects"]
    for mine, yours in zip(found, expected, strict=True):
        assert len(mine) == len(yours["boxes"]) > 5
        torch.testing.assert_close(mine.boxes, yours["boxes"], atol=0.01, rtol=0)
        torch.testing.assert_close(mine.scores, yours["scores"], atol=1e-4, rtol=0)
        assert torch.equal(mine.labels + 1, yours["labels"])
    report = model.backbone.report
    assert report is not None
    assert (report.missing, report.unexpected) == ((), ())  # type: ignore[union-attr]
    assert len(report.matched) == len(model.state_dict()) - 2  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(("kind", "network"), [("unet", smp.Unet), ("fpn", smp.FPN)])
@pytest.mark.parametrize("folder", [True, False])
def test_segmenters_give_the_same_logits(
    kind: str, network: Any, folder: bool, tmp_path: Path
) -> None:
    # The last upsampling of our FPN is half-pixel centered, so that smp's is left out of both.
    more = {"upsampling": 1} if kind == "fpn" else {}
    theirs = lively(network("resnet18", encoder_weights=None, classes=3, **more))
    source = str(tmp_path / "saved")
    if folder:
        theirs.save_pretrained(source)
    else:
        source = saved({f"module.{k}": v for k, v in theirs.state_dict().items()}, tmp_path)
    model = build(recipe(source, {"scene": {"type": kind}}), "a", "b", "c").eval()
    batch = collate(samples(images()))
    with torch.no_grad():
        normalized_images = model.normalize(batch.images, [SIZE, SIZE])
        head: Any = model.heads["scene"]
        mine = head.classifier(head.pixel_features(model.backbone(normalized_images)))
        yours = theirs(normalized_images)
    # Ours folds norms into convolutions, which rounds in another order.
    torch.testing.assert_close(mine, yours, atol=1e-4, rtol=1e-4)
    if kind == "unet":
        raw = model(batch, mode="raw")["scene"]["logits"]
        torch.testing.assert_close(raw, yours, atol=1e-4, rtol=1e-4)
    report: Any = model.backbone.report
    assert report.missing == report.unexpected == ()
    assert len(report.matched) == len(model.state_dict()) - 2
    assert any("in order for a, b, c" in note for note in report.notes)


def test_a_sigmoid_becomes_a_softmax_of_the_same_probabilities(tmp_path: Path) -> None:
    theirs = lively(smp.Unet("resnet18", encoder_weights=None, classes=1))
    made = recipe(
        saved(theirs.state_dict(), tmp_path), {"scene": {"type": "unet", "background": True}}
    )
    model = build(made, "nucleus").eval()
    batch = collate(samples(images(1)))
    with torch.no_grad():
        expected = theirs(model.normalize(batch.images, [SIZE])).sigmoid()[:, 0]
        found = model(batch, mode="raw")["scene"]["logits"].softmax(1)[:, 1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "network"), [("unet", smp.Unet), ("fpn", smp.FPN)])
def test_other_classes_renew_the_classifier_only(kind: str, network: Any, tmp_path: Path) -> None:
    theirs = network("resnet18", encoder_weights=None, classes=5).state_dict()
    model = build(recipe(saved(theirs, tmp_path), {"scene": {"type": kind}}), "a", "b")
    state = model.state_dict()
    for key, value in theirs.items():
        if key.startswith("decoder."):
            assert torch.equal(state[f"heads.scene.{key}"], value), key
    report: Any = model.backbone.report
    assert report.missing == (
        "heads.scene.classifier.0.bias",
        "heads.scene.classifier.0.weight",
    )
    assert any("only the classifier starts from random weights" in note for note in report.notes)
    text = "\n".join(describe_model(model, 1))
    assert "2 missing" in text
    assert "5 classes and the head has 2 (a, b)" in text


def test_coco_rows_are_kept_by_name(small_detector: dict[str, Tensor], tmp_path: Path) -> None:
    heads = {"objects": {"type": "faster_rcnn", "options": LIGHT}}
    model = build(recipe(saved(small_detector, tmp_path), heads), "truck", "person", "zebra")
    predictor = "roi_heads.box_predictor"
    own = model.heads["objects"].state_dict()
    # person is COCO's id 1, truck 8, zebra 24: ids are rows, since torchvision keeps the gaps.
    for row, category in enumerate((0, 8, 1, 24)):
        score = small_detector[f"{predictor}.cls_score.weight"][category]
        assert torch.equal(own[f"{predictor}.cls_score.weight"][row], score)
        box = small_detector[f"{predictor}.bbox_pred.bias"][4 * category : 4 * category + 4]
        assert torch.equal(own[f"{predictor}.bbox_pred.bias"][4 * row : 4 * row + 4], box)
    report: Any = model.backbone.report
    assert report.missing == ()
    assert any("keeps COCO's rows of truck, person, zebra" in note for note in report.notes)
    assert any("anchor_sizes (32" in note.replace("((", "(") for note in report.notes)


def test_torchvisions_enum_is_found_in_torchs_cache(
    small_detector: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    file = Path(saved(small_detector, folder))
    name = f"fasterrcnn-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    file.rename(folder / name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    entry = SimpleNamespace(url=f"http://127.0.0.1:9/{name}", transforms=ObjectDetection)
    monkeypatch.setattr(torchvision.models, "get_weight", lambda _: entry)
    heads = {"objects": {"type": "faster_rcnn", "options": LIGHT}}
    spec = "torchvision:FasterRCNN_ResNet50_FPN_Weights.COCO_V1"
    model = build(recipe(spec, heads), "person")
    backbone: Any = model.backbone
    assert backbone.license.startswith("BSD-3-Clause")
    assert backbone.mean == (0.485, 0.456, 0.406)
    assert backbone.weights_description.endswith("torchvision's Faster R-CNN")


def test_code_in_a_pickle_never_runs(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"model": {"a": torch.zeros(1)}, "x": Attack()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="run code"):
        build(recipe(str(tmp_path / "evil.pth"), {"a": {"type": "unet"}}), "x")
    assert not (tmp_path / "ran").exists()


def test_one_other_class_renews_the_box_predictor_only(
    small_detector: dict[str, Tensor], tmp_path: Path
) -> None:
    heads = {"objects": {"type": "faster_rcnn", "options": LIGHT}}
    model = build(recipe(saved(small_detector, tmp_path), heads), "person", "platelet")
    report: Any = model.backbone.report
    assert len(report.missing) == 4
    assert all("box_predictor" in key for key in report.missing)
    note = next(note for note in report.notes if "random weights" in note)
    assert note.endswith(
        "only the box predictor starts from random weights, because platelet is not among "
        "COCO's classes"
    )
    own = model.heads["objects"].state_dict()
    key = "rpn.head.cls_logits.weight"
    assert torch.equal(own[key], small_detector[key])


MASKS = {**LIGHT, "mask_head_channels": (8, 8), "mask_predictor_channels": 12}


@pytest.fixture(scope="module")
def small_masks() -> dict[str, Tensor]:
    """A Mask R-CNN with few channels and COCO's 91 rows, under the names of old checkpoints."""
    torch.manual_seed(2)
    made = recipe(None, {"objects": {"type": "mask_rcnn", "options": MASKS}})
    model = build(made, *(f"class {i}" for i in range(90)))
    head = model.heads["objects"].state_dict()
    tensors = {f"backbone.body.{k}": v for k, v in model.backbone.state_dict().items()}
    for key, value in head.items():
        old = f"backbone.{key}" if key.startswith("fpn.") else key
        for index in range(2):
            old = old.replace(f"mask_head.{index}.0.", f"mask_head.mask_fcn{index + 1}.")
        tensors[old] = value
    assert "roi_heads.mask_head.mask_fcn2.weight" in tensors
    nn.init.normal_(tensors["roi_heads.mask_predictor.mask_fcn_logits.bias"])
    return tensors


def test_torchvisions_masks_keep_the_rows_of_the_classes(
    small_masks: dict[str, Tensor], tmp_path: Path
) -> None:
    file = saved(small_masks, tmp_path)
    model = build(
        recipe(file, {"objects": {"type": "mask_rcnn", "options": MASKS}}), "person", "dog"
    )
    state = model.heads["objects"].state_dict()
    rows = [0, COCO_NAMES.index("person"), COCO_NAMES.index("dog")]
    for name in ("mask_predictor.mask_fcn_logits.bias", "mask_predictor.mask_fcn_logits.weight"):
        assert torch.equal(state[f"roi_heads.{name}"], small_masks[f"roi_heads.{name}"][rows])
    first = small_masks["roi_heads.mask_head.mask_fcn1.weight"]
    assert torch.equal(state["roi_heads.mask_head.0.0.weight"], first)
    report: Any = model.backbone.report
    assert report.missing == report.unexpected == ()
    assert report.source.endswith("torchvision's Mask R-CNN")
    # Other classes start anew, the box branch and the masks alike.
    model = build(recipe(file, {"objects": {"type": "mask_rcnn", "options": MASKS}}), "cell")
    missing: Any = model.backbone.report
    assert set(missing.missing) == {
        f"heads.objects.roi_heads.{part}.{name}"
        for part in (
            "box_predictor.cls_score",
            "box_predictor.bbox_pred",
            "mask_predictor.mask_fcn_logits",
        )
        for name in ("weight", "bias")
    }


def test_masks_in_a_file_fit_detectors_and_boxes_do_not_fit_masks(
    small_masks: dict[str, Tensor], small_detector: dict[str, Tensor], tmp_path: Path
) -> None:
    boxes_only = recipe(
        saved(small_masks, tmp_path), {"objects": {"type": "faster_rcnn", "options": LIGHT}}
    )
    report: Any = build(boxes_only, "person").backbone.report
    assert report.missing == ()
    assert all(".mask_" in key for key in report.unexpected)
    assert len(report.unexpected) == 8
    masks = {"objects": {"type": "mask_rcnn", "options": MASKS}}
    message = _message(recipe(saved(small_detector, tmp_path), masks), "person")
    assert "holds torchvision's Faster R-CNN, which needs a head FasterRCNN" in message
    other = {**MASKS, "mask_head_channels": (8,), "mask_predictor_channels": 8}
    message = _message(
        recipe(saved(small_masks, tmp_path), {"a": {"type": "mask_rcnn", "options": other}}), "x"
    )
    assert "heads.a.options.mask_head_channels=[8, 8]" in message
    assert "heads.a.options.mask_predictor_channels=12" in message


def test_a_mask_model_of_torchvisions_builder_loads_with_the_defaults(tmp_path: Path) -> None:
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
    file = saved(theirs.state_dict(), tmp_path)
    model = build(recipe(file, {"a": {"type": "mask_rcnn"}}, name="resnet50"), "x", "y", "z")
    state = theirs.state_dict()
    for key, value in model.heads["a"].state_dict().items():
        assert torch.equal(value, state[f"backbone.{key}" if key.startswith("fpn.") else key]), key


V2 = {"tower_norm": "group", "extra_levels": "convolved_c5", "box_loss": "giou"}
DENSE_BUILDERS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "fcos": (fcos_resnet50_fpn, "fcos", {}),
    "retinanet": (retinanet_resnet50_fpn, "retinanet", {}),
    "retinanet_v2": (retinanet_resnet50_fpn_v2, "retinanet", V2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSE_BUILDERS)
def test_torchvisions_dense_detectors_give_the_same_boxes(name: str, tmp_path: Path) -> None:
    """The whole way from a file to predictions, with as many rows as classes."""
    build_theirs, head, options = DENSE_BUILDERS[name]
    theirs = build_theirs(
        weights=None,
        weights_backbone=None,
        num_classes=3,
        min_size=SIZE[0],
        max_size=SIZE[1],
        detections_per_img=10_000,
        score_thresh=0.05,
    )
    lively(theirs)
    for key, parameter in theirs.named_parameters():
        if key.endswith("bn3.weight"):  # or features grow until all scores are 0 or 1
            nn.init.constant_(parameter, 0.2)
        elif key.endswith(("bbox_reg.weight", "bbox_ctrness.weight", "cls_logits.weight")):
            nn.init.normal_(parameter, std=0.03)
    nn.init.constant_(theirs.head.classification_head.cls_logits.bias, -2.0)
    if head == "fcos":
        nn.init.constant_(theirs.head.regression_head.bbox_reg.bias, 2.0)
    limits = {"detections_per_image": 10_000, "score_threshold": 0.05}
    heads = {"a": {"type": head, "options": {**options, **limits}}}
    file = saved(theirs.state_dict(), tmp_path)
    model = build(recipe(file, heads, name="resnet50"), "x", "y", "z")
    given = images()
    with torch.no_grad():
        expected = theirs(given)
    found = model.predict(collate(samples(given)))["a"]
    for mine, yours in zip(found, expected, strict=True):
        has_area = (yours["boxes"][:, 2:] - yours["boxes"][:, :2] > 1e-3).all(dim=1)
        assert len(mine) == int(has_area.sum()) > 20
        torch.testing.assert_close(mine.scores, yours["scores"][has_area], atol=1e-4, rtol=0)
        distances = (mine.boxes[:, None] - yours["boxes"][has_area]).abs().amax(dim=2)
        distances += 1e9 * (mine.labels[:, None] != yours["labels"][has_area])
        assert distances.amin(dim=1).max() < 0.01
    report: Any = model.backbone.report
    assert report.missing == ()


def small_dense(
    head: str, options: dict[str, Any], classes: int, *, old: bool = False
) -> dict[str, Tensor]:
    """A one-stage detector on a ResNet-10 under torchvision's names."""
    torch.manual_seed(2)
    made = recipe(None, {"a": {"type": head, "options": options}}, name="resnet10t")
    model = build(made, *(f"class {i}" for i in range(classes)))
    tensors = {f"backbone.body.{k}": v for k, v in model.backbone.state_dict().items()}
    for key, value in model.heads["a"].state_dict().items():
        name = f"backbone.{key}" if key.startswith("fpn.") else key
        if old:
            name = re.sub(r"(_blocks\.\d+)\.0\.", r"\1.", name)
            name = re.sub(r"(_head\.conv)\.(\d+)\.0\.", lambda m: f"{m[1]}.{2 * int(m[2])}.", name)
        tensors[name] = value
    return tensors


FCOS_OPTIONS = {"pyramid_channels": 64, "num_convs": 1}
RETINANET_OPTIONS = {"pyramid_channels": 16, "num_convs": 1}


@pytest.mark.parametrize(
    ("head", "options"), [("fcos", FCOS_OPTIONS), ("retinanet", RETINANET_OPTIONS)]
)
def test_rows_of_dense_detectors(head: str, options: dict[str, Any], tmp_path: Path) -> None:
    tensors = small_dense(head, options, 4, old=head == "retinanet")
    key = "head.classification_head.cls_logits.bias"
    per_cell = len(tensors[key]) // 4
    nn.init.normal_(tensors[key])
    by_anchor = tensors[key].view(per_cell, 4)
    file = saved(tensors, tmp_path)
    heads = {"a": {"type": head, "options": options}}
    # torchvision's first class is the background; labels from 0 are as common.
    for names, rows, said in (
        (("a", "b", "c", "d"), [0, 1, 2, 3], "4 rows are used in order for a, b, c, d"),
        (("a", "b", "c"), [1, 2, 3], "for a, b, c, without the first one, the background"),
        (("a", "b"), None, "random weights, because the file has 4 rows, the head needs 2"),
    ):
        model = build(recipe(file, heads, name="resnet10t"), *names)
        report: Any = model.backbone.report
        assert any(said in note for note in report.notes), report.notes
        bias = model.heads["a"].state_dict()[key].view(per_cell, len(names))
        if rows is None:
            assert bias.unique().tolist() == pytest.approx([math.log(0.01 / 0.99)])
            assert set(report.missing) == {f"heads.a.{key}", f"heads.a.{key[:-4]}weight"}
        else:
            assert torch.equal(bias, by_anchor[:, rows])
            assert report.missing == ()


def test_options_of_dense_detectors_that_do_not_fit(tmp_path: Path) -> None:
    v2 = {**V2, "pyramid_channels": 64, "num_convs": 1}
    file = saved(small_dense("retinanet", v2, 2), tmp_path)

    def get_message(head: str, options: dict[str, Any]) -> str:
        heads = {"a": {"type": head, "options": options}}
        return _message(recipe(file, heads, name="resnet10t"), "x", "y")

    message = get_message("retinanet", {"aspect_ratios": (1.0,)})
    for setting in (
        "pyramid_channels=64",
        "num_convs=1",
        "tower_norm=group",
        "extra_levels=convolved_c5",
        "aspect_ratios=[0.5, 1.0, 2.0]",
    ):
        assert f"heads.a.options.{setting}" in message
    assert "holds torchvision's RetinaNet, which needs a head RetinaNet" in get_message("fcos", {})
    assert "needs a head RetinaNet" in get_message("faster_rcnn", {})
    other_anchors = {**v2, "anchor_sizes": [[s, 1.2 * s, 1.5 * s] for s in (8, 16, 32, 64, 128)]}
    made = recipe(file, {"a": {"type": "retinanet", "options": other_anchors}}, name="resnet10t")
    report: Any = build(made, "x", "y").backbone.report
    assert any("the file was trained with anchor_sizes" in note for note in report.notes)


def test_coco_names_have_their_gaps() -> None:
    assert len(COCO_NAMES) == 91
    assert COCO_NAMES[1] == "person"
    assert COCO_NAMES[90] == "toothbrush"
    assert COCO_NAMES.count("N/A") == 10


def test_norms_of_epsilon_zero_keep_their_output(
    small_detector: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = "ab" * 32
    monkeypatch.setattr("resnet_tasks.model_weights.foreign_models.ZERO_EPSILON", ("abab",))
    monkeypatch.setattr("resnet_tasks.model_weights.fill_model.compute_sha256", lambda _: digits)
    given = dict(small_detector)
    variance = torch.logspace(-7, 1, 64)  # from far below epsilon to far above
    given["backbone.body.bn1.running_var"] = variance
    heads = {"objects": {"type": "faster_rcnn", "options": LIGHT}}
    model = build(recipe(saved(given, tmp_path), heads), "person")
    norm: Any = model.backbone.get_submodule("bn1")
    assert norm.eps == 1e-5
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    expected = given["backbone.body.bn1.weight"] / variance.sqrt()
    torch.testing.assert_close(scale, expected, rtol=1e-4, atol=0)
    report: Any = model.backbone.report
    assert any("epsilon" in note for note in report.notes)


def _message(made: Recipe, *names: str) -> str:
    with pytest.raises(WeightsError) as caught:
        build(made, *names)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("model_weights")
    return str(caught.value)


def test_options_that_do_not_fit_are_given_as_values(
    small_detector: dict[str, Tensor], tmp_path: Path
) -> None:
    file = saved(small_detector, tmp_path)
    other = {**LIGHT, "pyramid_channels": 64, "box_head_channels": 8, "roi_output_size": 5}
    message = _message(recipe(file, {"a": {"type": "faster_rcnn", "options": other}}), "person")
    assert "heads.a.options.pyramid_channels=32" in message
    assert "heads.a.options.box_head_channels=64" in message
    assert "heads.a.options.roi_output_size=7" in message
    ratios = {**LIGHT, "aspect_ratios": (0.5, 1.0)}
    message = _message(recipe(file, {"a": {"type": "faster_rcnn", "options": ratios}}), "person")
    assert "heads.a.options.aspect_ratios=[0.5, 1.0, 2.0]" in message


def test_segmenters_options_that_do_not_fit(tmp_path: Path) -> None:
    channels = (64, 32, 16, 16, 8)
    theirs = smp.Unet("resnet18", encoder_weights=None, decoder_channels=channels)
    file = saved(theirs.state_dict(), tmp_path)
    message = _message(recipe(file, {"a": {"type": "unet", "options": {"norm": "group"}}}), "x")
    assert "heads.a.options.decoder_channels=[64, 32, 16, 16, 8]" in message
    assert "heads.a.options.norm=batch" in message
    other = smp.FPN("resnet18", encoder_weights=None, decoder_merge_policy="cat", classes=4)
    file = saved(other.state_dict(), tmp_path)
    # Only the classifier, which starts anew, shows how the branches join.
    message = _message(recipe(file, {"a": {"type": "fpn"}}), "x", "y")
    assert "set heads.a.options.merge=cat" in message


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"decoder_attention_type": "scse"}, "an architecture that the head does not support"),
        (
            {"encoder_depth": 4, "decoder_channels": (64, 32, 16, 16)},
            "an architecture that the head does not support",
        ),
    ],
)
def test_segmenters_that_our_heads_cannot_be(more: Any, said: str, tmp_path: Path) -> None:
    theirs = smp.Unet("resnet18", encoder_weights=None, **more)
    assert said in _message(
        recipe(saved(theirs.state_dict(), tmp_path), {"a": {"type": "unet"}}), "x"
    )


def test_upsampling_that_only_the_configuration_tells(tmp_path: Path) -> None:
    theirs = smp.Unet("resnet18", encoder_weights=None, decoder_interpolation="bilinear")
    theirs.save_pretrained(str(tmp_path / "net"))
    message = _message(recipe(str(tmp_path / "net"), {"a": {"type": "unet"}}), "x")
    assert "only support 'nearest'" in message


def test_detectors_of_the_second_version_are_named(tmp_path: Path) -> None:
    theirs = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=2)
    file = saved(theirs.state_dict(), tmp_path)
    made = recipe(file, {"a": {"type": "faster_rcnn"}}, name="resnet50")
    assert "as torchvision's V2 detectors are" in _message(made, "x")


def test_another_backbone_is_named(small_detector: dict[str, Tensor], tmp_path: Path) -> None:
    heads = {"objects": {"type": "faster_rcnn", "options": LIGHT}}
    made = recipe(saved(small_detector, tmp_path), heads, name="resnet34")
    message = _message(made, "person")
    assert "backbone.name 'resnet34'" in message
    assert "as resnet18 and its relatives have" in message


def test_the_head_can_be_chosen_and_others_start_anew(
    small_detector: dict[str, Tensor], tmp_path: Path
) -> None:
    file = saved(small_detector, tmp_path)
    part = {"type": "faster_rcnn", "options": LIGHT}
    heads = {"a": part, "b": part, "scene": {"type": "fpn"}}
    assert "fits the heads a, b; choose one" in _message(recipe(file, heads), "person")
    model = build(recipe({"source": file, "head": "b"}, heads), "person")
    state, key = model.state_dict(), "rpn.head.cls_logits.weight"
    assert torch.equal(state[f"heads.b.{key}"], small_detector[key])
    assert not torch.equal(state[f"heads.a.{key}"], small_detector[key])
    report: Any = model.backbone.report
    assert any(note.endswith("start from random weights: a, scene") for note in report.notes)
    assert "needs a head FasterRCNN" in _message(recipe(file, {"s": {"type": "unet"}}), "x")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("imagenet", "names a backbone, not a whole model"),
        ("timm:a1_in1k", "names a backbone"),
        ("torchvision:FasterRCNN_Weights.V9", "torchvision has no such weights"),
        ("nowhere.pth", "there is no file"),
        ("BACKBONE", "weights of a backbone alone belong under backbone.weights"),
        ("RUN", "backbone.weights="),
    ],
)
def test_what_is_no_whole_model(spec: str, said: str, tmp_path: Path) -> None:
    if spec == "BACKBONE":
        spec = saved(dict(ResNet("resnet18").state_dict()), tmp_path)
    if spec == "RUN":
        spec = saved({"backbone.a": torch.zeros(1), "heads.b": torch.zeros(1)}, tmp_path)
    assert said in _message(recipe(spec, {"a": {"type": "unet"}}), "x")


def test_the_file_of_an_unknown_weight_is_named(tmp_path: Path) -> None:
    names = ("backbone.body.a", "rpn.b", "roi_heads.c", "other.d")
    file = saved({name: torch.zeros(1) for name in names}, tmp_path)
    message = _message(recipe(file, {"objects": {"type": "faster_rcnn", "options": LIGHT}}), "x")
    assert message.startswith(f"model_weights: {file!r}: 'other.d' is not a weight of torchvision")


def test_values_that_are_not_finite(small_detector: dict[str, Tensor], tmp_path: Path) -> None:
    key = "rpn.head.cls_logits.bias"
    file = saved({**small_detector, key: torch.full((3,), torch.nan)}, tmp_path)
    heads = {"objects": {"type": "faster_rcnn", "options": LIGHT}}
    assert key in _message(recipe(file, heads), "person")


def test_weights_have_one_source() -> None:
    heads = {"a": {"type": "unet"}}
    with pytest.raises(ValidationError, match=r"write backbone\.weights: none"):
        recipe("a.pth", heads, weights="imagenet")
    with pytest.raises(ValidationError, match=r"model_weights\.head is 'b', but the heads are a"):
        recipe({"source": "a.pth", "head": "b"}, heads)


def test_checking_a_recipe_needs_no_file_and_frozen_stages_are_allowed(tmp_path: Path) -> None:
    made = recipe("nowhere.pth", {"a": {"type": "unet"}}, frozen_stages=3, norm="frozen")
    assert "M parameters" in check_recipe(made, tmp_path)
    assert Recipe.model_validate_json(json.dumps(made.model_dump(mode="json"))) == made
