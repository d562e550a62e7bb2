"""A model of ours and a peer's with the same weights at one work: options, steps, pairs, report."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness.measurement import REPEATS, finish_report, make_option_parser
from benchmarks.harness.side_by_side import BenchmarkPair, Work, collect_environment, compare_pairs
from resnet_tasks.errors import DataError
from resnet_tasks.runtime.devices import autocast, resolve_precision

TINY = {"size": [64, 96], "repeats": 1}


@dataclass(frozen=True)
class Goals:
    """What a contest should show.

    Attributes:
        same_precision: Precision -> times faster, at least.
        as_it_comes: Times faster, at least.
        memory: At the same precision: share of the peer's, at most; None: memory is not measured.
        memory_as_it_comes: Likewise.
    """

    same_precision: Mapping[str, float]
    as_it_comes: float
    memory: float | None = None
    memory_as_it_comes: float | None = None


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """One work of two models with the same weights, in every precision and as the peer comes.

    Attributes:
        work: What is done, at which size.
        peer: Name and version.
        ours: The model, on its device.
        theirs: Likewise.
        our_work: Precision -> does it once.
        their_work: Likewise, asked for when the layout of the filters is settled.
        check: Precision -> how near the results are; raises `DataError` if they are not.
        shared_parts: What is the same in both where the peer comes as it is built.
        goals: What it should show.
    """

    work: str
    peer: str
    ours: nn.Module
    theirs: nn.Module
    our_work: Callable[[str], Work]
    their_work: Callable[[str], Work]
    check: Callable[[str], str]
    shared_parts: str
    goals: Goals

    def iterate_pairs(
        self, precisions: Sequence[str], device: torch.device
    ) -> Iterator[BenchmarkPair]:
        """Both channels-last in one precision after the other; then the peer as it is built.

        Each is to be measured before the next is asked for.

        Raises:
            DataError: If the two do not agree.
        """
        set_memory_format(self.ours, channels_last=True)
        set_memory_format(self.theirs, channels_last=True)
        # Before all steps: they move the statistics of norms, and nets of random weights that are
        # normalized by such statistics blow every rounding up, the peer's as well as ours.
        agreements = {precision: self.check(precision) for precision in precisions}
        for precision in precisions:
            yield BenchmarkPair(
                f"{self.work}, {precision}",
                "same precision",
                self.peer,
                self.our_work(precision),
                self.their_work(precision),
                self.goals.same_precision.get(precision),
                self.goals.memory,
                agreements[precision],
            )
        set_memory_format(self.theirs, channels_last=False)
        auto = resolve_precision("auto", device)
        yield BenchmarkPair(
            f"{self.work}, ours {auto}, the peer fp32",
            "as it comes",
            self.peer,
            self.our_work(auto),
            self.their_work("fp32"),
            self.goals.as_it_comes,
            self.goals.memory_as_it_comes,
            f"{self.shared_parts} alike",
        )


def make_image_parser(
    name: str, description: str | None, *, size: tuple[int, int], batch: int
) -> argparse.ArgumentParser:
    """The options of every measurement of models: what they see, and how often.

    Args:
        name: Of the measurement.
        description: What its help says.
        size: (height, width) of the images.
        batch: How many.
    """
    parser = make_option_parser(name, description)
    parser.add_argument("--size", nargs=2, type=int, default=list(size), help="height, width")
    parser.add_argument("--batch", type=int, default=batch, help="images")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    return parser


def make_model_parser(
    name: str, description: str | None, *, size: tuple[int, int], batch: int
) -> argparse.ArgumentParser:
    """Those of `image_parser`, and the precisions and the device that models are measured in."""
    parser = make_image_parser(name, description, size=size, batch=batch)
    precisions = ("fp32", "bf16", "fp16")
    parser.add_argument("--precisions", nargs="*", choices=precisions, default=["fp32", "bf16"])
    parser.add_argument("--device", default="auto")
    return parser


def parse_options(
    parser: argparse.ArgumentParser, argv: Sequence[str], **tiny: object
) -> argparse.Namespace:
    """The options of a command line; with `--quick` those of `TINY` and `tiny` in their place."""
    options = parser.parse_args(argv)
    if options.quick:
        vars(options).update({**TINY, **tiny})
    return options


def measure_pairs(
    pairs: Iterable[BenchmarkPair], options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Measures pairs; prints, writes and returns the report.

    Args:
        pairs: Of models, see `compare`.
        options: Of a parser of this module.
        device: Where they work.
    """
    rows, runs = compare_pairs(pairs, device, options.repeats)
    report = {
        **collect_environment(device),
        "size": options.size,
        "batch": options.batch,
        "runs": runs,
    }
    return finish_report(report, rows, options)


def make_training_step(
    model: nn.Module, loss: Callable[[], Tensor], device: torch.device, precision: str
) -> Work:
    """Loss, gradients and an optimizer step of rate 0, so that every step is the same.

    Args:
        model: Whose parameters learn, but for frozen ones.
        loss: Runs the model.
        device: Where it is.
        precision: Of the forward.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.0, momentum=0.9)

    def step() -> None:
        with autocast(device, precision):
            total = loss()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_inference(forward: Work, device: torch.device, precision: str) -> Work:
    """A forward without a graph."""

    def run() -> object:
        with torch.inference_mode(), autocast(device, precision):
            return forward()

    return run


def require_same_trainable(ours: nn.Module, theirs: nn.Module) -> None:
    """Makes sure that as many parameters learn in both.

    Raises:
        DataError: If not.
    """
    num_ours, num_theirs = (
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        for model in (ours, theirs)
    )
    if num_ours != num_theirs:
        raise DataError(
            f"{num_ours:,} parameters of ours learn, {num_theirs:,} of the peer's, so that the two "
            "would "
            "not do the same work"
        )


def set_memory_format(model: nn.Module, *, channels_last: bool) -> None:
    """Brings a model's filters to channels-last, or back to how models are built."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(memory_format=layout)


def get_memory_format(model: nn.Module) -> torch.memory_format:
    """The layout that `settle` brought a model's filters to."""
    filters = next(parameter for parameter in model.parameters() if parameter.ndim == 4)
    is_last = filters.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format
