"""Outlines of masks as SVG paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from resnet_tasks.structures.run_lengths import decode_bitmap

_REFINED_SIDE = 256
"""Longest side in pixels of a mask that is traced three times as fine, along its pixels' edges."""
_TOLERANCE = 1 / 1200
"""Largest distance of the path from the outline, as a fraction of the image's longer side."""


def trace_mask(rle: Mapping[str, Any]) -> str:
    """Return the outline of a mask as the data of an SVG path, filled by the even-odd rule.

    The outline is simplified, and parts and holes that a reader cannot see are omitted, so that the
    length of the path is bounded by the size of the page rather than by the size of the image.

    Args:
        rle: Mask as run lengths, compressed.

    Returns:
        Closed polygons in pixels of the image; empty for a mask without visible pixels.
    """
    bitmap, left, top = decode_bitmap(rle)
    if not bitmap.size:
        return ""
    factor = 3 if max(bitmap.shape) <= _REFINED_SIDE else 1
    refined = bitmap.repeat(factor, axis=0).repeat(factor, axis=1).astype(np.uint8)
    contours, _ = cv2.findContours(refined, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    tolerance = max(0.4, max(rle["size"]) * _TOLERANCE)
    parts = []
    for contour in contours:
        if cv2.contourArea(contour) < (tolerance * factor) ** 2 and len(contours) > 1:
            continue
        points = cv2.approxPolyDP(contour, tolerance * factor, closed=True)[:, 0]
        # The contour runs through the centers of pixels.
        places = (points + 0.5) / factor + [left, top]
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in places.tolist())
        parts.append(f"M{text}Z")
    return "".join(parts)
