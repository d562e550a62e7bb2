"""Channels and stride of a feature level, known before any tensor exists."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureSpec:
    """Channels and stride of a feature level, known before any tensor exists.

    Attributes:
        channels: Number of channels.
        stride: Input pixels per feature cell (px/px).
    """

    channels: int
    stride: int
