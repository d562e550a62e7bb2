from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from resnet_tasks.backbone.family import LEVELS, ResNetSpec, list_backbones
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import ResnetTasksError, WeightsError

TINY = "test_resnet"
DEEP = (64, 256, 512, 1024, 2048)


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To 1e-5 of the largest value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert expected.abs().max().isfinite()


@pytest.fixture
def tiny_weights(tmp_path: Path) -> str:
    """A tiny variant's weights with statistics that differ from the initial ones."""
    net = timm.create_model(TINY)
    net.train()
    with torch.no_grad():
        net(torch.rand(4, 3, 64, 64))
    save_file(net.state_dict(), tmp_path / "tiny.safetensors")
    return str(tmp_path / "tiny.safetensors")


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        (TINY, (32, 32, 48, 192, 96)),
        ("resnet10t", (64, 64, 128, 256, 512)),
        ("resnet18", (64, 64, 128, 256, 512)),
        ("resnet18d", (64, 64, 128, 256, 512)),
        ("seresnet18", (64, 64, 128, 256, 512)),
        ("resnet50", DEEP),
        ("resnet50_gn", DEEP),
        ("resnext50_32x4d", DEEP),
        ("resnetrs50", DEEP),
    ],
)
def test_levels_have_the_channels_and_strides_of_the_specs(
    name: str, channels: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        backbone = ResNet(name).eval()
        features = backbone(torch.rand(1, 3, 64, 96))
    assert tuple(backbone.specs) == tuple(features) == LEVELS
    assert tuple(spec.channels for spec in backbone.specs.values()) == channels
    assert [spec.stride for spec in backbone.specs.values()] == [2, 4, 8, 16, 32]
    for level, spec in backbone.specs.items():
        expected = (1, spec.channels, 64 // spec.stride, 96 // spec.stride)
        assert features[level].shape == expected


TORCHVISION = (
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)


@pytest.mark.parametrize(
    "name", ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in TORCHVISION)]
)
def test_features_equal_torchvisions_with_the_same_state_dict(name: str, tmp_path: Path) -> None:
    oracle = torchvision.models.get_model(name, weights=None).train()
    with torch.no_grad():
        oracle(torch.rand(2, 3, 64, 64))
    oracle.eval()
    torch.save(oracle.state_dict(), tmp_path / "oracle.pth")
    backbone = ResNet(name, weights=str(tmp_path / "oracle.pth")).eval()
    images = torch.randn(2, 3, 75, 101)
    with torch.no_grad():
        features = backbone(images)
        x = oracle.relu(oracle.bn1(oracle.conv1(images)))
        assert_equal(features["C1"], x)
        x = oracle.maxpool(x)
        for number in range(1, 5):
            x = oracle.get_submodule(f"layer{number}")(x)
            assert_equal(features[f"C{number + 1}"], x)
    assert set(backbone.state_dict()) == {
        key for key in oracle.state_dict() if not key.startswith("fc.")
    }


def test_same_seed_gives_the_same_weights() -> None:
    torch.manual_seed(3)
    first = ResNet(TINY).state_dict()
    torch.manual_seed(3)
    second = ResNet(TINY).state_dict()
    third = ResNet(TINY).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv1.0.weight"], third["conv1.0.weight"])


def test_channels_last_images_give_channels_last_features() -> None:
    backbone = ResNet(TINY).eval().to(memory_format=torch.channels_last)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        plain = backbone(images)
        fast = backbone(images.to(memory_format=torch.channels_last))
    for level in LEVELS:
        assert fast[level].is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(fast[level], plain[level], rtol=1e-4, atol=1e-5)


def _step(backbone: ResNet) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """State before and after one training step on all parameters that want a gradient."""
    backbone.train()
    # The last norms start at zero, which would keep the residual branches without gradient.
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.ones_(module.weight)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    wanting = [each for each in backbone.parameters() if each.requires_grad]
    features = backbone(torch.rand(2, 3, 64, 64))
    optimizer = torch.optim.SGD(wanting or [nn.Parameter(torch.zeros(1))], lr=0.1)
    loss = sum(each.square().mean() for each in features.values())
    assert isinstance(loss, torch.Tensor)
    if loss.requires_grad:
        loss.backward()
        optimizer.step()
    return before, backbone.state_dict()


@pytest.mark.parametrize("frozen", range(6))
def test_frozen_stages_stay_fixed_with_their_statistics(frozen: int, tiny_weights: str) -> None:
    backbone = ResNet(TINY, weights=tiny_weights, frozen_stages=frozen)
    before, after = _step(backbone)
    stage_of = {"conv1": 1, "bn1": 1, "layer1": 2, "layer2": 3, "layer3": 4, "layer4": 5}
    for key, value in after.items():
        if key.endswith("num_batches_tracked"):
            continue
        fixed = stage_of[key.split(".")[0]] <= frozen
        assert torch.equal(before[key], value) == fixed, key


def test_frozen_stages_run_without_a_graph(tiny_weights: str) -> None:
    backbone = ResNet(TINY, weights=tiny_weights, frozen_stages=2).train()
    features = backbone(torch.rand(1, 3, 64, 64))
    assert [features[level].requires_grad for level in LEVELS] == [False, False, True, True, True]
    assert not backbone.layer1.training
    assert backbone.layer2.training


def test_frozen_norms_keep_statistics_and_scale_everywhere(tiny_weights: str) -> None:
    backbone = ResNet(TINY, weights=tiny_weights, norm="frozen")
    before, after = _step(backbone)
    norms = {name for name, each in backbone.named_modules() if isinstance(each, nn.BatchNorm2d)}
    assert len(norms) > 10
    for key, value in after.items():
        assert torch.equal(before[key], value) == (key.rpartition(".")[0] in norms), key


def test_group_norms_take_over_scale_and_offset(tiny_weights: str) -> None:
    plain = ResNet(TINY, weights=tiny_weights)
    backbone = ResNet(TINY, weights=tiny_weights, norm="group")
    kinds = {type(each).__name__ for each in backbone.modules()}
    assert not any("BatchNorm" in each for each in kinds)
    assert backbone.layer2[0].bn1.num_groups == 16  # 48 channels: 32 does not divide them
    assert backbone.layer1[0].bn1.num_groups == 32
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, plain.state_dict()[key]), key
    with torch.no_grad():
        assert backbone.eval()(torch.rand(1, 3, 64, 64))["C5"].isfinite().all()


def test_group_norms_of_frozen_stages_would_miss_the_statistics(tiny_weights: str) -> None:
    with pytest.raises(WeightsError, match=r"frozen_stages=2 with backbone\.norm=group"):
        ResNet(TINY, weights=tiny_weights, norm="group", frozen_stages=2)


@pytest.mark.parametrize(
    ("channels", "mean", "std"),
    [
        (1, (0.449,), (0.226,)),
        (4, (0.485, 0.456, 0.406, 0.485), (0.229, 0.224, 0.225, 0.229)),
    ],
)
def test_other_channel_counts_adapt_stem_and_constants(
    channels: int, mean: tuple[float, ...], std: tuple[float, ...], tiny_weights: str
) -> None:
    plain = ResNet(TINY, weights=tiny_weights)
    backbone = ResNet(TINY, weights=tiny_weights, in_channels=channels).eval()
    source = plain.state_dict()["conv1.0.weight"]
    adapted = backbone.state_dict()["conv1.0.weight"]
    if channels == 1:
        expected = source.sum(1, keepdim=True)
    else:
        expected = torch.cat((source, source[:, :1]), 1) * 3 / 4
    torch.testing.assert_close(adapted, expected)
    assert backbone.mean == pytest.approx(mean)
    assert backbone.std == pytest.approx(std)
    with torch.no_grad():
        assert backbone(torch.rand(1, channels, 64, 64))["C5"].shape == (1, 96, 2, 2)


def test_gray_images_give_the_same_features_in_one_channel_as_in_three(
    tiny_weights: str,
) -> None:
    gray = torch.randn(1, 1, 64, 64)
    three = ResNet(TINY, weights=tiny_weights).eval()
    one = ResNet(TINY, weights=tiny_weights, in_channels=1).eval()
    with torch.no_grad():
        expected = three(gray.expand(1, 3, 64, 64))["C5"]
        torch.testing.assert_close(one(gray)["C5"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"frozen_stages": 1}, "backbone.frozen_stages=0"),
        ({"norm": "frozen"}, "backbone.norm=train"),
    ],
)
def test_random_features_are_never_frozen(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(WeightsError, match="random features") as caught:
        ResNet(TINY, **arguments)  # type: ignore[arg-type]
    assert said in str(caught.value)
    ResNet(TINY, weights="unloaded", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("resnet81", {}, "'resnet18'"),
        ("cspresnet50", {}, "is not a ResNet that this package supports"),
        ("vit_base_patch16_224", {}, "is not a ResNet"),
        (TINY, {"frozen_stages": 6}, "6; allowed: 0"),
        (TINY, {"norm": "batch"}, "'batch'; allowed: train, frozen, sync, group"),
        (TINY, {"in_channels": 0}, "in_channels is 0"),
        (TINY, {"output_stride": 4}, "backbone.output_stride is 4; allowed: 8, 16, 32"),
        ("legacy_seresnet50", {"output_stride": 8}, "cannot be dilated; use 32, or seresnet50"),
        ("resnet", {}, "needs backbone.layers, such as [3, 4, 6, 3]"),
        ("resnet50_gn", {"norm": "sync"}, "backbone.norm is sync, but resnet50_gn has no batch"),
        ("nf_resnet26", {"norm": "group"}, "backbone.norm is group, but nf_resnet26 has no norms"),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ResnetTasksError) as caught:
        ResNet(name, **arguments)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_names_are_filtered_by_pattern() -> None:
    assert {"resnet18", "resnext50_32x4d", "wide_resnet50_2", "seresnet50"} <= set(list_backbones())
    assert list_backbones("resnet1?") == ["resnet18"]


@pytest.mark.parametrize("name", ["resnetv2_50x1_bit", "nf_resnet26", "skresnet18", "resnet33ts"])
def test_other_families_run_in_bf16_and_channels_last(name: str) -> None:
    backbone = ResNet(name).to(memory_format=torch.channels_last).eval()
    images = torch.randn(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        exact = backbone(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = backbone(images)
    for level in LEVELS:
        assert exact[level].is_contiguous(memory_format=torch.channels_last), level
        # Random weights amplify the rounding; a wrong kernel or layout would leave nothing alike.
        alike = torch.cosine_similarity(rough[level].float().flatten(), exact[level].flatten(), 0)
        assert alike > 0.9, level


@pytest.mark.parametrize("name", ["resnetv2_50x1_bit", "resnetv2_50d_evos", "resnetv2_18"])
def test_weights_of_preactivation_nets_load_freeze_and_adapt(name: str, tmp_path: Path) -> None:
    net = timm.create_model(name)
    save_file(net.state_dict(), tmp_path / "own.safetensors")
    backbone = ResNet(
        name, weights=str(tmp_path / "own.safetensors"), in_channels=1, frozen_stages=2
    )
    assert backbone.report is not None
    assert set(backbone.report.matched) == set(backbone.state_dict())
    assert set(backbone.report.unexpected) == {"head.fc.weight", "head.fc.bias"}
    stem = next(key for key in backbone.state_dict() if key.startswith("stem.conv"))
    given = net.state_dict()[stem].sum(1, keepdim=True)
    torch.testing.assert_close(backbone.state_dict()[stem], given)
    for key, value in backbone.named_parameters():
        assert value.requires_grad != key.startswith(("stem.", "stages.0.")), key
    still = ResNet(name, weights=str(tmp_path / "own.safetensors"), norm="frozen")
    for key, value in still.named_parameters():
        assert value.requires_grad == ("norm" not in key), key
    longer = net.state_dict() | {"stages.2.blocks.9.conv1.weight": torch.zeros(1)}
    save_file(longer, tmp_path / "longer.safetensors")
    with pytest.raises(WeightsError, match=r"1 tensor is unexpected \(stages\.2\.blocks\.9"):
        ResNet(name, weights=str(tmp_path / "longer.safetensors"))


def test_shared_statistics_keep_keys_weights_and_frozen_parts(tiny_weights: str) -> None:
    plain = ResNet(TINY, weights=tiny_weights, frozen_stages=2)
    backbone = ResNet(TINY, weights=tiny_weights, frozen_stages=2, norm="sync")
    norms = [
        each for each in backbone.modules() if isinstance(each, nn.modules.batchnorm._NormBase)
    ]
    assert len(norms) > 10
    assert all(isinstance(each, nn.SyncBatchNorm) for each in norms)
    assert list(backbone.state_dict()) == list(plain.state_dict())
    images = torch.rand(2, 3, 64, 64)
    mine, theirs = backbone.train()(images), plain.train()(images)
    for level in LEVELS:  # norms that share statistics are not folded where they are frozen
        torch.testing.assert_close(mine[level], theirs[level], atol=1e-4, rtol=1e-4)
    before, after = _step(backbone)
    for key, value in after.items():
        if key.startswith(("conv1.", "bn1.", "layer1.")):
            assert torch.equal(before[key], value), key
    assert not torch.equal(before["layer4.0.bn1.running_mean"], after["layer4.0.bn1.running_mean"])


def test_statistics_are_not_shared_where_torch_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = ResNet(TINY, norm="sync").train()
    images = torch.rand(2, 3, 64, 64)
    backbone(images)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ResnetTasksError, match=r"between 2 processes on cpu; use backbone\.norm="):
        backbone(images)
    backbone.eval()(images)


@pytest.mark.parametrize(
    "name", ["resnet10t", "resnetv2_18", ResNetSpec((1, 1, 1, 1)), ResNetSpec((2, 1, 1, 2))]
)
def test_first_blocks_can_have_the_dilation_of_the_others(name: str | ResNetSpec) -> None:
    net = ResNet(name, output_stride=8)
    net.expand_dilation()
    assert not net.contract_dilation
    for parts, dilation in zip(net.stage_parts[1:], (1, 1, 2, 4), strict=True):
        for layer in net.get_submodule(parts[0]).modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                assert layer.dilation == layer.padding == (dilation, dilation)
    with torch.no_grad():
        assert net(torch.rand(1, 3, 64, 96))["C5"].shape[-2:] == (8, 12)
