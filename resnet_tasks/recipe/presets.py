"""Sensible augmentation by field: a name that a recipe may write in place of its list.

None of them pastes images together (mosaic, mixup): every image stays one that could have been
taken. A name is expanded when a recipe is read, so that a run's `recipe.yaml` holds plain steps.
"""

from __future__ import annotations

from typing import Any

from resnet_tasks.registry import suggest_nearest

Steps = tuple[dict[str, dict[str, Any] | None], ...]


def medical_microscopy(channels: int) -> Steps:
    """Smears, tissue and cultures under a microscope."""
    return (
        # A slide has no upright: with quarter turns, flips give all eight views.
        {"HorizontalFlip": {"p": 0.5}},
        {"VerticalFlip": {"p": 0.5}},
        # Little scale: a cell's size tells its kind. Turns of any angle, for the same reason as
        # flips; empty corners are black and void.
        {"Affine": {"scale": [0.85, 1.2], "rotate": [-90, 90], "p": 0.5}},
        # Lamp and exposure.
        {"RandomBrightnessContrast": {"brightness_limit": 0.15, "contrast_limit": 0.15, "p": 0.5}},
        *(
            # Stains vary between laboratories and days; a wider shift would turn one into another.
            ({"HueSaturationValue": _make_color_shift(hue=6, saturation=15)},)
            if channels == 3
            else ()
        ),
        # Focus.
        {"GaussianBlur": {"sigma_limit": [0.3, 1.0], "p": 0.15}},
    )


def radiology(channels: int) -> Steps:  # noqa: ARG001  # nothing here looks at color
    """X-ray, CT and MR slices."""
    return (
        # No flips: the heart is on the left, and side is part of the finding. Patients lie a
        # little turned, nearer or farther.
        {
            "Affine": {
                "scale": [0.9, 1.1],
                "translate_percent": [-0.05, 0.05],
                "rotate": [-10, 10],
                "p": 0.7,
            }
        },
        # Exposure and detector curve. No hue: gray values are measurements, color would be made
        # up.
        {"RandomBrightnessContrast": {"brightness_limit": 0.1, "contrast_limit": 0.15, "p": 0.5}},
        {"RandomGamma": {"gamma_limit": [85, 118], "p": 0.3}},
        # Dose.
        {"GaussNoise": {"std_range": [0.01, 0.03], "p": 0.2}},
    )


def driving(channels: int) -> Steps:
    """Cameras behind a windscreen."""
    return (
        # Streets mirror well (but left- and right-hand signs do not: take it out for those); they
        # have an upright, so there is no vertical flip and next to no turn.
        {"HorizontalFlip": {"p": 0.5}},
        # Distance: the same car is near and far.
        {"Affine": {"scale": [0.8, 1.3], "translate_percent": [-0.05, 0.05], "p": 0.5}},
        # Sun, shade, dusk, and the camera's answer to them.
        {"RandomBrightnessContrast": {"brightness_limit": 0.25, "contrast_limit": 0.25, "p": 0.5}},
        {"RandomGamma": {"gamma_limit": [75, 135], "p": 0.3}},
        *(
            # White balance; small in hue, for the color of lights and signs has a meaning.
            ({"HueSaturationValue": _make_color_shift(hue=5, saturation=25)},)
            if channels == 3
            else ()
        ),
        # Night.
        {"GaussNoise": {"std_range": [0.01, 0.04], "p": 0.15}},
        # Motion.
        {"GaussianBlur": {"sigma_limit": [0.3, 1.2], "p": 0.1}},
    )


PRESETS = {preset.__name__: preset for preset in (medical_microscopy, radiology, driving)}


def expand_preset(name: str, channels: int) -> Steps:
    """The steps of a preset.

    Args:
        name: Of the field.
        channels: Of the images: steps that work on colors only are for 3.

    Raises:
        ValueError: If there is no such preset.
    """
    if name not in PRESETS:
        hint = suggest_nearest(name, PRESETS)
        raise ValueError(
            f"{name!r} is no preset; allowed are {', '.join(PRESETS)}, or a list of "
            f"albumentations{hint}"
        )
    return PRESETS[name](channels)


def _make_color_shift(*, hue: float, saturation: float) -> dict[str, Any]:
    return {"hue_shift_limit": hue, "sat_shift_limit": saturation, "val_shift_limit": 0, "p": 0.3}
