"""Label maps merged from the logits of overlapping windows, one band of rows at a time.

Shape glossary: `K` classes, `H, W` the prepared image, `h, w` the original image, `r` rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.images.windows import compute_window_weights
from resnet_tasks.errors import HeadError
from resnet_tasks.structures.arrays import as_array, from_array_like, softmax
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap
from resnet_tasks.structures.resizing import flip_and_resize
from resnet_tasks.structures.tasks import Outputs, WindowLayout

ROWS_AT_ONCE = 64
"""Number of rows decoded together; `K * ROWS_AT_ONCE * w` probabilities are in memory at a time."""

Floats = NDArray[np.float32]


class BlendedMap:
    """Label map of one head and image, blended from windows that arrive row by row.

    Logits are summed in float32 with weights that decrease towards the inner borders of a window
    and sum to 1 per pixel (`compute_window_weights`). The buffer has as many rows as a window; rows
    that no later window touches are decoded and dropped. No array of size `K * h * w` is allocated,
    unless `probs` are kept.

    Args:
        head: Name of the head, for messages.
        layout: Positions of the windows.
    """

    def __init__(self, head: str, layout: WindowLayout) -> None:
        self._head, self._layout = head, layout
        height, width = layout.window_size
        rows, columns = list(layout.rows), list(layout.columns)
        self._rows = dict(
            zip(rows, compute_window_weights(rows, layout.size[0], height), strict=True)
        )
        self._columns = dict(
            zip(columns, compute_window_weights(columns, layout.size[1], width), strict=True)
        )
        self._top = 0
        shape = (layout.num_classes, min(height, layout.size[0]), layout.size[1])
        self._band = np.zeros(shape, np.float32)
        self._decoder = _RowDecoder(layout)

    def add(
        self, boxes: Sequence[tuple[int, int, int, int]], outputs: Outputs, geometries: Any
    ) -> None:
        """Add a batch of windows, in their order.

        Raises:
            HeadError: If the head does not return logits at the size of the padded windows.
        """
        logits = outputs.get("logits")
        expected = (self._layout.num_classes,)
        largest = np.asarray([geometry.input_size for geometry in geometries]).max(axis=0)
        if (
            logits is None
            or len(logits.shape) != 4
            or tuple(logits.shape[1:2]) != expected
            or not all(np.asarray(logits.shape[2:]) >= largest)
        ):
            got = f"only {', '.join(outputs)}" if logits is None else tuple(logits.shape)
            raise HeadError(
                f"head {self._head}: sliding windows need `logits` of shape (B, {expected[0]}, "
                f"{largest[0]}, {largest[1]}), but the head returns {got}; predict whole images, "
                "or resize the logits to the size of the image in `forward`"
            )
        self._decoder.like = logits
        for box, window in zip(boxes, as_array(logits), strict=True):
            self._add_window(box, window)

    def _add_window(self, box: tuple[int, int, int, int], logits: NDArray[Any]) -> None:
        left, top, right, bottom = box
        if top > self._top:
            self._flush(top)
        weights = self._rows[top][:, None] * self._columns[left][None]
        inside = logits[:, : bottom - top, : right - left].astype(np.float32, copy=False)
        self._band[:, :, left:right] += inside * weights

    def finish(self) -> SegmentationMap:
        """Return the complete map, after all windows were added."""
        self._flush(self._layout.size[0])
        return self._decoder.build_map()

    def _flush(self, top: int) -> None:
        """Decode the rows above `top`, and move the buffer to `top`."""
        num_rows = top - self._top
        self._decoder.add(self._band[:, :num_rows])
        if top < self._layout.size[0]:
            # Source and target overlap, so the rows are copied first.
            remaining = self._band[:, num_rows:].copy()
            self._band[:, : remaining.shape[1]] = remaining
            self._band[:, remaining.shape[1] :] = 0
        self._top = top


class _RowDecoder:
    """Decoder that resizes rows of logits to the original size and decodes them as they arrive.

    Args:
        layout: Sizes of the prepared and the original image, and the outputs to keep.
    """

    def __init__(self, layout: WindowLayout) -> None:
        self._size, self._original, self._keep = layout.size, layout.original_size, layout.keep
        needs_int16 = layout.num_classes > 256
        self._labels = np.zeros(self._original, np.int16 if needs_int16 else np.uint8)
        self._kept_scores: Floats | None = None
        if self._keep != "labels":
            shape = (
                self._original
                if self._keep == "confidence"
                else (layout.num_classes, *self._original)
            )
            self._kept_scores = np.zeros(shape, np.float32)
        self._tail = np.zeros((layout.num_classes, 0, self._size[1]), np.float32)
        # Rows of the tail are those that the next original row may still need.
        self.like: Any = self._tail  # array of the type that predictions have
        self._first = 0  # prepared row of the first tail row
        self._num_done = 0  # decoded original rows

    def add(self, rows: Floats) -> None:
        """Add `(K, r, W)` blended logits, adjacent to the rows added before."""
        if self._size == self._original:
            self._decode_rows(rows)
            return
        logits = np.concatenate((self._tail, rows), axis=1)
        end = self._first + logits.shape[1]
        scale = self._size[0] / self._original[0]
        # Pixel centers at half-integers, so that the result equals `Geometry.map_to_original`.
        at = ((np.arange(self._num_done, self._original[0]) + 0.5) * scale - 0.5).clip(min=0)
        low = at.astype(np.int64).clip(max=self._size[0] - 1)
        high = (low + 1).clip(max=self._size[0] - 1)
        ready = int((high < end).sum())
        for start in range(0, ready, ROWS_AT_ONCE):
            part = slice(start, min(start + ROWS_AT_ONCE, ready))
            fraction = (at[part] - low[part]).astype(np.float32)[:, None]
            above, below = logits[:, low[part] - self._first], logits[:, high[part] - self._first]
            mixed = above * (1 - fraction) + below * fraction
            size = (mixed.shape[1], self._original[1])
            resized = flip_and_resize(from_array_like(self.like, mixed), (), size)
            self._decode_rows(as_array(resized))
        needed = int(low[ready]) if ready < len(low) else end
        self._tail = logits[:, max(0, needed - self._first) :].copy()
        self._first = max(needed, self._first)

    def build_map(self) -> SegmentationMap:
        """Return the decoded map."""
        assert self._num_done == self._original[0], "every row arrived"
        fields = {"labels": from_array_like(self.like, self._labels), "probs": None}
        if self._kept_scores is not None:
            fields[self._keep] = from_array_like(self.like, self._kept_scores)
        return SegmentationMap(**fields)

    def _decode_rows(self, rows: Floats) -> None:
        """Decode `(K, r, w)` logits at the original size."""
        for start in range(0, rows.shape[1], ROWS_AT_ONCE):
            logits = rows[:, start : start + ROWS_AT_ONCE]
            target_rows = slice(self._num_done, self._num_done + logits.shape[1])
            self._num_done += logits.shape[1]
            probs = as_array(softmax(from_array_like(self.like, logits), 0))
            labels = probs.argmax(axis=0)
            self._labels[target_rows] = labels
            if self._kept_scores is None:
                continue
            if self._keep == "confidence":
                self._kept_scores[target_rows] = np.take_along_axis(probs, labels[None], 0)[0]
            else:
                self._kept_scores[:, target_rows] = probs
