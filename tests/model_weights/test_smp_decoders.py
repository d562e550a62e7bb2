"""Whole models of segmentation_models_pytorch (smp) with other decoders: same logits, refusals."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from resnet_tasks.assemble.labels import build_labels
from resnet_tasks.assemble.model import build_model
from resnet_tasks.data.coco.categories import Category, CategoryMap
from resnet_tasks.errors import WeightsError
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.recipe import Recipe

SMP = {"output_stride": 16, "contract_dilation": False}
# Head -> smp's model, its arguments, options of the head, settings of the backbone.
MODELS: dict[str, tuple[Any, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "unetplusplus": (
        smp.UnetPlusPlus,
        {"decoder_channels": (32, 16, 16, 8, 8), "decoder_interpolation": "bilinear"},
        {"decoder_channels": (32, 16, 16, 8, 8), "interpolation": "bilinear"},
        {},
    ),
    "deeplabv3plus": (smp.DeepLabV3Plus, {"decoder_channels": 16}, {"decoder_channels": 16}, SMP),
    "deeplabv3": (
        smp.DeepLabV3,
        {"decoder_atrous_rates": (2, 4, 6), "encoder_output_stride": 8},
        {"atrous_rates": (2, 4, 6)},
        {**SMP, "output_stride": 8},
    ),
    "pspnet": (smp.PSPNet, {"psp_out_channels": 32}, {"decoder_channels": 32, "depth": 3}, {}),
    "pan": (smp.PAN, {}, {}, SMP),
    "linknet": (smp.Linknet, {}, {}, {}),
    "manet": (
        smp.MAnet,
        {"decoder_channels": (32, 16, 16, 8), "encoder_depth": 4, "decoder_pab_channels": 8},
        {"decoder_channels": (32, 16, 16, 8), "depth": 4, "attention_channels": 8},
        {},
    ),
    "upernet": (smp.UPerNet, {"decoder_channels": 32}, {"decoder_channels": 32}, {}),
    "segformer": (
        smp.Segformer,
        {"decoder_segmentation_channels": 32},
        {"decoder_channels": 32},
        {},
    ),
}
CHEAP = ("deeplabv3plus",)
CASES = [name if name in CHEAP else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]


def make_network(head: str, encoder: str = "resnet18", **changes: Any) -> Any:
    """Build smp's model with random statistics."""
    network, arguments, _, _ = MODELS[head]
    torch.manual_seed(0)
    model = network(encoder, encoder_weights=None, classes=3, **{**arguments, **changes})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return model.eval()


def build(source: object, head: str, options: dict[str, Any], **backbone: Any) -> TaskModel:
    recipe = Recipe.model_validate(
        {
            "name": "test",
            "data": {
                "root": "here",
                "train": [{"annotations": "a.json"}],
                "val": [{"annotations": "a.json"}],
            },
            "backbone": {"name": "resnet18", "weights": "none", **backbone},
            "heads": {"scene": {"type": head, "options": options}},
            "model_weights": str(source),
        }
    )
    categories = CategoryMap(tuple(Category(i + 1, name) for i, name in enumerate("abc")))
    return build_model(recipe, build_labels(recipe, categories))


def save(network: Any, folder: Path) -> Path:
    network.save_pretrained(str(folder / "net"))
    return folder / "net"


def require_equal_logits(model: TaskModel, network: Any) -> None:
    images = torch.randn(2, 3, 128, 160)
    with torch.no_grad():
        logits = model.eval().named_heads["scene"](model.backbone(images))["logits"]
        expected = network(images)
        exact = copy.deepcopy(network).double()(images.double())
    # Norms are folded into convolutions, which rounds in another order. The logits of PAN (20) and
    # MA-Net (6) are so large that smp's own rounding exceeds 1e-5.
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(logits, expected, atol=1e-5 * scale, rtol=0)
    our_error, peer_error = (float((x.double() - exact).abs().max()) for x in (logits, expected))
    assert our_error <= 2 * peer_error


@pytest.mark.parametrize("head", CASES)
def test_saved_models_give_the_same_logits(head: str, tmp_path: Path) -> None:
    _, _, options, backbone = MODELS[head]
    network = make_network(head)
    model = build(save(network, tmp_path), head, options, **backbone)
    report: Any = model.backbone.report
    assert report.missing == report.unexpected == ()
    require_equal_logits(model, network)


@pytest.mark.slow
@pytest.mark.parametrize("head", MODELS)
def test_tensors_without_a_configuration_give_the_same_logits(head: str, tmp_path: Path) -> None:
    _, _, options, backbone = MODELS[head]
    network = make_network(head)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    model = build(tmp_path / "net.pth", head, options, **backbone)
    require_equal_logits(model, network)
    report: Any = model.backbone.report
    is_assumed = any("without a config.json" in note for note in report.notes)
    assert is_assumed == (head in ("unetplusplus", "manet", "pan", "deeplabv3", "deeplabv3plus"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated")
@pytest.mark.parametrize(
    ("encoder", "variant"),
    [
        ("resnext50_32x4d", "resnext50_32x4d"),
        ("se_resnet50", "legacy_seresnet50"),
        ("tu-skresnet18", "skresnet18"),
        ("timm-resnest14d", "resnest14d"),
        ("tu-resnet50d", "resnet50d"),
        ("tu-nf_resnet26", None),
        ("tu-resnetv2_18", None),
        ("tu-seresnet50", "seresnet50"),
    ],
)
def test_encoders_of_the_family(encoder: str, variant: str | None, tmp_path: Path) -> None:
    network = make_network("linknet", encoder)
    source = save(network, tmp_path)
    if variant is None:
        with pytest.raises(WeightsError, match="before the final norm and activation"):
            build(source, "linknet", {}, name=encoder.removeprefix("tu-"))
        return
    require_equal_logits(build(source, "linknet", {}, name=variant), network)


@pytest.mark.slow
def test_timms_dilation_is_ours(tmp_path: Path) -> None:
    network = make_network("deeplabv3plus", "tu-resnet18")
    source = save(network, tmp_path)
    options = {"decoder_channels": 16}
    require_equal_logits(build(source, "deeplabv3plus", options, output_stride=16), network)
    with pytest.raises(WeightsError, match=r"set backbone\.contract_dilation=true$"):
        build(source, "deeplabv3plus", options, **SMP)


@pytest.mark.slow
def test_names_of_early_versions_of_deeplab(tmp_path: Path) -> None:
    network = make_network("deeplabv3")
    old = {"aspp": "0", "conv": "1", "bn": "2"}
    tensors = {
        ".".join(["decoder", old[key.split(".")[1]], *key.split(".")[2:]])
        if key.startswith("decoder.")
        else key: value
        for key, value in network.state_dict().items()
    }
    torch.save(tensors, tmp_path / "net.pth")
    _, _, options, backbone = MODELS["deeplabv3"]
    require_equal_logits(build(tmp_path / "net.pth", "deeplabv3", options, **backbone), network)


@pytest.fixture(scope="module")
def deeplab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_network("deeplabv3plus"), tmp_path_factory.mktemp("deeplab"))


def change_configuration(source: Path, folder: Path, **changes: Any) -> Path:
    configuration = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**configuration, **changes}))
    (folder / "model.safetensors").symlink_to(source / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("changes", "options", "backbone", "message"),
    [
        ({}, {"decoder_channels": 8}, SMP, r"set heads\.scene\.options\.decoder_channels=16"),
        ({}, {"aspp_separable": False}, SMP, r"options\.aspp_separable=True"),
        ({}, {"atrous_rates": (1, 2, 3)}, SMP, r"options\.atrous_rates=\[12, 24, 36\]"),
        ({}, {}, {}, r"set backbone\.output_stride=16 and backbone\.contract_dilation=false$"),
        ({}, {}, {"output_stride": 16}, r"set backbone\.contract_dilation=false$"),
        ({}, {}, {**SMP, "name": "resnet34"}, r"set backbone\.name=resnet18$"),
        (
            {"encoder_name": "efficientnet-b0"},
            {},
            SMP,
            "names the encoder 'efficientnet-b0', which is not a ResNet that this package supports",
        ),
        ({"encoder_name": "se_resnet50"}, {}, SMP, "smp dilates it .* as no backbone does"),
        ({"encoder_name": "timm-skresnet18"}, {}, SMP, "other widths than timm"),
        ({"decoder_use_norm": "identity"}, {}, SMP, "sets decoder_use_norm to 'identity'"),
    ],
)
def test_what_does_not_fit_is_named_with_the_remedy(
    deeplab: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    options: dict[str, Any],
    backbone: dict[str, Any],
    message: str,
) -> None:
    source = change_configuration(deeplab, tmp_path, **changes) if changes else deeplab
    with pytest.raises(WeightsError, match=message) as caught:
        build(source, "deeplabv3plus", {"decoder_channels": 16, **options}, **backbone)
    assert "\n" not in str(caught.value)


def test_each_model_names_its_own_head(deeplab: Path) -> None:
    with pytest.raises(WeightsError, match=r"DeepLab v3\+ of seg.* needs a head DeepLabV3Plus;"):
        build(deeplab, "deeplabv3", {})


def test_the_auxiliary_branch_starts_from_random_weights(deeplab: Path) -> None:
    options = {"decoder_channels": 16, "auxiliary_level": "C4"}
    report: Any = build(deeplab, "deeplabv3plus", options, **SMP).backbone.report
    assert len(report.missing) == 7
    assert all(key.startswith("heads.scene.auxiliary.") for key in report.missing)
    assert any("auxiliary branch starts from random weights" in note for note in report.notes)
