"""What contests of two models share: pairs and layouts, steps that change nothing, options."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.harness.model_pairs import (
    Goals,
    ModelComparison,
    get_memory_format,
    make_inference,
    make_model_parser,
    make_training_step,
    parse_options,
    require_same_trainable,
    set_memory_format,
)
from resnet_tasks.errors import DataError
from resnet_tasks.runtime.devices import resolve_precision

CPU = torch.device("cpu")
GOALS = Goals({"fp32": 1.2, "bf16": 1.5}, 2.8, 0.85, 0.6)


def _nets() -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)


def test_each_precision_in_one_layout_then_the_peer_as_it_comes() -> None:
    ours, theirs = _nets()
    told: list[str] = []

    def their_work(precision: str) -> object:
        told.append(f"{precision} {get_memory_format(theirs)}")
        return lambda: None

    contest = ModelComparison(
        work="step",
        peer="peer 1.0",
        ours=ours,
        theirs=theirs,
        our_work=lambda _: lambda: None,
        their_work=their_work,  # type: ignore[arg-type]
        check=lambda precision: f"checked in {precision}",
        shared_parts="layers",
        goals=GOALS,
    )
    pairs = list(contest.iterate_pairs(["fp32", "bf16"], CPU))
    auto = resolve_precision("auto", CPU)
    assert [each.work for each in pairs] == [
        "step, fp32",
        "step, bf16",
        f"step, ours {auto}, the peer fp32",
    ]
    assert [each.kind for each in pairs] == ["same precision", "same precision", "as it comes"]
    assert [each.agreement for each in pairs] == [
        "checked in fp32",
        "checked in bf16",
        "layers alike",
    ]
    assert [(each.goal, each.memory_goal) for each in pairs] == [
        (1.2, 0.85),
        (1.5, 0.85),
        (2.8, 0.6),
    ]
    assert told == [
        "fp32 torch.channels_last",
        "bf16 torch.channels_last",
        "fp32 torch.contiguous_format",
    ]
    assert get_memory_format(ours) == torch.channels_last


def test_a_pair_that_does_not_agree_is_not_measured() -> None:
    ours, theirs = _nets()

    def refuse(_: str) -> str:
        raise DataError("apart")

    contest = ModelComparison(
        work="step",
        peer="peer",
        ours=ours,
        theirs=theirs,
        our_work=lambda _: lambda: None,
        their_work=lambda _: lambda: None,
        check=refuse,
        shared_parts="",
        goals=GOALS,
    )
    with pytest.raises(DataError, match="apart"):
        next(contest.iterate_pairs(["fp32"], CPU))


def test_layouts_go_both_ways() -> None:
    net, _ = _nets()
    for is_last, layout in ((True, torch.channels_last), (False, torch.contiguous_format)):
        set_memory_format(net, channels_last=is_last)
        assert get_memory_format(net) == layout


def test_steps_learn_at_rate_0_in_their_precision() -> None:
    net = nn.Linear(2, 1)
    net.bias.requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    seen: list[torch.dtype] = []

    def loss() -> Tensor:
        made: Tensor = net(torch.ones(1, 2)).sum()
        made.register_hook(lambda _: seen.append(made.dtype))
        return made

    for precision in ("fp32", "bf16"):
        make_training_step(net, loss, CPU, precision)()
    assert seen == [torch.float32, torch.bfloat16]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.weight.grad is None


def test_inference_makes_no_graph() -> None:
    net = nn.Linear(2, 1)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        made = make_inference(lambda: net(torch.ones(1, 2)), CPU, precision)()
        assert isinstance(made, Tensor)
        assert (made.requires_grad, made.dtype) == (False, dtype)


def test_as_many_parameters_must_learn() -> None:
    ours, theirs = _nets()
    require_same_trainable(ours, theirs)
    ours.bias.requires_grad_(False)  # type: ignore[union-attr]
    with pytest.raises(
        DataError, match=r"our model trains 108 parameters, but the peer's trains 112"
    ):
        require_same_trainable(ours, theirs)


def test_quick_is_tiny_whatever_else_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    def options(*words: str) -> tuple[object, ...]:
        parser = make_model_parser("x", "about", size=(480, 640), batch=4)
        found = parse_options(parser, words, batch=2)
        return found.size, found.batch, found.repeats, found.precisions

    assert options() == ([480, 640], 4, 7, ["fp32", "bf16"])
    assert options("--size", "96", "128", "--precisions", "bf16") == ([96, 128], 4, 7, ["bf16"])
    assert options("--size", "96", "128", "--quick") == ([64, 96], 2, 1, ["fp32", "bf16"])
    with pytest.raises(SystemExit):
        options("--precisions", "fp23")
    assert "invalid choice: 'fp23'" in capsys.readouterr().err
