"""A step's profile for people: the parts, the expensive operators, memory, and what to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from resnet_tasks.training.operators import Operator, fp32_islands
from resnet_tasks.training.step_profile import StepProfile

OPERATORS = 12
"""In the table."""
LEAST = 0.0005
"""Share below which a part is not worth a line."""


def say_profile(console: Console, found: StepProfile, sentences: Sequence[str]) -> None:
    """Tables and sentences on the console.

    Args:
        console: Is written to.
        found: What was measured.
        sentences: What to change.
    """
    for line in _heading(found):
        console.print(line, highlight=False, markup=False)
    console.print(parts_table(found))
    for line in (*_reading(found), *_memory(found)):
        console.print(line, highlight=False, markup=False)
    console.print(operators_table(found.operators[:OPERATORS], "Operators by time"))
    islands = fp32_islands(found.operators, found.conditions.precision)
    if islands:
        title = f"In fp32 although the precision is {found.conditions.precision}"
        console.print(operators_table(islands[:OPERATORS], title))
    console.print("What to change:" if sentences else "Nothing stands out that a key would change.")
    for each in sentences:
        console.print(f"- {each}", highlight=False, markup=False)


def parts_table(found: StepProfile) -> Table:
    """Every part with its milliseconds and its share; they sum to the step."""
    table = Table(title="Where the time of a step goes", title_justify="left")
    table.add_column("part")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for part in found.parts:
        if part.share >= LEAST:
            table.add_row(Text(part.name), f"{1000 * part.seconds:.1f}", f"{part.share:.1%}")
    small = [each for each in found.parts if each.share < LEAST]
    if small:
        share = sum(each.share for each in small)
        milliseconds = 1000 * sum(each.seconds for each in small)
        table.add_row(Text(f"{len(small)} smaller parts"), f"{milliseconds:.1f}", f"{share:.1%}")
    table.add_section()
    forward = [each.seconds for each in found.parts if each.name.startswith("forward")]
    share = found.share("forward")
    table.add_row("all of the forward", f"{1000 * sum(forward):.1f}", f"{share:.1%}")
    table.add_row("step (medians; shares are of all steps)", f"{1000 * found.probed_seconds:.1f}")
    return table


def operators_table(operators: Sequence[Operator], title: str) -> Table:
    """Operators with their type, part, calls, milliseconds and share."""
    table = Table(title=title, title_justify="left")
    table.add_column("operator", overflow="fold")
    table.add_column("type")
    table.add_column("part", overflow="fold")
    for name in ("calls", "ms", "share"):
        table.add_column(name, justify="right")
    for each in operators:
        numbers = (f"{each.calls:g}", f"{1000 * each.seconds:.1f}", f"{each.share:.1%}")
        table.add_row(Text(each.name), Text(each.dtype or "-"), Text(each.part), *numbers)
    return table


def _heading(found: StepProfile) -> Iterator[str]:
    about = found.conditions
    height, width = about.picture_size
    yield (
        f"{about.recipe}: {about.batch_size} pictures of {height} x {width} (height x width), "
        f"{about.accumulation} time(s) a step; {about.precision} on {about.device} "
        f"({about.machine}), {about.threads} of {about.cores} cores for torch, {about.workers} "
        f"loader process(es); {about.parameters / 1e6:.2f} M parameters, "
        f"{about.trained / 1e6:.2f} M of them trained"
    )
    if about.is_drawn:
        yield "pictures, annotations and weights are drawn at random: reading files is not measured"
    pictures = about.batch_size * about.accumulation / found.seconds
    yield (
        f"a step takes {1000 * found.seconds:.1f} ms ({pictures:.1f} pictures/s), "
        f"{1000 * found.probed_seconds:.1f} ms with the probes in it; medians of {about.steps}, "
        "taking turns"
    )


def _reading(found: StepProfile) -> Iterator[str]:
    cost = found.reading
    if cost is None:
        return
    parts = {
        "decoding": cost.decoding,
        "resize and annotations": cost.preparation,
        "augmentation": cost.augmentation,
    }
    told = ", ".join(f"{k} {1000 * v:.1f}" for k, v in parts.items() if v is not None)
    memory = (
        ""
        if cost.from_memory is None
        else f"; once it is in memory (data.cache) {1000 * cost.from_memory:.1f} ms"
    )
    yield (
        f"a picture takes one core {1000 * cost.whole:.1f} ms to read"
        f"{f' ({told})' if told else ''}{memory}; median of {cost.pictures}"
    )


def _memory(found: StepProfile) -> Iterator[str]:
    memory = found.memory
    text = (
        f"memory: {memory.process / 2**30:.2f} GiB of this process at its peak; the tensors of a "
        f"step take {memory.step / 2**30:.2f} GiB at most"
    )
    if memory.device is not None:
        text += (
            f"; {memory.device / 2**30:.2f} of {memory.total / 2**30:.0f} GiB of the GPU reserved"
        )
    yield text
