"""Checkpoints of other projects: names, color order, and refusals instead of silent mistakes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from resnet_tasks.backbone.key_layouts import convert_layout
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import WeightsError


def lively(name: str) -> dict[str, Tensor]:
    """A state dict whose norms hold statistics like those of a trained model."""
    torch.manual_seed(3)
    model = timm.create_model(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.normal_(module.weight, 1, 0.1)
            nn.init.normal_(module.bias, 0, 0.1)
    return dict(model.state_dict())


def folded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with norms that only scale and shift, as Caffe's models have them."""
    return {
        key: torch.zeros_like(value)
        if key.endswith("running_mean")
        else torch.ones_like(value) - 1e-5
        if key.endswith("running_var")
        else value
        for key, value in tensors.items()
    }


def as_detectron2(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that detectron2 gives to the same layers."""
    named = {}
    for key, value in tensors.items():
        if key.startswith("fc.") or key.endswith("num_batches_tracked"):
            continue
        new = re.sub(r"^bn1\.", "stem.conv1.norm.", key)
        new = re.sub(r"^conv1\.", "stem.conv1.", new)
        new = re.sub(r"^layer(\d)", lambda found: f"res{int(found[1]) + 1}", new)
        new = new.replace(".downsample.0.", ".shortcut.").replace(
            ".downsample.1.", ".shortcut.norm."
        )
        named["backbone.bottom_up." + re.sub(r"\.bn(\d)\.", r".conv\1.norm.", new)] = value
    return named


def saved(tensors: dict[str, Tensor], folder: Path, **more: object) -> str:
    torch.save({"model": tensors, **more}, folder / "net.pth")
    return str(folder / "net.pth")


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_detectron2_names_cover_the_backbone(name: str, tmp_path: Path) -> None:
    tensors = lively(name)
    given = as_detectron2(tensors)
    assert "backbone.bottom_up.res3.0.shortcut.norm.running_var" in given
    given["proposal_generator.rpn_head.conv.weight"] = torch.zeros(1)
    backbone = ResNet(name, weights=saved(given, tmp_path))
    for key, value in backbone.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, tensors[key]), key
    assert backbone.report is not None
    assert backbone.report.unexpected == ("proposal_generator.rpn_head.conv.weight",)
    assert any("RGB" in note for note in backbone.report.notes)


def test_bgr_pixels_are_turned_and_their_constants_kept() -> None:
    given = as_detectron2(lively("resnet50"))
    plain = {key.removeprefix("backbone.bottom_up."): value for key, value in given.items()}
    plain["pixel_mean"] = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    plain["pixel_std"] = torch.tensor([57.375, 57.12, 58.395])[:, None, None]
    layout = convert_layout(plain, "here")
    assert torch.equal(layout.tensors["conv1.weight"], plain["stem.conv1.weight"][:, [2, 1, 0]])
    assert layout.mean == pytest.approx((0.485, 0.456, 0.406))
    assert layout.std == pytest.approx((0.229, 0.224, 0.225))
    assert "pixel_mean" not in layout.tensors
    # The same image gives the same stem, read either way.
    image = torch.rand(1, 3, 32, 32)
    bgr = (image.flip(1) * 255 - plain["pixel_mean"]) / plain["pixel_std"]
    mean, std = (torch.tensor(each)[:, None, None] for each in (layout.mean, layout.std))
    theirs = nn.functional.conv2d(bgr, plain["stem.conv1.weight"])
    ours = nn.functional.conv2d((image - mean) / std, layout.tensors["conv1.weight"])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_rgb_pixels_stay_as_they_are() -> None:
    plain = lively("resnet18") | {
        "pixel_mean": torch.tensor([123.675, 116.28, 103.53]),
        "pixel_std": torch.tensor([58.395, 57.12, 57.375]),
    }
    layout = convert_layout(plain, "here")
    assert torch.equal(layout.tensors["conv1.weight"], plain["conv1.weight"])
    assert layout.mean == pytest.approx((0.485, 0.456, 0.406))


def test_caffe2_resnexts_are_turned_by_their_folded_norms(tmp_path: Path) -> None:
    tensors = folded(lively("resnext50_32x4d"))
    backbone = ResNet("resnext50_32x4d", weights=saved(as_detectron2(tensors), tmp_path))
    assert torch.equal(backbone.state_dict()["conv1.weight"], tensors["conv1.weight"].flip(1))
    assert backbone.mean == (0.485, 0.456, 0.406)
    assert backbone.report is not None
    assert any("BGR" in note for note in backbone.report.notes)


def _caffe(kind: str) -> dict[str, Tensor]:
    tensors = lively("resnet50")
    if kind == "folded":
        return as_detectron2(folded(tensors))
    if kind == "pixel_std":
        more = {"pixel_mean": torch.tensor([103.53, 116.28, 123.675]), "pixel_std": torch.ones(3)}
        return as_detectron2(tensors) | more
    if kind == "bytes":
        power = tensors["conv1.weight"].square().sum((1, 2, 3))
        return as_detectron2(tensors | {"bn1.running_var": power * 58**2})
    return {f"backbone.{key}": value for key, value in folded(tensors).items()}


@pytest.mark.parametrize("kind", ["folded", "pixel_std", "bytes", "mmdet"])
def test_models_of_the_caffe_kind_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"Caffe-style model .*strides in 1x1") as caught:
        ResNet("resnet50", weights=saved(_caffe(kind), tmp_path))
    assert "\n" not in str(caught.value)
    assert "net.pth" in str(caught.value)


def test_bytes_in_unknown_order_are_refused(tmp_path: Path) -> None:
    tensors = lively("resnet18")
    power = tensors["conv1.weight"].square().sum((1, 2, 3))
    with pytest.raises(WeightsError, match=r"0\.\.255 scale"):
        ResNet("resnet18", weights=saved(tensors | {"bn1.running_var": power * 58**2}, tmp_path))


def test_new_norms_are_not_taken_for_caffes() -> None:
    tensors = dict(timm.create_model("resnet50").state_dict())
    layout = convert_layout(tensors, "here")
    assert layout.notes == ()
    assert torch.equal(layout.tensors["conv1.weight"], tensors["conv1.weight"])


def test_the_real_weights_are_left_alone(shared_weights: Path) -> None:
    backbone = ResNet("resnet18", weights=str(shared_weights))
    assert backbone.report is not None
    assert backbone.report.notes == ()


def test_mmdetection_files_load_without_their_other_parts(tmp_path: Path) -> None:
    tensors = lively("resnet18")
    state = {f"backbone.{key}": value for key, value in tensors.items() if "fc." not in key}
    state |= {"neck.lateral_convs.0.conv.weight": torch.zeros(1), "bbox_head.x": torch.zeros(1)}
    content = {"meta": {"mmdet_version": "2.11", "CLASSES": ("a", "b")}, "state_dict": state}
    torch.save(content, tmp_path / "net.pth")
    backbone = ResNet("resnet18", weights=str(tmp_path / "net.pth"))
    assert torch.equal(backbone.state_dict()["bn1.bias"], tensors["bn1.bias"])
    assert backbone.report is not None
    assert backbone.report.unexpected == ("bbox_head.x", "neck.lateral_convs.0.conv.weight")


def test_objects_beside_the_tensors_are_named_with_the_remedy(tmp_path: Path) -> None:
    torch.save({"meta": {"path": tmp_path}, "state_dict": lively("resnet18")}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"pathlib\.") as caught:
        ResNet("resnet18", weights=str(tmp_path / "a.pth"))
    assert "torch.save(dict(c), " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "R-50.pkl").write_bytes(b"anything")
    with pytest.raises(WeightsError, match=r"is a pickle, which is never opened.*R-50\.pth"):
        ResNet("resnet50", weights=str(tmp_path / "R-50.pkl"))
