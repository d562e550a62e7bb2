from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from resnet_tasks.errors import HeadError
from resnet_tasks.heads.semantic.fpn import SemanticFPN
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.samples import BatchView
from resnet_tasks.structures.targets import Target
from resnet_tasks.testing.head_contract import check_head
from resnet_tasks.testing.random_batches import random_features, resnet_specs

SPECS = resnet_specs(16)
SMALL = {"pyramid_channels": 32, "segmentation_channels": 64}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {**SMALL, "merge": "cat"},
        {**SMALL, "loss": "focal+dice", "class_weights": [1, 2, 3], "dropout": 0.9},
    ],
)
def test_keeps_the_contract(options: dict[str, object]) -> None:
    check_head(SemanticFPN, options=options)


@pytest.mark.parametrize("merge", ["add", "cat"])
def test_logits_cover_the_padded_image_and_stay_channels_last(merge: str) -> None:
    head = SemanticFPN(SPECS, ["a", "b"], {**SMALL, "merge": merge})
    head = head.to(memory_format=torch.channels_last)
    features = random_features(SPECS, padded_size=(96, 160))
    decoded = head.pixel_features(features)
    assert decoded.shape == (2, 64 if merge == "add" else 256, 24, 40)
    assert decoded.is_contiguous(memory_format=torch.channels_last)
    assert not decoded.is_contiguous()
    assert head(features)["logits"].shape == (2, 2, 96, 160)


@pytest.mark.parametrize("merge", ["add", "cat"])
def test_equals_the_library_s_decoder(merge: str) -> None:
    head = SemanticFPN(SPECS, ["a"], {**SMALL, "merge": merge})
    found = []
    for is_ours in (True, False):
        head.zero_grad()
        features = random_features(SPECS, padded_size=(96, 160))
        levels = [features[level].requires_grad_() for level in head.in_levels]
        made = head.pixel_features(features) if is_ours else head.decoder(levels)
        (made * torch.linspace(-1, 1, made.numel()).view(made.shape)).sum().backward()
        given = [level.grad for level in levels]
        found.append([made, *given, *(each.grad for each in head.decoder.parameters())])
    for mine, yours in zip(*found, strict=True):
        assert mine is not None
        torch.testing.assert_close(mine, yours, atol=1e-4, rtol=1e-3)


def test_a_constant_score_stays_constant_when_upsampled() -> None:
    head = SemanticFPN(SPECS, ["a", "b"], SMALL)
    nn.init.zeros_(head.classifier[0].weight)
    with torch.no_grad():
        head.classifier[0].bias.copy_(torch.tensor([0.25, -3.0]))
    logits = head(random_features(SPECS))["logits"]
    assert (logits[:, 0] == 0.25).all()
    assert (logits[:, 1] == -3.0).all()


def test_refuses_a_dilated_level_and_says_what_it_takes() -> None:
    specs = {**SPECS, "C5": FeatureSpec(8, 16)}
    with pytest.raises(HeadError, match="after C4 of stride 16, C5 may have 32"):
        SemanticFPN(specs, ["a"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merge": "max"}, "merge: got 'max'; allowed is one of 'add', 'cat'"),
        ({"segmentation_channels": 100}, "segmentation_channels: got 100; .*a multiple of 32"),
        ({"segmentation_channels": 32}, "segmentation_channels: got 32; .* from 64 to 2048"),
        ({"dropout": 1.0}, "dropout: got 1.0; .*below 1"),
        ({"norm": "batch"}, "norm is not an option"),
    ],
)
def test_refuses_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(HeadError, match=message):
        SemanticFPN(SPECS, ["a"], options)


@pytest.mark.parametrize("merge", ["add", "cat"])
def test_learns_from_one_image_of_a_single_coarse_cell(merge: str) -> None:
    head = SemanticFPN(SPECS, ["a", "b"], {**SMALL, "merge": merge}).train()
    features = random_features(SPECS, batch_size=1, padded_size=(32, 32))
    semantic = torch.randint(0, 2, (32, 32))
    view = BatchView((Target(semantic=semantic),), ((32, 32),), (32, 32), (1,), (7,))
    head.loss(features, view)["cross_entropy"].mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    assert features["C5"].grad.ne(0).any()


def test_default_dropout_is_the_library_s() -> None:
    head = SemanticFPN(SPECS, ["a"])
    assert head.options.dropout == 0.2
    assert head.decoder.dropout.p == 0.0


def test_dropout_is_drawn_from_the_seeds_in_training_only() -> None:
    head = SemanticFPN(SPECS, ["a", "b"], {**SMALL, "dropout": 0.5}).train()
    features, labels = random_features(SPECS), torch.randint(0, 2, (2, 64, 96))
    targets = tuple(Target(semantic=each) for each in labels)
    view = BatchView(targets, ((64, 96),) * 2, (64, 96), (0, 1), (0, 1))

    def loss(*seeds: int) -> float:
        term = head.loss(features, replace(view, seeds=seeds))["cross_entropy"]
        return term.sum.item()

    assert loss(1, 2) == loss(1, 2) != loss(1, 3)
    head.eval()
    assert loss(1, 2) == loss(1, 3)
