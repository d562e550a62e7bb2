"""What to change so that a training step is faster or fits, each for a measured reason."""

from __future__ import annotations

import math
from collections.abc import Callable

from resnet_tasks.recipe.schema import Recipe
from resnet_tasks.training.operators import fp32_islands
from resnet_tasks.training.reading_cost import ReadingCost
from resnet_tasks.training.step_profile import StepProfile
from resnet_tasks.training.timeline import AVERAGING, COUNTING, DATA, OPTIMIZER

WAITING = 0.10
"""Share of the step from which on waiting for data is worth a change."""
EARLY_STAGES = 0.25
"""Share of the forward from which on freezing the stem and C2 is worth a word."""
NORMS = 0.10
"""Share of the operators' time from which on batch norms are."""
UPDATE = 0.15
"""Share of the step from which on optimizer and averaged weights are."""
SECOND_STAGE = 0.30
"""Share of the forward from which on the second stage of a detector is."""
PROPOSALS = 0.20
"""Share of the forward from which on the choice of proposals is."""
ISLANDS = 0.05
"""Share of the operators' time from which on fp32 in mixed precision is."""
FULL, EMPTY = 0.90, 0.40
"""Shares of a GPU's memory."""
FORWARD = "forward"


def advice(found: StepProfile, recipe: Recipe) -> list[str]:
    """Sentences, each with what was measured and the key to set; none where nothing stands out.

    Args:
        found: What was measured.
        recipe: Of what.
    """
    rules: tuple[Callable[[StepProfile, Recipe], str], ...] = (
        _waiting,
        _large_files,
        _precision,
        _islands,
        _early_stages,
        _norms,
        _second_stage,
        _proposals,
        _counting,
        _update,
        _checkpointing,
        _full_memory,
        _empty_memory,
        _idle_cores,
    )
    return [sentence for rule in rules if (sentence := rule(found, recipe))]


def _waiting(found: StepProfile, _: Recipe) -> str:
    share, reading, conditions = found.share(DATA), found.reading, found.conditions
    if share < WAITING or reading is None:
        return ""
    told = f"waiting for data takes {share:.0%} of the step"
    pictures = conditions.batch_size * conditions.accumulation
    working = found.probed_seconds * (1 - share)
    if conditions.workers == 0 and reading.from_memory is not None:
        later = reading.from_memory * pictures
        if later / (later + working) < WAITING:
            return (
                f"{told}, but only until each picture was read once: then they come from memory "
                f"(data.cache) and take about {later / (later + working):.0%}; nothing needs to "
                "change"
            )
    spare = conditions.cores - 1
    wanted = math.ceil(1.2 * reading.whole * pictures / max(working, 1e-9))
    if conditions.workers < min(wanted, spare):
        beside = (
            f" (on a CPU with OMP_NUM_THREADS={max(1, conditions.cores - min(wanted, spare))}, so "
            "that training leaves them a core)"
            if conditions.device == "cpu"
            else ""
        )
        return f"{told}: set data.workers={min(wanted, spare)} (now {conditions.workers}){beside}"
    parts = _costly(reading)
    return f"{told}, and more loader processes than cores would not help: {parts}"


def _costly(reading: ReadingCost) -> str:
    """What makes a picture expensive, and what could be done about it."""
    if reading.decoding is not None and reading.decoding > 0.5 * reading.whole:
        return (
            f"{reading.decoding / reading.whole:.0%} of it is decoding; store smaller pictures, or "
            "set data.cache=true with data.workers=0 if the memory holds them"
        )
    if reading.augmentation is not None and reading.augmentation > 0.5 * reading.whole:
        return (
            f"{reading.augmentation / reading.whole:.0%} of it is augmentation; take expensive "
            "steps out of augment"
        )
    return (
        f"a picture takes {1000 * reading.whole:.1f} ms of a core; make data.resize smaller, or "
        "set data.cache=true with data.workers=0 if the memory holds them"
    )


def _large_files(found: StepProfile, recipe: Recipe) -> str:
    reading, box = found.reading, recipe.data.resize
    if reading is None or box is None or reading.stored_size is None or reading.decoding is None:
        return ""
    height, width = reading.stored_size
    is_needed = height * width < 4 * box.height * box.width
    if is_needed or reading.decoding < 0.5 * reading.whole or found.share(DATA) < WAITING:
        return ""
    return (
        f"pictures are stored at {width} x {height} and shrunk to {box.width} x {box.height} (width"
        f" x height) each time; decoding is {reading.decoding / reading.whole:.0%} of reading them:"
        " store them smaller"
    )


def _precision(found: StepProfile, _: Recipe) -> str:
    conditions = found.conditions
    if conditions.precision != "fp32" or conditions.best_precision == "fp32":
        return ""
    return (
        f"the precision is fp32, but this machine computes in {conditions.best_precision}: set "
        f"training.precision={conditions.best_precision} (and compare the metric once)"
    )


def _islands(found: StepProfile, _: Recipe) -> str:
    islands = fp32_islands(found.operators, found.conditions.precision)
    total = sum(each.share for each in islands)
    if total < ISLANDS:
        return ""
    named = ", ".join(f"{each.name} ({each.part}, {each.share:.0%})" for each in islands[:3])
    return (
        f"{total:.0%} of the operators' time is spent in fp32 although training.precision is "
        f"{found.conditions.precision}: {named}; in a head of your own take `.float()` out of "
        "what needs no full precision, losses do need it"
    )


def _early_stages(found: StepProfile, recipe: Recipe) -> str:
    forward = found.share(FORWARD)
    early = found.share("forward: backbone stem", "forward: backbone C2")
    is_pretrained = recipe.backbone.weights != "none" or recipe.model_weights is not None
    frozen = recipe.backbone.frozen_stages
    if frozen >= 2 or not is_pretrained or early < EARLY_STAGES * forward:
        return ""
    saved = found.share("backward") * early / forward
    return (
        f"the stem and C2 take {early / forward:.0%} of the forward: with "
        f"backbone.frozen_stages=2 (now {frozen}) their backward goes, about {saved:.0%} of the "
        "step, and the memory of their activations (compare the metric)"
    )


def _norms(found: StepProfile, recipe: Recipe) -> str:
    share = sum(each.share for each in found.operators if "batch_norm" in each.name)
    is_pretrained = recipe.backbone.weights != "none" or recipe.model_weights is not None
    if share < NORMS or recipe.backbone.norm == "frozen" or not is_pretrained:
        return ""
    return (
        f"batch norms take {share:.0%} of the operators' time: backbone.norm=frozen keeps the "
        "statistics of the weights, which takes less and suits small batches"
    )


def _of_type(found: StepProfile, recipe: Recipe, kind: str, suffix: str) -> dict[str, float]:
    """Heads of a type -> the share of the forward that a part of theirs takes."""
    forward = found.share(FORWARD) or 1.0
    return {
        name: found.share(f"forward: {name} {suffix}") / forward
        for name, head in recipe.heads.items()
        if head.type == kind
    }


def _second_stage(found: StepProfile, recipe: Recipe) -> str:
    for name, share in _of_type(found, recipe, "faster_rcnn", "roi_heads").items():
        size = recipe.heads[name].options.get("roi_batch_size", 512)
        if share >= SECOND_STAGE and size > 128:
            return (
                f"the second stage takes {share:.0%} of the forward: set "
                f"heads.{name}.options.roi_batch_size={size // 2} (now {size} proposals per "
                "picture)"
            )
    return ""


def _proposals(found: StepProfile, recipe: Recipe) -> str:
    for name, share in _of_type(found, recipe, "faster_rcnn", "rpn.proposals").items():
        before = recipe.heads[name].options.get("rpn_pre_nms", (2000, 1000))
        if share >= PROPOSALS and before[0] > 500:
            return (
                f"choosing proposals takes {share:.0%} of the forward: set "
                f"heads.{name}.options.rpn_pre_nms=[{before[0] // 2},{before[1]}] (now "
                f"{list(before)})"
            )
    return ""


def _counting(found: StepProfile, _: Recipe) -> str:
    share, conditions = found.share(COUNTING), found.conditions
    if share == 0:
        return ""
    whole = conditions.batch_size * conditions.accumulation
    return (
        f"training.accumulation={conditions.accumulation} needs a forward of its own that counts, "
        f"{share:.0%} of the step: if memory allows, set training.batch_size={whole} "
        "training.accumulation=1"
    )


def _update(found: StepProfile, _: Recipe) -> str:
    share = found.share(OPTIMIZER, AVERAGING)
    if share < UPDATE:
        return ""
    batch = found.conditions.batch_size
    averaging = found.share(AVERAGING)
    other = f"; training.ema=0 saves {averaging:.0%}" if averaging >= UPDATE / 2 else ""
    return (
        f"optimizer and averaged weights take {share:.0%} of the step, whatever the batch: set "
        f"training.batch_size={2 * batch} (now {batch}) if memory allows{other}"
    )


def _checkpointing(found: StepProfile, recipe: Recipe) -> str:
    held = found.memory.process if found.memory.device is None else found.memory.device
    if not recipe.backbone.gradient_checkpointing or held + found.memory.step > found.memory.total:
        return ""
    if held > EMPTY * found.memory.total:
        return ""
    return (
        f"backbone.gradient_checkpointing takes a second forward of the stages, but only "
        f"{held / found.memory.total:.0%} of the memory is used: set it to false"
    )


def _full_memory(found: StepProfile, _: Recipe) -> str:
    memory, batch = found.memory, found.conditions.batch_size
    held = memory.process if memory.device is None else memory.device
    if held < FULL * memory.total:
        return ""
    halved = max(1, batch // 2)
    return (
        f"{held / memory.total:.0%} of the memory was used at the peak: lower "
        f"training.batch_size (to {halved}, with training.accumulation="
        f"{2 * found.conditions.accumulation}), data.resize, or set "
        "backbone.gradient_checkpointing=true"
    )


def _empty_memory(found: StepProfile, _: Recipe) -> str:
    memory, batch = found.memory, found.conditions.batch_size
    if memory.device is None or memory.device > EMPTY * memory.total:
        return ""
    return (
        f"only {memory.device / memory.total:.0%} of the GPU's memory is used: a larger "
        f"training.batch_size (now {batch}; mind the learning rate) may use it better"
    )


def _idle_cores(found: StepProfile, _: Recipe) -> str:
    conditions = found.conditions
    if conditions.device != "cpu" or conditions.threads + conditions.workers >= conditions.cores:
        return ""
    return (
        f"torch uses {conditions.threads} of {conditions.cores} cores: start with "
        f"OMP_NUM_THREADS={conditions.cores - conditions.workers}"
    )
