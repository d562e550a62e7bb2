"""Augmentation presets by field: a recipe may name one instead of listing steps.

No preset combines several images (mosaic, mixup): every image remains one that a camera could have
taken. A name is expanded when a recipe is read, so that a run's `recipe.yaml` lists the steps.
"""

from __future__ import annotations

from typing import Any

from resnet_tasks.registry import suggest_nearest

Steps = tuple[dict[str, dict[str, Any] | None], ...]


def medical_microscopy(channels: int) -> Steps:
    """Return the steps for smears, tissue and cultures under a microscope."""
    return (
        # A slide has no upright orientation: with quarter turns, flips give all eight views.
        {"HorizontalFlip": {"p": 0.5}},
        {"VerticalFlip": {"p": 0.5}},
        # Little scaling, because the size of a cell indicates its kind. Rotations by any angle, for
        # the same reason as flips; empty corners are black and void.
        {"Affine": {"scale": [0.85, 1.2], "rotate": [-90, 90], "p": 0.5}},
        # Lamp and exposure vary.
        {"RandomBrightnessContrast": {"brightness_limit": 0.15, "contrast_limit": 0.15, "p": 0.5}},
        *(
            # Stains vary between laboratories and days; a wider shift would change the kind of
            # stain.
            ({"HueSaturationValue": _make_color_shift(hue=6, saturation=15)},)
            if channels == 3
            else ()
        ),
        # Focus varies.
        {"GaussianBlur": {"sigma_limit": [0.3, 1.0], "p": 0.15}},
    )


def radiology(channels: int) -> Steps:  # noqa: ARG001  # no step depends on color
    """Return the steps for X-ray, CT and MR slices."""
    return (
        # No flips: the heart is on the left, and the side is part of a finding. Patients lie
        # slightly rotated and at different distances.
        {
            "Affine": {
                "scale": [0.9, 1.1],
                "translate_percent": [-0.05, 0.05],
                "rotate": [-10, 10],
                "p": 0.7,
            }
        },
        # Exposure and detector curve vary. No hue shift: gray values are measurements, and color
        # would be artificial.
        {"RandomBrightnessContrast": {"brightness_limit": 0.1, "contrast_limit": 0.15, "p": 0.5}},
        {"RandomGamma": {"gamma_limit": [85, 118], "p": 0.3}},
        # The dose varies.
        {"GaussNoise": {"std_range": [0.01, 0.03], "p": 0.2}},
    )


def driving(channels: int) -> Steps:
    """Return the steps for cameras behind a windshield."""
    return (
        # Streets may be mirrored, but signs with a left or right may not; remove this step for
        # them. Streets have an upright orientation, so there is no vertical flip and no rotation.
        {"HorizontalFlip": {"p": 0.5}},
        # Distance varies: the same car may be near or far.
        {"Affine": {"scale": [0.8, 1.3], "translate_percent": [-0.05, 0.05], "p": 0.5}},
        # Sun, shade and dusk, and the camera's response to them.
        {"RandomBrightnessContrast": {"brightness_limit": 0.25, "contrast_limit": 0.25, "p": 0.5}},
        {"RandomGamma": {"gamma_limit": [75, 135], "p": 0.3}},
        *(
            # White balance varies; the hue shift is small, because the color of lights and signs
            # has a meaning.
            ({"HueSaturationValue": _make_color_shift(hue=5, saturation=25)},)
            if channels == 3
            else ()
        ),
        # Sensor noise at night.
        {"GaussNoise": {"std_range": [0.01, 0.04], "p": 0.15}},
        # Motion blur.
        {"GaussianBlur": {"sigma_limit": [0.3, 1.2], "p": 0.1}},
    )


PRESETS = {preset.__name__: preset for preset in (medical_microscopy, radiology, driving)}


def expand_preset(name: str, channels: int) -> Steps:
    """Return the steps of a preset.

    Args:
        name: Name of the preset, a key of `PRESETS`.
        channels: Channels of the images; steps that work on color apply to 3 channels only.

    Raises:
        ValueError: If there is no such preset.
    """
    if name not in PRESETS:
        hint = suggest_nearest(name, PRESETS)
        raise ValueError(
            f"{name!r} is not a preset; allowed are {', '.join(PRESETS)}, or a list of "
            f"albumentations{hint}"
        )
    return PRESETS[name](channels)


def _make_color_shift(*, hue: float, saturation: float) -> dict[str, Any]:
    return {"hue_shift_limit": hue, "sat_shift_limit": saturation, "val_shift_limit": 0, "p": 0.3}
