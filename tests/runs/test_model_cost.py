"""What models cost: work and memory by hand, times in turns, and the price of sharing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import RunError
from resnet_tasks.heads.semantic.fpn import SemanticFPN
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.model import TaskModel
from resnet_tasks.runs.model_cost import measure_costs, measure_peak_bytes, time_interleaved_median

CPU = torch.device("cpu")


def test_peak_memory_of_known_tensors() -> None:
    def work() -> None:
        first = torch.ones(1000)  # 4 kB
        second = first + 1
        del first
        third = torch.ones(500)
        view = second[:10]
        second.add_(1)
        del second, third, view
        torch.ones(100)

    assert 8000 <= measure_peak_bytes(work, CPU) < 8100  # and the number 1


def test_what_operators_take_for_themselves_counts() -> None:
    values = torch.rand(100_000)
    # Values and places of the sorted copy, and at least one buffer.
    assert measure_peak_bytes(values.sort, CPU) >= 100_000 * (4 + 8)
    # Sums of bags: the gradient of a table sorts the places that were read.
    table, places = nn.Parameter(torch.rand(10, 2)), torch.randint(0, 10, (5000, 4))
    pooled = nn.functional.embedding_bag(places, table, mode="sum")
    assert measure_peak_bytes(lambda: pooled.sum().backward(), CPU) >= 5000 * 4 * 8


def test_gradients_and_kept_activations_count() -> None:
    weight = nn.Parameter(torch.ones(1000))
    # The result of exp is kept, and its gradient made.
    assert measure_peak_bytes(lambda: (weight * 2).exp().sum().backward(), CPU) >= 8000
    assert weight.grad is not None


def test_works_take_turns() -> None:
    order: list[str] = []
    taken = time_interleaved_median(
        [lambda: order.append("a"), lambda: order.append("b")], CPU, repeats=7
    )
    assert "".join(order) == "ab" * 9  # two rounds to warm up
    assert len(taken) == 2
    assert all(each >= 0 for each in taken)


def model(*heads: str) -> TaskModel:
    torch.manual_seed(0)
    backbone = ResNet("resnet10t")
    kinds: dict[str, Callable[[], nn.Module]] = {
        "pixels": lambda: UNet(
            backbone.specs, ("a", "b"), {"decoder_channels": (16, 16, 16, 16, 16)}
        ),
        "stuff": lambda: SemanticFPN(
            backbone.specs, ("a", "b"), {"pyramid_channels": 32, "segmentation_channels": 64}
        ),
    }
    return TaskModel(backbone, {name: kinds[name]() for name in heads})  # type: ignore[misc]


def test_sharing_saves_exactly_one_backbone() -> None:
    torch.set_num_threads(1)
    models = {"both": model("pixels", "stuff"), "one": model("pixels"), "two": model("stuff")}
    models["one"].train()
    prices = measure_costs(models, (64, 96), repeats=1).by_model
    both, one, two = prices.values()
    assert list(prices) == ["both", "one", "two"]
    backbone = sum(p.numel() for p in models["one"].backbone.parameters())  # type: ignore[operator]
    assert both.parameters == one.parameters + two.parameters - backbone
    assert both.multiply_adds < one.multiply_adds + two.multiply_adds
    assert one.memory < both.memory < one.memory + two.memory
    assert all(each.seconds > 0 for each in prices.values())
    assert models["one"].training
    assert not models["two"].compute_head_losses({})


def test_work_is_multiplications_with_their_additions() -> None:
    """Three models of one convolution would be 2 FLOPs each in torch's count."""

    class Plain(nn.Module):
        specs = ResNet("resnet10t").specs
        mean = (0.5, 0.5, 0.5)
        std = (0.5, 0.5, 0.5)

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"C1": self.stem(images)}

    class Nothing(UNet):
        def __init__(self) -> None:
            super().__init__(Plain.specs, ("a",), {"decoder_channels": (1, 1, 1, 1, 1)})

        def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:  # type: ignore[override]
            return {"out": features["C1"]}

    made = TaskModel(Plain(), {"a": Nothing()})
    price = measure_costs({"plain": made}, (32, 64), repeats=1).by_model["plain"]
    assert price.multiply_adds == 16 * 32 * 4 * 3 * 9


def test_sizes_are_multiples_of_32() -> None:
    with pytest.raises(RunError, match=r"50 x 64 .* multiples of 32"):
        measure_costs({"a": model("pixels")}, (50, 64))
