from __future__ import annotations

import pytest
import torch
from torch import nn

from resnet_tasks.errors import HeadError
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.samples import BatchView
from resnet_tasks.structures.targets import Target
from resnet_tasks.testing.head_contract import check_head
from resnet_tasks.testing.random_batches import random_batch, random_features, resnet_specs
from tests.support.decoding import decode

SPECS = resnet_specs(16)
ALL_TERMS = {"loss": "cross_entropy+dice+focal"}


def view_of(semantic: torch.Tensor) -> BatchView:
    size = (int(semantic.shape[1]), int(semantic.shape[2]))
    targets = tuple(Target(semantic=each) for each in semantic)
    numbers = tuple(range(len(semantic)))
    return BatchView(targets, (size,) * len(semantic), size, numbers, numbers)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "group", "dropout": 0.5},
        {**ALL_TERMS, "class_weights": {"b": 2.0}, "label_smoothing": 0.1},
        {"loss": "dice", "decoder_channels": [32, 24, 16, 8, 8]},
    ],
)
def test_keeps_the_contract(options: dict[str, object]) -> None:
    check_head(UNet, options=options)


def test_logits_cover_the_padded_image() -> None:
    logits = UNet(SPECS, ["a", "b"])(random_features(SPECS, padded_size=(96, 160)))["logits"]
    assert logits.shape == (2, 2, 96, 160)


def test_fits_a_dilated_backbone() -> None:
    specs = {**SPECS, "C5": FeatureSpec(SPECS["C5"].channels, 16)}
    features = random_features(specs, padded_size=(64, 64))
    assert features["C5"].shape[-2:] == features["C4"].shape[-2:]
    assert UNet(specs, ["a"])(features)["logits"].shape == (2, 1, 64, 64)


@pytest.mark.parametrize(
    ("level", "stride", "allowed"), [("C3", 16, "4 or 8"), ("C2", 1, "2 or 4")]
)
def test_refuses_strides_that_do_not_fit(level: str, stride: int, allowed: str) -> None:
    specs = {**SPECS, level: FeatureSpec(8, stride)}
    with pytest.raises(HeadError, match=f"{level} may have {allowed}, got .*{level} {stride}"):
        UNet(specs, ["a"])


def test_decoder_keeps_channels_last() -> None:
    head = UNet(SPECS, ["a"]).to(memory_format=torch.channels_last)
    decoded = head.pixel_features(random_features(SPECS))
    assert decoded.is_contiguous(memory_format=torch.channels_last)
    assert not decoded.is_contiguous()


def test_group_norm_replaces_every_batch_norm_and_makes_images_independent() -> None:
    head = UNet(SPECS, ["a", "b"], {"norm": "group"}).train()
    kinds = [type(module) for module in head.modules()]
    assert nn.BatchNorm2d not in kinds
    assert kinds.count(nn.GroupNorm) == 10
    features = random_features(SPECS, batch_size=2)
    alone = head({level: values[:1] for level, values in features.items()})["logits"]
    torch.testing.assert_close(head(features)["logits"][:1], alone)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_learns_from_one_image_of_a_single_coarse_cell(norm: str) -> None:
    head = UNet(SPECS, ["a", "b"], {"norm": norm, **ALL_TERMS}).train()
    features = random_features(SPECS, batch_size=1, padded_size=(32, 32))
    assert features["C5"].shape[-2:] == (1, 1)
    terms = head.loss(features, view_of(torch.randint(0, 2, (1, 32, 32))))
    sum(term.mean() for term in terms.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_one_class_means_everything_is_it() -> None:
    head = UNet(SPECS, ["all"], ALL_TERMS).train()
    features = random_features(SPECS, batch_size=1)
    terms = head.loss(features, view_of(torch.zeros(1, 64, 96, dtype=torch.int64)))
    total = sum(term.mean() for term in terms.values())
    total.backward()
    assert total.item() == pytest.approx(0, abs=1e-6)
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    found = decode(head, head(features), [Geometry((64, 96), (64, 96))])[0]
    assert (found.labels == 0).all()
    assert (found.probs == 1).all()


def test_a_batch_of_void_teaches_nothing_and_stays_finite() -> None:
    head = UNet(SPECS, ["a", "b"], ALL_TERMS).train()
    features = random_features(SPECS)
    terms = head.loss(features, view_of(torch.full((2, 64, 96), VOID)))
    assert list(terms) == ["cross_entropy", "dice", "focal"]
    assert all(term.count == 0 and term.sum == 0 for term in terms.values())
    sum(term.mean() for term in terms.values()).backward()
    assert all((parameter.grad == 0).all() for parameter in head.parameters())


def test_padding_counts_for_nothing() -> None:
    batch = random_batch(image_sizes=[(40, 50), (64, 90)])
    term = UNet(SPECS, ["a", "b", "c"]).loss(
        random_features(SPECS), batch.make_view(LabelTable.identity(["a", "b", "c"]))
    )["cross_entropy"]
    padding = batch.targets[0].semantic
    assert padding.shape == (64, 96)
    assert (padding[40:] == VOID).all()
    assert (padding[:, 50:] == VOID).all()
    assert term.count == sum(int((each.semantic != VOID).sum()) for each in batch.targets) > 0


class TestDecode:
    head = UNet(SPECS, ["a", "b"])

    def test_logits_by_hand(self) -> None:
        # A 2 x 2 image in a batch padded to 4 x 4; the padding says b everywhere.
        logits = torch.stack([torch.zeros(4, 4), torch.full((4, 4), 50.0)])
        logits[:, :2, :2] = torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[0.0, 3.0], [0.0, 0.0]]])
        found = decode(self.head, {"logits": logits[None]}, [Geometry((2, 2), (2, 2))])[0]
        # Equal logits go to the first class.
        assert found.labels.tolist() == [[0, 1], [0, 0]]
        e = torch.e
        expected = torch.tensor([[e**3 / (1 + e**3), 1 / (1 + e**3)], [0.5, e / (1 + e)]])
        torch.testing.assert_close(found.probs[0], expected)
        torch.testing.assert_close(found.probs[1], 1 - expected)

    def test_resizes_logits_to_the_original(self) -> None:
        # 1 x 2 pixels inside the batch from an original of 1 x 4: half-pixel centers put the four
        # at -0.25 (the border), 0.25, 0.75 and 1.25 (the border).
        logits = torch.zeros(1, 2, 2, 2)
        logits[0, 0, 0] = torch.tensor([4.0, -4.0])
        geometry = Geometry.from_resize((1, 4), (1, 2))
        found = decode(self.head, {"logits": logits}, [geometry])[0]
        expected = torch.tensor([[4.0, 2.0, -2.0, -4.0]]).sigmoid()
        torch.testing.assert_close(found.probs[0], expected)
        assert found.labels.tolist() == [[0, 0, 1, 1]]

    def test_turns_a_mirrored_image_back(self) -> None:
        logits = torch.zeros(1, 2, 1, 3)
        logits[0, 1, 0, 0] = 1.0
        geometry = Geometry((1, 3), (1, 3), (1.0, -1.0), (0.0, 3.0))
        assert decode(self.head, {"logits": logits}, [geometry])[0].labels.tolist() == [[0, 0, 1]]

    def test_is_float32_from_low_precision_logits(self) -> None:
        logits = torch.randn(1, 2, 4, 4).bfloat16()
        found = decode(self.head, {"logits": logits}, [Geometry((4, 4), (4, 4))])[0]
        assert found.probs.dtype == torch.float32
        assert found.labels.dtype == torch.int64
        torch.testing.assert_close(found.probs.sum(dim=0), torch.ones(4, 4))


class TestOptions:
    @pytest.mark.parametrize("loss", ["iou", "dice+dice", "", "dice+"])
    def test_refuses_unknown_losses(self, loss: str) -> None:
        names = "cross_entropy, ohem_cross_entropy, focal, dice, tversky, lovasz, boundary"
        with pytest.raises(HeadError, match=f"one of {names}, or several"):
            UNet(SPECS, ["a"], {"loss": loss})

    def test_sums_are_stripped_and_keep_their_order(self) -> None:
        assert UNet.parse_options({"loss": "dice + focal"}).loss_terms == ("dice", "focal")

    def test_class_weights_by_name_leave_the_others_at_one(self) -> None:
        head = UNet(SPECS, ["a", "b", "c"], {"class_weights": {"b": 0.25}})
        assert head.class_weights.tolist() == [1.0, 0.25, 1.0]
        assert "class_weights" not in head.state_dict()

    def test_class_weights_in_order(self) -> None:
        head = UNet(SPECS, ["a", "b"], {"class_weights": [0.5, 2]})
        assert head.class_weights.tolist() == [0.5, 2.0]
        zeros = view_of(torch.zeros(2, 64, 96, dtype=torch.int64))
        assert head.loss(random_features(SPECS), zeros)["cross_entropy"].count == 0.5 * 2 * 64 * 96

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ({"d": 1.0}, "names 'd', but the classes are 'a', 'b'"),
            ([1.0], "has 1 value for 2 classes; give one per class in the order a, b"),
            ([1.0, -1.0], r"\[1.0, -1.0\]; every weight must be finite and at least 0"),
            ([0.0, 0.0], "one must be above 0"),
            ("balanced", "class_weights"),
        ],
    )
    def test_refuses_class_weights_that_do_not_fit(self, weights: object, message: str) -> None:
        with pytest.raises(HeadError, match=message):
            UNet(SPECS, ["a", "b"], {"class_weights": weights})

    def test_refuses_another_number_of_decoder_channels(self) -> None:
        with pytest.raises(HeadError, match="decoder_channels"):
            UNet(SPECS, ["a"], {"decoder_channels": [64, 32]})


def test_dropout_follows_the_seeds_and_spares_forward() -> None:
    head = UNet(SPECS, ["a", "b"], {"dropout": 0.5, "norm": "group"}).train()
    features, semantic = random_features(SPECS), torch.randint(0, 2, (2, 64, 96))
    view = view_of(semantic)
    losses = {
        seeds: head.loss(
            features,
            BatchView(view.targets, view.image_sizes, view.padded_size, view.image_ids, seeds),
        )["cross_entropy"].sum.item()
        for seeds in ((1, 2), (1, 3))
    }
    assert losses[1, 2] != losses[1, 3]
    trained = head(features)["logits"]
    torch.testing.assert_close(trained, head.eval()(features)["logits"])
    dry = UNet(SPECS, ["a", "b"], {"norm": "group"})
    dry.load_state_dict(head.state_dict())
    expected = dry.loss(features, view)["cross_entropy"].sum
    torch.testing.assert_close(head.loss(features, view)["cross_entropy"].sum, expected)
