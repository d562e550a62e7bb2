"""Losses and the auxiliary branch, which every semantic head has."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from resnet_tasks.errors import HeadError
from resnet_tasks.heads.semantic.fpn import SemanticFPN
from resnet_tasks.heads.semantic.semantic_head import SemanticHead
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.layers.feature_pyramid import FeaturePyramid
from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.testing.head_contract import check_head
from resnet_tasks.testing.random_batches import random_batch, random_features, resnet_specs

SPECS = resnet_specs(4)
CLASSES = ("a", "b", "c")
SMALL = {"decoder_channels": [8, 8, 8, 4, 4]}
VIEW = random_batch().make_view(LabelTable.identity(CLASSES))
ALL = "ohem_cross_entropy+tversky+lovasz+boundary"


def make_head(**options: object) -> UNet:
    torch.manual_seed(0)
    return UNet(SPECS, CLASSES, {**SMALL, **options}).train()


@pytest.mark.slow
def test_all_losses_keep_the_contract() -> None:
    options = {**SMALL, "loss": ALL, "auxiliary_level": "C4", "class_weights": {"b": 2.0}}
    check_head(UNet, options=options, specs=SPECS)


def test_new_losses_are_terms_of_their_names() -> None:
    terms = make_head(loss=ALL).loss(random_features(SPECS), VIEW)
    assert list(terms) == ALL.split("+")
    assert all(term.count > 0 and term.sum.isfinite() for term in terms.values())


def test_options_reach_the_losses() -> None:
    features = random_features(SPECS)
    first, second = (
        make_head(loss=ALL, **options).loss(features, VIEW)
        for options in (
            {},
            {
                "ohem_min_kept": 1.0,
                "tversky_alpha": 0.9,
                "boundary_weight": 0.02,
                "class_weights": {"b": 3.0},
            },
        )
    )
    assert second["ohem_cross_entropy"].count > first["ohem_cross_entropy"].count
    assert second["tversky"].sum != first["tversky"].sum
    assert second["boundary"].sum.item() == pytest.approx(2 * first["boundary"].sum.item())
    assert second["lovasz"].sum == first["lovasz"].sum


def test_the_boundary_loss_needs_another_one() -> None:
    with pytest.raises(HeadError, match="next to boundary, such as cross_entropy\\+boundary"):
        make_head(loss="boundary")


def test_the_auxiliary_branch_adds_a_weighted_cross_entropy() -> None:
    features = random_features(SPECS)
    head = make_head(auxiliary_level="C4", auxiliary_weight=0.25)
    terms = head.loss(features, VIEW)
    assert list(terms) == ["cross_entropy", "auxiliary"]
    twin = make_head(auxiliary_level="C4", auxiliary_weight=0.25)  # with the same statistics
    logits = F.interpolate(twin.auxiliary(features["C4"]), size=(64, 96), mode="bilinear")
    expected = F.cross_entropy(logits, VIEW.semantic, ignore_index=VOID)
    assert terms["auxiliary"].mean().item() == pytest.approx(0.25 * expected.item(), rel=1e-5)
    terms["auxiliary"].sum.backward()
    assert features["C4"].grad.ne(0).any()
    assert features["C5"].grad is None


def test_predictions_do_not_use_the_auxiliary_branch() -> None:
    features = random_features(SPECS)
    head, plain = make_head(auxiliary_level="C4").eval(), make_head().eval()
    missing, unexpected = plain.load_state_dict(head.state_dict(), strict=False)
    assert not missing
    assert all(key.startswith("auxiliary.") for key in unexpected)
    assert torch.equal(head(features)["logits"], plain(features)["logits"])
    head.prepare_for_inference()
    assert not any(key.startswith("auxiliary.") for key in head.state_dict())
    assert torch.equal(head(features)["logits"], plain(features)["logits"])


def test_the_auxiliary_level_is_read_next_to_a_shared_pyramid() -> None:
    pyramid = FeaturePyramid({k: v for k, v in SPECS.items() if k != "C1"}, 8)
    head = SemanticFPN({**SPECS, **pyramid.specs}, CLASSES, {"auxiliary_level": "C3"})
    assert head.in_levels == ("P2", "P3", "P4", "P5", "C3")
    head.prepare_for_inference()
    assert head.in_levels == ("P2", "P3", "P4", "P5")


def test_a_missing_auxiliary_level_is_refused() -> None:
    specs = {level: spec for level, spec in SPECS.items() if level != "C1"}
    with pytest.raises(HeadError, match="do not include C1"):
        SemanticFPN(specs, CLASSES, {"auxiliary_level": "C1"})


def test_base_class_reads_its_own_levels() -> None:
    assert SemanticHead.select_decoder_levels is not SemanticFPN.select_decoder_levels
    assert UNet.levels(SPECS, UNet.parse_options({"auxiliary_level": "C2"})) == tuple(SPECS)
