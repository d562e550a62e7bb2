"""Console report of a step profile: parts, expensive operators, memory and advice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from resnet_tasks.number_formats import Count, format_bytes
from resnet_tasks.profiling.operator_profile import OperatorStats, find_fp32_islands
from resnet_tasks.profiling.step_profile import StepProfile
from resnet_tasks.runtime.console import Console, Text

OPERATORS = 12
"""Maximum number of operators in a table."""
LEAST = 0.0005
"""Share of the step below which parts are merged into one row."""


def print_profile(console: Console, profile: StepProfile, sentences: Sequence[str]) -> None:
    """Print a profile and the advice on it.

    Args:
        console: Console to print to.
        profile: Profile of a training step.
        sentences: Advice, one sentence per change.
    """
    for line in _describe_setup(profile):
        console.print(line, highlight=False, markup=False)
    console.print(build_parts_table(profile))
    for line in (*_describe_reading(profile), *_describe_memory(profile)):
        console.print(line, highlight=False, markup=False)
    console.print(build_operators_table(profile.operators[:OPERATORS], "Operators by time"))
    islands = find_fp32_islands(profile.operators, profile.conditions.precision)
    if islands:
        title = f"In fp32 although the precision is {profile.conditions.precision}"
        console.print(build_operators_table(islands[:OPERATORS], title))
    console.print("Suggested changes:" if sentences else "No change to the recipe is suggested.")
    for sentence in sentences:
        console.print(f"- {sentence}", highlight=False, markup=False)


def build_parts_table(profile: StepProfile) -> Table:
    """Build the table of all parts with milliseconds and share; they sum to the step."""
    table = Table(title="Where the time of a step goes", title_justify="left")
    table.add_column("part")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for part in profile.parts:
        if part.share >= LEAST:
            table.add_row(Text(part.name), f"{1000 * part.seconds:.1f}", f"{part.share:.1%}")
    small = [step_part for step_part in profile.parts if step_part.share < LEAST]
    if small:
        share = sum(step_part.share for step_part in small)
        milliseconds = 1000 * sum(step_part.seconds for step_part in small)
        table.add_row(
            Text(f"{Count(len(small)):smaller part}"),
            f"{milliseconds:.1f}",
            f"{share:.1%}",
        )
    table.add_section()
    forward = [
        step_part.seconds for step_part in profile.parts if step_part.name.startswith("forward")
    ]
    share = profile.sum_shares("forward")
    table.add_row("entire forward pass", f"{1000 * sum(forward):.1f}", f"{share:.1%}")
    table.add_row("step (medians; shares are of all steps)", f"{1000 * profile.probed_seconds:.1f}")
    return table


def build_operators_table(operators: Sequence[OperatorStats], title: str) -> Table:
    """Build a table of operators with dtype, part, calls, milliseconds and share."""
    table = Table(title=title, title_justify="left")
    table.add_column("operator", overflow="fold")
    table.add_column("type")
    table.add_column("part", overflow="fold")
    for name in ("calls", "ms", "share"):
        table.add_column(name, justify="right")
    for operator in operators:
        numbers = (f"{operator.calls:g}", f"{1000 * operator.seconds:.1f}", f"{operator.share:.1%}")
        table.add_row(
            Text(operator.name), Text(operator.dtype or "-"), Text(operator.part), *numbers
        )
    return table


def _describe_setup(profile: StepProfile) -> Iterator[str]:
    conditions = profile.conditions
    height, width = conditions.image_size
    yield (
        f"{conditions.recipe}: {Count(conditions.batch_size):image} of {height} x {width} (height "
        f"x width), {Count(conditions.accumulation):batch} per step; {conditions.precision} on "
        f"{conditions.device} ({conditions.machine}), {conditions.threads} of {conditions.cores} "
        f"cores for torch, {Count(conditions.workers):loader process}; "
        f"{conditions.parameters / 1e6:.2f} M parameters, {conditions.trained / 1e6:.2f} M of "
        "them trained"
    )
    if conditions.is_drawn:
        yield "images, annotations and weights are random; the time to read files is not measured"
    images = conditions.batch_size * conditions.accumulation / profile.seconds
    yield (
        f"a step takes {1000 * profile.seconds:.1f} ms ({images:.1f} images/s), "
        f"{1000 * profile.probed_seconds:.1f} ms with the probes; medians of {conditions.steps} "
        "steps each, interleaved"
    )


def _describe_reading(profile: StepProfile) -> Iterator[str]:
    cost = profile.reading
    if cost is None:
        return
    parts = {
        "decoding": cost.decoding,
        "resize and annotations": cost.preparation,
        "augmentation": cost.augmentation,
    }
    breakdown = ", ".join(f"{k} {1000 * v:.1f}" for k, v in parts.items() if v is not None)
    memory = (
        ""
        if cost.from_memory is None
        else f"; once it is in memory (data.cache) {1000 * cost.from_memory:.1f} ms"
    )
    yield (
        f"an image takes one core {1000 * cost.whole:.1f} ms to read"
        f"{f' ({breakdown})' if breakdown else ''}{memory}; median of {cost.images} images"
    )


def _describe_memory(profile: StepProfile) -> Iterator[str]:
    memory = profile.memory
    text = (
        f"memory: {format_bytes(memory.process, binary=True)} for this process at its peak; the "
        f"tensors of a step take {format_bytes(memory.step, binary=True)} at most"
    )
    if memory.device is not None:
        text += (
            f"; {format_bytes(memory.device, binary=True)} of "
            f"{format_bytes(memory.total, binary=True)} of the GPU reserved"
        )
    yield text
