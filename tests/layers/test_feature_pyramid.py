"""The pyramid equals torchvision's and refuses strides that do not double."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops.feature_pyramid_network import (
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from resnet_tasks.errors import HeadError
from resnet_tasks.layers.feature_pyramid import (
    ConvolvedLevels,
    FeaturePyramid,
    has_shared_pyramid,
)
from resnet_tasks.structures.feature_spec import FeatureSpec

SPECS = {f"C{k}": FeatureSpec(4 * k, 2**k) for k in (2, 3, 4, 5)}


def features(height: int, width: int) -> dict[str, torch.Tensor]:
    return {
        level: torch.randn(2, spec.channels, height // spec.stride, width // spec.stride)
        for level, spec in SPECS.items()
    }


@pytest.mark.parametrize("size", [(64, 96), (96, 32)])
def test_equals_torchvision_with_its_weights(size: tuple[int, int]) -> None:
    theirs = FeaturePyramidNetwork([s.channels for s in SPECS.values()], 8, LastLevelMaxPool())
    ours = FeaturePyramid(SPECS, 8)
    ours.load_state_dict(theirs.state_dict())
    given = features(*size)
    expected = list(theirs(dict(given)).values())
    got = ours(given)
    assert list(got) == ["P2", "P3", "P4", "P5", "P6"]
    for mine, yours in zip(got.values(), expected, strict=True):
        torch.testing.assert_close(mine, yours)


def test_specs_describe_what_comes_out() -> None:
    pyramid = FeaturePyramid(SPECS, 8)
    for level, tensor in pyramid(features(64, 128)).items():
        spec = pyramid.specs[level]
        assert tensor.shape == (2, spec.channels, 64 // spec.stride, 128 // spec.stride)


def test_extra_level_can_be_left_out() -> None:
    assert list(FeaturePyramid(SPECS, 8, extra_levels=None).specs) == ["P2", "P3", "P4", "P5"]


def test_dilated_strides_are_refused() -> None:
    dilated = {**SPECS, "C5": FeatureSpec(20, 16)}
    with pytest.raises(HeadError, match=r"must double.*C4 16, C5 16"):
        FeaturePyramid(dilated, 8)


@pytest.mark.parametrize("size", [(64, 96), (96, 32)])
def test_convolved_levels_equal_torchvision(size: tuple[int, int]) -> None:
    channels = [spec.channels for spec in SPECS.values()]
    theirs = FeaturePyramidNetwork(channels, 8, LastLevelP6P7(8, 8))
    ours = FeaturePyramid(SPECS, 8, extra_levels="convolved")
    ours.load_state_dict(theirs.state_dict())
    given = features(*size)
    got, expected = ours(given), list(theirs(dict(given)).values())
    assert list(got) == list(ours.specs) == ["P2", "P3", "P4", "P5", "P6", "P7"]
    for mine, yours in zip(got.values(), expected, strict=True):
        torch.testing.assert_close(mine, yours)
    assert ours.specs["P7"] == FeatureSpec(8, 128, "convolved")


def test_levels_convolved_from_c5_equal_torchvision() -> None:
    channels = [spec.channels for spec in SPECS.values()]
    theirs = FeaturePyramidNetwork(channels, 8, LastLevelP6P7(channels[-1], 8))
    ours = FeaturePyramid(SPECS, 8, extra_levels="convolved_c5")
    ours.load_state_dict(theirs.state_dict())
    given = features(96, 32)
    for mine, yours in zip(ours(given).values(), theirs(dict(given)).values(), strict=True):
        torch.testing.assert_close(mine, yours)
    assert ours.specs["P6"] == FeatureSpec(8, 64, "convolved_c5")


def test_finer_levels_than_those_that_are_read_are_skipped() -> None:
    pyramid, given = FeaturePyramid(SPECS, 8, extra_levels="convolved"), features(64, 96)
    complete = pyramid(given)
    pyramid.skip_finest_levels({"P4", "P6", "C2"})
    got = pyramid(given)
    assert list(got) == ["P4", "P5", "P6", "P7"]
    for level, values in got.items():
        assert torch.equal(values, complete[level])
    trained = [
        [any(p.requires_grad for p in block.parameters()) for block in blocks]
        for blocks in (pyramid.inner_blocks, pyramid.layer_blocks)
    ]
    assert trained == [[False, False, True, True]] * 2
    # P6 is computed from P5.
    coarse = FeaturePyramid(SPECS, 8, extra_levels="convolved")
    coarse.skip_finest_levels({"P7"})
    assert list(coarse(given)) == ["P5", "P6", "P7"]
    plain = FeaturePyramid(SPECS, 8)
    plain.skip_finest_levels({"C4"})
    assert list(plain(given)) == list(plain.specs)


def test_a_pyramid_from_c3_ends_at_p7() -> None:
    levels = {level: SPECS[level] for level in ("C3", "C4", "C5")}
    pyramid = FeaturePyramid(levels, 8, extra_levels="convolved")
    assert list(pyramid.specs) == ["P3", "P4", "P5", "P6", "P7"]


def test_another_variant_is_refused_by_both_names() -> None:
    pooled = {**SPECS, **FeaturePyramid(SPECS, 8).specs}
    assert has_shared_pyramid(pooled, ("P2", "P6"), "pooled", "head A")
    assert not has_shared_pyramid(SPECS, ("P2", "P6"), "pooled", "head A")
    told = r"head A needs a pyramid with convolved extra levels, but P6 .* is pooled; set pyramid\."
    with pytest.raises(HeadError, match=told):
        has_shared_pyramid(pooled, ("P3", "P7"), "convolved", "head A")


@pytest.mark.parametrize("height", [1, 4])
def test_gradients_of_maps_of_one_column_are_finite_in_bf16(height: int) -> None:
    levels = ConvolvedLevels(16, 16)
    values = torch.randn(1, 16, height, 1)
    with torch.no_grad():
        expected = levels(values)  # without the workaround
    assert all(torch.equal(a, b) for a, b in zip(levels(values), expected, strict=True))
    for _ in range(10):
        # Freed memory with NaN, which an uninitialized gradient would show.
        freed = [torch.full((16, 16, 3, 3), torch.nan, dtype=torch.bfloat16) for _ in range(8)]
        del freed
        levels.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            p6, p7 = levels(values)
        (p6.float().sum() + p7.float().sum()).backward()
        for parameter in levels.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
            assert float(parameter.grad.abs().max()) < 1e3
