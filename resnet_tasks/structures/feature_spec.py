"""Channels and stride of a feature level, known before any tensor exists."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureSpec:
    """Channels and stride of a feature level, known before any tensor exists.

    Attributes:
        channels: Number of channels.
        stride: Input pixels per feature cell (px/px).
        variant: Name of the way in which the level is computed, for levels that several kinds of
            pyramids have (P6, P7); "" for all other levels.
    """

    channels: int
    stride: int
    variant: str = ""
