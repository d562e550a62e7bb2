"""Heads on decoders of smp: small maps, strides, depths, options, dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from segmentation_models_pytorch.decoders.pan.decoder import PANDecoder
from torch import nn

from resnet_tasks.assemble.heads import BUILT_IN_HEADS
from resnet_tasks.errors import HeadError
from resnet_tasks.heads.base import HEADS
from resnet_tasks.heads.semantic.decoder_head import DecoderHead
from resnet_tasks.heads.semantic.deeplab import DeepLabV3, DeepLabV3Plus
from resnet_tasks.heads.semantic.linknet import LinkNet
from resnet_tasks.heads.semantic.pan import PAN
from resnet_tasks.heads.semantic.pspnet import PSPNet
from resnet_tasks.heads.semantic.unetplusplus import UNetPlusPlus
from resnet_tasks.heads.semantic.upernet import UPerNet
from resnet_tasks.layers.norms import find_batch_norms
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.testing.random_batches import random_batch, random_features, resnet_specs
from tests.support.decoder_heads import SMALL_DECODERS

assert BUILT_IN_HEADS
SPECS = resnet_specs(4)
CLASSES = ("a", "b", "c")
INTERPOLATING = ("deeplabv3", "deeplabv3plus", "pan", "pspnet", "segformer", "upernet")
"""Heads that read levels of any strides; the others double the resolution in every block."""
VIEW = random_batch().make_view(LabelTable.identity(CLASSES))


def make_head(name: str, specs: Any = SPECS, **options: Any) -> DecoderHead:
    torch.manual_seed(0)
    head = HEADS.get(name)(specs, CLASSES, {**SMALL_DECODERS[name], **options})
    assert isinstance(head, DecoderHead)
    return head


def dilate(output_stride: int) -> dict[str, FeatureSpec]:
    return {
        level: FeatureSpec(spec.channels, min(spec.stride, output_stride))
        for level, spec in SPECS.items()
    }


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", SMALL_DECODERS)
def test_learns_from_one_image_of_a_single_coarse_cell(name: str, norm: str) -> None:
    options = {} if name == "pan" else {"norm": norm}
    head = make_head(name, **options).train()
    features = random_features(SPECS, batch_size=1, padded_size=(32, 32))
    assert features["C5"].shape[-2:] == (1, 1)
    view = random_batch(image_sizes=[(31, 17)]).make_view(LabelTable.identity(CLASSES))
    terms = head.loss(features, view)
    sum(term.mean() for term in terms.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    assert all(value.isfinite().all() for value in head.state_dict().values())
    assert head(features)["logits"].shape == (1, 3, 32, 32)


@pytest.mark.parametrize("name", [name for name in SMALL_DECODERS if name != "pan"])
def test_group_norms_make_images_independent(name: str) -> None:
    head = make_head(name, norm="group").train()
    assert not find_batch_norms(head)
    features = random_features(SPECS)
    alone = head({level: values[:1] for level, values in features.items()})["logits"]
    torch.testing.assert_close(head(features)["logits"][:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", SMALL_DECODERS)
def test_dilated_backbones_fit_or_are_refused(name: str, output_stride: int) -> None:
    specs = dilate(output_stride)
    if name in INTERPOLATING:
        features = random_features(specs, padded_size=(64, 96))
        assert make_head(name, specs)(features)["logits"].shape == (2, 3, 64, 96)
        return
    with pytest.raises(HeadError, match=r"must double .*set backbone\.output_stride to 32"):
        make_head(name, specs)


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("name", SMALL_DECODERS)
def test_a_shallower_decoder_ends_at_another_level(name: str, depth: int) -> None:
    options: dict[str, Any] = {"depth": depth}
    if name in ("unetplusplus", "manet"):
        options["decoder_channels"] = SMALL_DECODERS[name]["decoder_channels"][:depth]
    head = make_head(name, **options)
    assert head.in_levels[-1] == f"C{depth}"
    features = {level: f for level, f in random_features(SPECS).items() if level <= f"C{depth}"}
    logits = head(features)["logits"]
    assert logits.shape == (2, 3, 64, 96)
    logits.sum().backward()
    assert all(features[level].grad is not None for level in head.in_levels)


@pytest.mark.parametrize("name", SMALL_DECODERS)
def test_decoders_keep_channels_last(name: str) -> None:
    specs = resnet_specs(16)
    head = make_head(name, specs).to(memory_format=torch.channels_last).eval()
    decoded = head.pixel_features(random_features(specs))
    assert decoded.is_contiguous(memory_format=torch.channels_last)


def test_logits_are_upsampled_with_aligned_corners() -> None:
    head, features = make_head("deeplabv3").eval(), random_features(SPECS)
    logits = head.classifier(head.pixel_features(features))
    assert logits.shape[-2:] == (2, 3)
    full = head(features)["logits"]
    assert torch.equal(full[..., ::63, ::95], logits[..., ::2])


def test_aspp_dropout_follows_the_seeds_and_spares_forward() -> None:
    head, features = make_head("deeplabv3", aspp_dropout=0.5, norm="group").train(), None
    features = random_features(SPECS)
    first = head.loss(features, VIEW)["cross_entropy"].sum
    torch.manual_seed(77)
    assert head.loss(features, VIEW)["cross_entropy"].sum == first
    dry = make_head("deeplabv3", aspp_dropout=0.0, norm="group").train()
    assert dry.loss(features, VIEW)["cross_entropy"].sum != first
    assert torch.equal(head(features)["logits"], dry(features)["logits"])
    assert head.eval().loss(features, VIEW)["cross_entropy"].sum != first


def test_atrous_rates_are_the_dilations() -> None:
    for head_class in (DeepLabV3, DeepLabV3Plus):
        head = head_class(SPECS, CLASSES, {"decoder_channels": 8, "atrous_rates": [2, 3, 5]})
        dilations = {m.dilation[0] for m in head.modules() if isinstance(m, nn.Conv2d)}
        assert dilations == {1, 2, 3, 5}


def test_pan_is_that_of_smp_on_maps_of_eight_cells_and_more() -> None:
    specs = dilate(8)
    head = PAN(specs, CLASSES, {"decoder_channels": 8}).eval()
    theirs = PANDecoder([3, *(spec.channels for spec in specs.values())], 5, 8).eval()
    theirs.load_state_dict(head.decoder.state_dict())
    features = random_features(specs, padded_size=(64, 96))
    assert features["C5"].shape[-2:] == (8, 12)
    expected = theirs([None, *features.values()])
    torch.testing.assert_close(head.pixel_features(features), expected)


@pytest.mark.parametrize("head_class", [PSPNet, UPerNet])
def test_pool_sizes_are_the_cells_of_the_pooled_maps(head_class: Any) -> None:
    head = head_class(SPECS, CLASSES, {"decoder_channels": 8, "pool_sizes": [1, 4]})
    assert head(random_features(SPECS))["logits"].shape == (2, 3, 64, 96)
    assert len(head.decoder.psp.blocks) == 2


@pytest.mark.parametrize(
    ("head_class", "options", "message"),
    [
        (UNetPlusPlus, {"decoder_channels": [8, 8]}, "has 2 values for a depth of 5; set one per"),
        (UNetPlusPlus, {"depth": 4}, "has 5 values for a depth of 4"),
        (UNetPlusPlus, {"interpolation": "cubic"}, "interpolation"),
        (PSPNet, {"pool_sizes": [1, 2, 3]}, "pool_sizes has 3 values, but C5 has 32 channels"),
        (PAN, {"norm": "group"}, "norm"),
        (DeepLabV3, {"atrous_rates": [1, 2]}, "atrous_rates"),
        (LinkNet, {"depth": 2}, "depth"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    head_class: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(HeadError, match=message):
        head_class(SPECS, CLASSES, options)
