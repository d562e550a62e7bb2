from __future__ import annotations

import re
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from resnet_tasks.backbone.family import (
    LEVELS,
    ResNetSpec,
    build_trunk,
    list_all_backbones,
    list_backbones,
)
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import ResnetTasksError, WeightsError

SAMPLES = ["test_resnet", "seresnet18", "resnetv2_50x1_bit"]
"""A plain net, one with attention, one with pre-activation and standardized weights."""


def rest(names: list[str]) -> list[object]:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


EVERY = [*SAMPLES, *rest([name for name in list_backbones() if name not in SAMPLES])]


def settled(name: str) -> ResNet:
    """A random net whose every branch says something: no zero weights, fitting statistics."""
    backbone = ResNet(name)
    for value in backbone.parameters():
        if not value.any():
            nn.init.constant_(value, 0.5)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        backbone.train()(torch.randn(2, 3, 64, 64))
    return backbone.eval()


class Undrawn(TorchFunctionMode):
    """Leaves weights that are about to be replaced as they are: drawing them takes longest."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.__name__ in {"normal_", "uniform_", "kaiming_normal_", "trunc_normal_"}:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def loaded(model: nn.Module, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Gives a timm model the weights, in their precision; its missing and unexpected keys."""
    keys = model.load_state_dict(state, strict=False, assign=True)
    model.double().eval()
    return keys.missing_keys, keys.unexpected_keys


@pytest.mark.parametrize("name", EVERY)
def test_features_equal_timms(name: str) -> None:
    # In double precision: norms are folded into filters here, and deep random nets blow up
    # single precision's last digit beyond any tolerance that still proves something.
    backbone = settled(name).double()
    state = backbone.state_dict()
    renamed = {
        key.replace("stem.", "stem_", 1).replace("stages.", "stages_", 1): value
        for key, value in state.items()
    }
    with Undrawn():
        whole = timm.create_model(name, num_classes=0, global_pool="")
        lower = timm.create_model(name, features_only=True, out_indices=(0, 1, 2, 3))
    missing, unexpected = loaded(whole, state)
    assert not unexpected
    assert all(key.startswith(("fc.", "head.", "last_linear.")) for key in missing)
    missing, _ = loaded(lower, renamed)
    assert not missing
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        features = backbone(images)
        expected = [*lower(images), whole.forward_features(images)]
    for level, wanted in zip(LEVELS, expected, strict=True):
        largest = wanted.abs().max()
        assert largest.isfinite()
        assert largest > 0
        assert (features[level] - wanted).abs().max() <= 1e-9 * largest, level


@pytest.mark.parametrize(
    "name", [*SAMPLES, "nf_resnet26", "resnet33ts", *rest(list(list_backbones()))]
)
@pytest.mark.parametrize("stride", [32, 16, 8])
def test_levels_are_what_the_specs_say(name: str, stride: int) -> None:
    with torch.device("meta"):
        if stride < 32 and name.startswith("legacy"):
            with pytest.raises(ResnetTasksError, match="cannot be dilated"):
                ResNet(name, output_stride=stride)
            return
        backbone = ResNet(name, output_stride=stride).eval()
        features = backbone(torch.rand(1, 3, 64, 96))
    assert [spec.stride for spec in backbone.specs.values()] == [
        min(each, stride) for each in (2, 4, 8, 16, 32)
    ]
    for level, spec in backbone.specs.items():
        expected = (1, spec.channels, 64 // spec.stride, 96 // spec.stride)
        assert features[level].shape == expected, level


def test_dilation_keeps_the_weights() -> None:
    plain = ResNet("test_resnet")
    dilated = ResNet("test_resnet", output_stride=8)
    dilated.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        fine, coarse = dilated.eval()(images), plain.eval()(images)
    assert torch.equal(fine["C3"], coarse["C3"])
    assert fine["C5"].shape[-2:] == (8, 8)
    # The dilated stage reads the same cells as the strided one, where that one looks.
    torch.testing.assert_close(fine["C4"][..., ::2, ::2], coarse["C4"], rtol=1e-4, atol=1e-5)


def test_the_last_level_of_a_preactivation_net_gets_its_final_norm() -> None:
    trunk = build_trunk("resnetv2_50x1_bit")
    assert trunk.stages[0] == ("stem.conv", "stem.pad", "stem.pool")
    assert trunk.stages[4] == ("stages.3", "norm")
    assert trunk.taps == {
        "C1": "stem.conv",
        "C2": "stages.0",
        "C3": "stages.1",
        "C4": "stages.2",
        "C5": "norm",
    }


def test_the_family_holds_what_its_rule_says() -> None:
    names = set(list_all_backbones())
    assert len(names) == len(list_all_backbones()) > 140
    assert {
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"),
        *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "resnet50d", "seresnet50"),
        *("resnet50_gn", "resnetv2_50x1_bit", "resnetv2_101", "skresnet18", "res2net50_26w_4s"),
        *("resnest50d", "legacy_senet154", "resnet50_clip", "nf_resnet50", "gcresnet50t"),
    } <= names
    assert not names & {"cspresnet50", "tresnet_m", "gernet_l", "nf_regnet_b0", "bat_resnext26ts"}


def test_layers_of_a_known_variant_build_that_variant() -> None:
    named, own = ResNet("resnet34"), ResNet(ResNetSpec((3, 4, 6, 3), "basic"))
    assert own.state_dict().keys() == named.state_dict().keys()
    own.load_state_dict(named.state_dict())
    assert own.specs == named.specs
    assert own.name == "resnet"
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(own.eval()(images)["C5"], named.eval()(images)["C5"])


@pytest.mark.parametrize(
    ("depth", "convolutions"),
    [
        (ResNetSpec((2, 2, 2, 2), "basic"), 18),
        (ResNetSpec((3, 4, 6, 3)), 50),
        (ResNetSpec((3, 8, 36, 3)), 152),
        (ResNetSpec((3, 46, 281, 3)), 1001),
    ],
)
def test_depth_counts_as_in_the_paper(depth: ResNetSpec, convolutions: int) -> None:
    assert depth.convolutions == convolutions


@pytest.mark.parametrize(
    ("layers", "size"),
    [
        ((128, 128, 128, 129), "513 blocks with about 763 million parameters"),
        ((1, 1, 1, 224), "227 blocks with about 1,000 million parameters"),
        ((4096, 4096, 4096, 4096), "16,384 blocks with about 24,289 million parameters"),
    ],
)
def test_excessive_depths_are_refused(layers: tuple[int, ...], size: str) -> None:
    text = re.escape(f"backbone.layers is {list(layers)}: {size}, more than the limits of 512 ")
    with pytest.raises(ResnetTasksError, match=text):
        ResNetSpec(layers)


def test_wrong_depths_are_refused() -> None:
    with pytest.raises(
        ResnetTasksError, match=r"backbone.layers is \[3, 4, 6\]; set the number of blocks"
    ):
        ResNetSpec((3, 4, 6))
    with pytest.raises(ResnetTasksError, match=r"\[3, 0, 6, 3\]"):
        ResNetSpec((3, 0, 6, 3))
    with pytest.raises(ResnetTasksError, match=r"backbone\.block is 'deep'"):
        ResNetSpec((1, 1, 1, 1), "deep")  # type: ignore[arg-type]
    for weights in ("imagenet", "timm:a1_in1k", "torchvision:IMAGENET1K_V2"):
        with pytest.raises(
            WeightsError, match=r"no pretrained weights exist for a resnet of \[1, 1, 1, 1\] basic"
        ):
            ResNet(ResNetSpec((1, 1, 1, 1), "basic"), weights=weights)
