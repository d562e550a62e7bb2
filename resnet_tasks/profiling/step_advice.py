"""Advice on recipe keys that make a training step faster or smaller, based on measurements."""

from __future__ import annotations

import math
from collections.abc import Callable

from resnet_tasks.profiling.data_loading_cost import ReadingCost
from resnet_tasks.profiling.operator_profile import find_fp32_islands
from resnet_tasks.profiling.step_profile import StepProfile
from resnet_tasks.profiling.timeline import AVERAGING, COUNTING, DATA, OPTIMIZER
from resnet_tasks.recipe.schema.recipe import Recipe

WAITING = 0.10
"""Minimum share of the step spent on waiting for data for advice on it."""
EARLY_STAGES = 0.25
"""Minimum share of the forward pass in the stem and C2 for the advice to freeze them."""
NORMS = 0.10
"""Minimum share of the operator time in batch norms for the advice to freeze them."""
UPDATE = 0.15
"""Minimum share of the step in the optimizer and averaged weights for advice on them."""
SECOND_STAGE = 0.30
"""Minimum share of the forward pass in the second stage of a detector for advice on it."""
PROPOSALS = 0.20
"""Minimum share of the forward pass spent on selecting proposals for advice on it."""
ISLANDS = 0.05
"""Minimum share of the operator time in fp32 under mixed precision for advice on it."""
FULL, EMPTY = 0.90, 0.40
"""Shares of the memory above which it counts as full, and below which as mostly unused."""
FORWARD = "forward"


def suggest_changes(profile: StepProfile, recipe: Recipe) -> list[str]:
    """Suggest changes to a recipe.

    Args:
        profile: Profile of a training step of the recipe.
        recipe: Recipe that was measured.

    Returns:
        Sentences with the measurement and the key to set; empty if nothing stands out.
    """
    rules: tuple[Callable[[StepProfile, Recipe], str], ...] = (
        _check_data_waiting,
        _check_large_files,
        _check_precision,
        _check_fp32_islands,
        _check_early_stages,
        _check_norms,
        _check_second_stage,
        _check_proposals,
        _check_count_pass,
        _check_optimizer_update,
        _check_gradient_checkpointing,
        _check_full_memory,
        _check_empty_memory,
        _check_idle_cores,
    )
    return [sentence for rule in rules if (sentence := rule(profile, recipe))]


def _check_data_waiting(profile: StepProfile, _: Recipe) -> str:
    share, reading, conditions = profile.sum_shares(DATA), profile.reading, profile.conditions
    if share < WAITING or reading is None:
        return ""
    finding = f"waiting for data takes {share:.0%} of the step"
    images = conditions.batch_size * conditions.accumulation
    working = profile.probed_seconds * (1 - share)  # seconds of a step without the wait
    if conditions.workers == 0 and reading.from_memory is not None:
        later = reading.from_memory * images
        if later / (later + working) < WAITING:
            return (
                f"{finding}, but only until each image has been read once: after that, images come "
                f"from memory (data.cache) and take about {later / (later + working):.0%}; nothing "
                "needs to change"
            )
    spare = conditions.cores - 1
    # Workers must produce a step's images while the step computes; 1.2 is a safety margin.
    needed_workers = math.ceil(1.2 * reading.whole * images / max(working, 1e-9))
    if conditions.workers < min(needed_workers, spare):
        cpu_hint = (
            " (on a CPU with "
            f"OMP_NUM_THREADS={max(1, conditions.cores - min(needed_workers, spare))}, which "
            "leaves cores for the workers)"
            if conditions.device == "cpu"
            else ""
        )
        advised = min(needed_workers, spare)
        return f"{finding}: set data.workers={advised} (now {conditions.workers}){cpu_hint}"
    parts = _explain_reading_cost(reading)
    return f"{finding}, and more loader processes than cores would not help: {parts}"


def _explain_reading_cost(reading: ReadingCost) -> str:
    """Return the main cost of reading an image, with a remedy."""
    if reading.decoding is not None and reading.decoding > 0.5 * reading.whole:
        return (
            f"{reading.decoding / reading.whole:.0%} of it is decoding; store smaller images, or "
            "set data.cache=true with data.workers=0 if the images fit in memory"
        )
    if reading.augmentation is not None and reading.augmentation > 0.5 * reading.whole:
        return (
            f"{reading.augmentation / reading.whole:.0%} of it is augmentation; remove "
            "expensive steps from augment"
        )
    return (
        f"an image takes {1000 * reading.whole:.1f} ms of a core; make data.resize smaller, or "
        "set data.cache=true with data.workers=0 if the images fit in memory"
    )


def _check_large_files(profile: StepProfile, recipe: Recipe) -> str:
    reading, box = profile.reading, recipe.data.resize
    if reading is None or box is None or reading.stored_size is None or reading.decoding is None:
        return ""
    height, width = reading.stored_size
    # Up to twice the resize box per side, the stored resolution is not wasteful.
    is_needed = height * width < 4 * box.height * box.width
    if is_needed or reading.decoding < 0.5 * reading.whole or profile.sum_shares(DATA) < WAITING:
        return ""
    return (
        f"images are stored at {width} x {height} and reduced to {box.width} x {box.height} (width"
        f" x height) each time; decoding takes {reading.decoding / reading.whole:.0%} of the time "
        "to read an image: store smaller images"
    )


def _check_precision(profile: StepProfile, _: Recipe) -> str:
    conditions = profile.conditions
    if conditions.precision != "fp32" or conditions.best_precision == "fp32":
        return ""
    return (
        f"the precision is fp32, but this machine supports {conditions.best_precision}: set "
        f"training.precision={conditions.best_precision} (and compare the metrics once)"
    )


def _check_fp32_islands(profile: StepProfile, _: Recipe) -> str:
    islands = find_fp32_islands(profile.operators, profile.conditions.precision)
    total = sum(operator.share for operator in islands)
    if total < ISLANDS:
        return ""
    examples = ", ".join(
        f"{operator.name} ({operator.part}, {operator.share:.0%})" for operator in islands[:3]
    )
    return (
        f"{total:.0%} of the operators' time is spent in fp32 although training.precision is "
        f"{profile.conditions.precision}: {examples}; in your own head, remove `.float()` "
        "where full precision is not needed (losses need full precision)"
    )


def _check_early_stages(profile: StepProfile, recipe: Recipe) -> str:
    forward = profile.sum_shares(FORWARD)
    early = profile.sum_shares("forward: backbone stem", "forward: backbone C2")
    is_pretrained = recipe.backbone.weights != "none" or recipe.model_weights is not None
    frozen = recipe.backbone.frozen_stages
    if frozen >= 2 or not is_pretrained or early < EARLY_STAGES * forward:
        return ""
    saved = profile.sum_shares("backward") * early / forward
    return (
        f"the stem and C2 take {early / forward:.0%} of the forward pass: with "
        f"backbone.frozen_stages=2 (now {frozen}) their backward pass is not needed, which saves "
        f"about {saved:.0%} of the step, and the memory of their activations (compare the metrics)"
    )


def _check_norms(profile: StepProfile, recipe: Recipe) -> str:
    share = sum(operator.share for operator in profile.operators if "batch_norm" in operator.name)
    is_pretrained = recipe.backbone.weights != "none" or recipe.model_weights is not None
    if share < NORMS or recipe.backbone.norm == "frozen" or not is_pretrained:
        return ""
    return (
        f"batch norms take {share:.0%} of the operators' time: backbone.norm=frozen keeps the "
        "statistics of the weights, which is faster and suits small batches"
    )


def _compute_head_shares(
    profile: StepProfile, recipe: Recipe, head_type: str, suffix: str
) -> dict[str, float]:
    """Return the share of the forward pass of one part, for every head of a type.

    Args:
        profile: Profile of a training step.
        recipe: Recipe with the heads.
        head_type: Type of the heads, such as `faster_rcnn`.
        suffix: Name of the part after the name of the head, such as `roi_heads`.

    Returns:
        Head -> share, 0..1.
    """
    forward = profile.sum_shares(FORWARD) or 1.0
    return {
        name: profile.sum_shares(f"forward: {name} {suffix}") / forward
        for name, head in recipe.heads.items()
        if head.type == head_type
    }


def _check_second_stage(profile: StepProfile, recipe: Recipe) -> str:
    for name, share in _compute_head_shares(profile, recipe, "faster_rcnn", "roi_heads").items():
        size = recipe.heads[name].options.get("roi_batch_size", 512)
        if share >= SECOND_STAGE and size > 128:
            return (
                f"the second stage takes {share:.0%} of the forward pass: set "
                f"heads.{name}.options.roi_batch_size={size // 2} (now {size} proposals per "
                "image)"
            )
    return ""


def _check_proposals(profile: StepProfile, recipe: Recipe) -> str:
    for name, share in _compute_head_shares(
        profile, recipe, "faster_rcnn", "rpn.proposals"
    ).items():
        before = recipe.heads[name].options.get("rpn_pre_nms", (2000, 1000))
        if share >= PROPOSALS and before[0] > 500:
            return (
                f"selecting proposals takes {share:.0%} of the forward pass: set "
                f"heads.{name}.options.rpn_pre_nms=[{before[0] // 2},{before[1]}] (now "
                f"{list(before)})"
            )
    return ""


def _check_count_pass(profile: StepProfile, _: Recipe) -> str:
    share, conditions = profile.sum_shares(COUNTING), profile.conditions
    if share == 0:
        return ""
    effective_batch_size = conditions.batch_size * conditions.accumulation
    return (
        f"training.accumulation={conditions.accumulation} needs an extra forward pass for "
        f"counting, {share:.0%} of the step: if memory allows, set "
        f"training.batch_size={effective_batch_size} training.accumulation=1"
    )


def _check_optimizer_update(profile: StepProfile, _: Recipe) -> str:
    share = profile.sum_shares(OPTIMIZER, AVERAGING)
    if share < UPDATE:
        return ""
    batch = profile.conditions.batch_size
    averaging = profile.sum_shares(AVERAGING)
    other = f"; training.ema=0 saves {averaging:.0%}" if averaging >= UPDATE / 2 else ""
    return (
        f"optimizer and averaged weights take {share:.0%} of the step at any batch size: set "
        f"training.batch_size={2 * batch} (now {batch}) if memory allows{other}"
    )


def _check_gradient_checkpointing(profile: StepProfile, recipe: Recipe) -> str:
    used_bytes = profile.memory.process if profile.memory.device is None else profile.memory.device
    if (
        not recipe.backbone.gradient_checkpointing
        or used_bytes + profile.memory.step > profile.memory.total
    ):
        return ""
    if used_bytes > EMPTY * profile.memory.total:
        return ""
    return (
        "backbone.gradient_checkpointing takes a second forward pass of the stages, but only "
        f"{used_bytes / profile.memory.total:.0%} of the memory is used: set "
        "backbone.gradient_checkpointing=false"
    )


def _check_full_memory(profile: StepProfile, _: Recipe) -> str:
    memory, batch = profile.memory, profile.conditions.batch_size
    used_bytes = memory.process if memory.device is None else memory.device
    if used_bytes < FULL * memory.total:
        return ""
    halved = max(1, batch // 2)
    return (
        f"{used_bytes / memory.total:.0%} of the memory was used at the peak: lower "
        f"training.batch_size (to {halved}, with training.accumulation="
        f"{2 * profile.conditions.accumulation}), data.resize, or set "
        "backbone.gradient_checkpointing=true"
    )


def _check_empty_memory(profile: StepProfile, _: Recipe) -> str:
    memory, batch = profile.memory, profile.conditions.batch_size
    if memory.device is None or memory.device > EMPTY * memory.total:
        return ""
    return (
        f"only {memory.device / memory.total:.0%} of the GPU's memory is used: a larger "
        f"training.batch_size (now {batch}; adjust the learning rate) may use it better"
    )


def _check_idle_cores(profile: StepProfile, _: Recipe) -> str:
    conditions = profile.conditions
    if conditions.device != "cpu" or conditions.threads + conditions.workers >= conditions.cores:
        return ""
    return (
        f"torch uses {conditions.threads} of {conditions.cores} cores: start with "
        f"OMP_NUM_THREADS={conditions.cores - conditions.workers}"
    )
