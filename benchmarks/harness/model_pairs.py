"""Comparison of our model with a peer's that has the same weights: options, steps and report."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from benchmarks.harness.measurement import REPEATS, Clock, finish_report, make_option_parser
from benchmarks.harness.side_by_side import BenchmarkPair, Work, collect_environment, compare_pairs
from benchmarks.harness.time_by_part import format_parts, measure_parts
from resnet_tasks.errors import DataError
from resnet_tasks.runtime.devices import autocast, resolve_precision

TINY = {"size": [64, 96], "repeats": 1}


@dataclass(frozen=True)
class Goals:
    """Goals of a comparison.

    Attributes:
        same_precision: Precision -> minimum speedup.
        as_it_comes: Minimum speedup with each model's own defaults; None without a goal.
        memory: Maximum share of the peer's memory at the same precision; None if memory is not
            measured.
        memory_as_it_comes: Maximum share of the peer's memory with each model's own defaults; None
            if memory is not measured.
    """

    same_precision: Mapping[str, float]
    as_it_comes: float | None
    memory: float | None = None
    memory_as_it_comes: float | None = None


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """Two models with the same weights and work, in each precision and with the peer's defaults.

    Attributes:
        work: Description of the work with its size.
        peer: Name and version of the peer.
        ours: Our model, on its device.
        theirs: The peer's model, on its device.
        our_work: Function from a precision to a callable that does our work once.
        their_work: Function from a precision to a callable that does the peer's work once; called
            after the memory format of the filters is set.
        check: Function from a precision to a description of the difference between the results; it
            raises `DataError` if they differ too much.
        shared_parts: Parts that both have in common when the peer runs with its defaults.
        goals: Goals of the comparison.
        parts: Labels and modules of ours and of the peer's whose time is shown; None: not shown.
        repeats: Number of runs that the time of the parts is measured in.
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
    parts: tuple[Mapping[str, nn.Module], Mapping[str, nn.Module]] | None = None
    repeats: int = REPEATS

    def iterate_pairs(
        self, precisions: Sequence[str], device: torch.device
    ) -> Iterator[BenchmarkPair]:
        """Yield pairs in channels-last for each precision, then one with the peer's defaults.

        Each pair must be measured before the next one is requested, because the memory format of
        the models changes in between.

        Raises:
            DataError: If the results of the two models differ too much.
        """
        set_memory_format(self.ours, channels_last=True)
        set_memory_format(self.theirs, channels_last=True)
        # Checked before all steps. Steps change the statistics of norms, and random nets that are
        # normalized with such statistics amplify rounding, the peer's as well as ours.
        agreements = {precision: self.check(precision) for precision in precisions}
        for precision in precisions:
            works = self.our_work(precision), self.their_work(precision)
            yield BenchmarkPair(
                f"{self.work}, {precision}",
                "same precision",
                self.peer,
                *works,
                self.goals.same_precision.get(precision),
                self.goals.memory,
                agreements[precision],
                measure_parts=self._make_part_measurement(*works, device),
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

    def _make_part_measurement(
        self, ours: Work, theirs: Work, device: torch.device
    ) -> Callable[[Clock], tuple[str, dict[str, Any]]] | None:
        if self.parts is None:
            return None
        our_parts, peer_parts = self.parts

        def measure(clock: Clock) -> tuple[str, dict[str, Any]]:
            our_seconds, peer_seconds = measure_parts(
                ((ours, our_parts), (theirs, peer_parts)), device, self.repeats, clock
            )
            description = format_parts(our_seconds, peer_seconds)
            return description, {"ours": our_seconds, "theirs": peer_seconds}

        return measure


def make_image_parser(
    name: str, description: str | None, *, size: tuple[int, int], batch: int
) -> argparse.ArgumentParser:
    """Create a parser with the options of every model benchmark: image size, batch and repeats.

    Args:
        name: Name of the benchmark.
        description: Formatted help text.
        size: Default (height, width) of the images.
        batch: Default number of images.
    """
    parser = make_option_parser(name, description)
    parser.add_argument("--size", nargs=2, type=int, default=list(size), help="height, width")
    parser.add_argument("--batch", type=int, default=batch, help="images")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    return parser


def make_model_parser(
    name: str, description: str | None, *, size: tuple[int, int], batch: int
) -> argparse.ArgumentParser:
    """Create the parser of `make_image_parser` with options for precisions, device and clock."""
    parser = make_image_parser(name, description, size=size, batch=batch)
    precisions = ("fp32", "bf16", "fp16")
    parser.add_argument("--precisions", nargs="*", choices=precisions, default=["fp32", "bf16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--clock",
        choices=get_args(Clock),
        default="wall",
        help="cpu: CPU seconds of all threads, for a machine that runs other programs too",
    )
    return parser


def parse_options(
    parser: argparse.ArgumentParser, argv: Sequence[str], **tiny: object
) -> argparse.Namespace:
    """Parse a command line; with `--quick`, the values of `TINY` and `tiny` replace the options."""
    options = parser.parse_args(argv)
    if options.quick:
        vars(options).update({**TINY, **tiny})
    return options


def measure_pairs(
    pairs: Iterable[BenchmarkPair], options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Measure pairs; print, write and return the report.

    Args:
        pairs: Pairs of works, see `compare_pairs`.
        options: Parsed options of a parser of this module.
        device: Device of the models.
    """
    clock: Clock = getattr(
        options, "clock", "wall"
    )  # not an option of engines with threads of their own
    rows, runs = compare_pairs(pairs, device, options.repeats, clock)
    report = {
        **collect_environment(device),
        "size": options.size,
        "batch": options.batch,
        "clock": clock,
        "runs": runs,
    }
    return finish_report(report, rows, options)


def make_training_step(
    model: nn.Module, loss: Callable[[], Tensor], device: torch.device, precision: str
) -> Work:
    """Make a training step: loss, gradients and an optimizer step.

    The learning rate is 0, so that every step is the same.

    Args:
        model: Model whose parameters are trained, except frozen ones.
        loss: Function that runs the model and returns the loss.
        device: Device of the model.
        precision: Precision of the forward pass.
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
    """Make a forward pass without an autograd graph."""

    def run() -> object:
        with torch.inference_mode(), autocast(device, precision):
            return forward()

    return run


def require_same_trainable(ours: nn.Module, theirs: nn.Module) -> None:
    """Require that both models have the same number of trainable parameters.

    Raises:
        DataError: If the numbers differ.
    """
    num_ours, num_theirs = (
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        for model in (ours, theirs)
    )
    if num_ours != num_theirs:
        raise DataError(
            f"our model trains {num_ours:,} parameters, but the peer's trains {num_theirs:,}, so "
            "the two would not do the same work"
        )


def set_memory_format(model: nn.Module, *, channels_last: bool) -> None:
    """Convert a model's filters to channels-last, or back to the default format."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(memory_format=layout)


def get_memory_format(model: nn.Module) -> torch.memory_format:
    """Return the memory format that `set_memory_format` gave a model's filters."""
    filters = next(parameter for parameter in model.parameters() if parameter.ndim == 4)
    is_last = filters.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format
