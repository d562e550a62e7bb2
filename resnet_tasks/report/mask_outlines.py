"""Outlines of masks as SVG paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from resnet_tasks.structures.run_lengths import decode_bitmap

_REFINED_SIDE = 256
"""Longest side, in pixels, up to which a mask is enlarged threefold to trace its pixels' edges."""
_TOLERANCE = 1 / 1200
"""Distance of the path from the outline, as a fraction of the image's longer side."""
_MAX_LENGTH = 20_000
"""Maximum number of characters of a path; longer ones are simplified further."""


def trace_mask(rle: Mapping[str, Any]) -> str:
    """Return the outline of a mask as the data of an SVG path, filled by the even-odd rule.

    The outline is simplified, and parts and holes that a reader cannot see are omitted.

    Args:
        rle: Mask as run lengths, compressed.

    Returns:
        Closed polygons in pixels of the image; empty for a mask without pixels.
    """
    bitmap, left, top = decode_bitmap(rle)
    if not bitmap.size:
        return ""
    factor = 3 if max(bitmap.shape) <= _REFINED_SIDE else 1
    refined = bitmap.repeat(factor, axis=0).repeat(factor, axis=1).astype(np.uint8)
    contours, _ = cv2.findContours(refined, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    areas = [cv2.contourArea(contour) for contour in contours]
    largest = int(np.argmax(areas))
    tolerance = factor * max(0.4, max(rle["size"]) * _TOLERANCE)
    while True:
        parts = []
        for i, (contour, area) in enumerate(zip(contours, areas, strict=True)):
            if area < tolerance**2 and i != largest:
                continue
            points = cv2.approxPolyDP(contour, tolerance, closed=True)[:, 0]
            # OpenCV's contours run through pixel centers, hence the offset of half a pixel.
            places = (points + 0.5) / factor + [left, top]
            text = " ".join(f"{x:.1f},{y:.1f}" for x, y in places.tolist())
            parts.append(f"M{text}Z")
        path = "".join(parts)
        if len(path) <= _MAX_LENGTH:
            return path
        tolerance *= 2
