"""Label maps merged from the logits of overlapping windows, one band of rows at a time.

Shape glossary: `K` classes, `H, W` the prepared image, `h, w` the original image, `r` rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_tasks.data.images.windows import Tile, WindowGrid, compute_window_weights
from resnet_tasks.errors import HeadError
from resnet_tasks.heads.base import Head
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.predictions import SegmentationMap

Keep = Literal["labels", "confidence", "probs"]
ROWS_AT_ONCE = 64
"""Number of rows decoded together; `K * ROWS_AT_ONCE * w` probabilities are in memory at a time."""


class BlendedMap:
    """Label map of one head and image, blended from windows that arrive row by row.

    Logits are summed in float32 with weights that decrease towards the inner borders of a window
    and sum to 1 per pixel (`compute_window_weights`). The buffer has as many rows as a window; rows
    that no later window touches are decoded and dropped. No array of size `K * h * w` is allocated,
    unless `probs` are kept.

    Args:
        head: Head that decodes the logits.
        windows: Grid of windows over the prepared image.
        size: (height, width) of the prepared image, pixels.
        original_size: (height, width) of the original image, pixels.
        keep: Output to keep in addition to labels: none (`labels`), the probability of the label
            (`confidence`), or the probabilities of all classes (`probs`).
    """

    def __init__(
        self,
        head: Head,
        windows: WindowGrid,
        size: tuple[int, int],
        original_size: tuple[int, int],
        *,
        keep: Keep = "labels",
    ) -> None:
        rows, columns = windows.compute_row_starts(size), windows.compute_column_starts(size)
        self._rows = dict(
            zip(rows, compute_window_weights(rows, size[0], windows.height), strict=True)
        )
        self._columns = dict(
            zip(columns, compute_window_weights(columns, size[1], windows.width), strict=True)
        )
        self._height = min(windows.height, size[0])
        self._size = size
        self._top = 0
        self._band = torch.zeros(0)
        self._decoded = _RowDecoder(head, size, original_size, keep)

    def add(self, tile: Tile, logits: Tensor) -> None:
        """Add one window, in the order of `WindowGrid.make_tiles`.

        Args:
            tile: Position of the window in the prepared image.
            logits: `(K, H', W')` logits over the padded window.
        """
        logits = logits[:, : tile.height, : tile.width].float()
        if not self._band.numel():
            self._band = logits.new_zeros(len(logits), self._height, self._size[1])
        if tile.top > self._top:
            self._flush(tile.top)
        down = torch.from_numpy(self._rows[tile.top]).to(logits)
        across = torch.from_numpy(self._columns[tile.left]).to(logits)
        weights = down[:, None] * across[None]
        self._band[:, :, tile.columns] += logits * weights

    def finish(self) -> SegmentationMap:
        """Return the complete map, after all windows were added."""
        self._flush(self._size[0])
        return self._decoded.build_map()

    def _flush(self, top: int) -> None:
        """Decode the rows above `top`, and move the buffer to `top`."""
        num_rows = top - self._top
        self._decoded.add(self._band[:, :num_rows])
        if top < self._size[0]:
            # Source and target overlap, so the rows are copied first.
            remaining = self._band[:, num_rows:].clone()
            self._band[:, : remaining.shape[1]] = remaining
            self._band[:, remaining.shape[1] :] = 0
        self._top = top


class _RowDecoder:
    """Decoder that resizes rows of logits to the original size and decodes them as they arrive.

    Args:
        head: Head that decodes the logits.
        size: (H, W) of the prepared image.
        original_size: (h, w) of the original image.
        keep: Output to keep in addition to labels; see `BlendedMap`.
    """

    def __init__(
        self, head: Head, size: tuple[int, int], original_size: tuple[int, int], keep: Keep
    ) -> None:
        self._head, self._size, self._original, self._keep = head, size, original_size, keep
        many = len(head.classes) > 256
        self._labels = torch.zeros(original_size, dtype=torch.int16 if many else torch.uint8)
        self._kept_scores: Tensor | None = None
        if keep != "labels":
            shape = original_size if keep == "confidence" else (len(head.classes), *original_size)
            self._kept_scores = torch.zeros(shape)
        self._tail = torch.zeros(0)  # rows that the next original row may still need
        self._first = 0  # prepared row of the first tail row
        self._num_done = 0  # decoded original rows

    def add(self, rows: Tensor) -> None:
        """Add `(K, r, W)` blended logits, adjacent to the rows added before."""
        if self._size == self._original:
            self._decode_rows(rows)
            return
        logits = torch.cat((self._tail, rows), dim=1) if self._tail.numel() else rows
        end = self._first + logits.shape[1]
        scale = self._size[0] / self._original[0]
        # Pixel centers as in `F.interpolate`, so that the result equals `Geometry.map_to_original`.
        at = ((torch.arange(self._num_done, self._original[0]) + 0.5) * scale - 0.5).clamp(min=0)
        low = at.long().clamp(max=self._size[0] - 1)
        high = (low + 1).clamp(max=self._size[0] - 1)
        ready = int((high < end).sum())
        for start in range(0, ready, ROWS_AT_ONCE):
            row_slice = slice(start, min(start + ROWS_AT_ONCE, ready))
            fraction = (at[row_slice] - low[row_slice]).to(logits)[:, None]
            above = logits[:, (low[row_slice] - self._first).to(logits.device)]
            below = logits[:, (high[row_slice] - self._first).to(logits.device)]
            mixed = above * (1 - fraction) + below * fraction
            size = [mixed.shape[1], self._original[1]]
            self._decode_rows(
                F.interpolate(mixed[None], size, mode="bilinear", align_corners=False)[0]
            )
        needed = int(low[ready]) if ready < len(low) else end
        self._tail = logits[:, max(0, needed - self._first) :].clone()
        self._first = max(needed, self._first)

    def build_map(self) -> SegmentationMap:
        """Return the decoded map."""
        assert self._num_done == self._original[0], "every row arrived"
        kept_fields = {} if self._keep == "labels" else {self._keep: self._kept_scores}
        return SegmentationMap(self._labels, **{"probs": None, **kept_fields})

    def _decode_rows(self, rows: Tensor) -> None:
        """Decode `(K, r, w)` logits at the original size."""
        for start in range(0, rows.shape[1], ROWS_AT_ONCE):
            part = rows[:, start : start + ROWS_AT_ONCE]
            size = (int(part.shape[1]), self._original[1])
            (prediction,) = self._head.decode({"logits": part[None]}, [Geometry(size, size)])
            target_rows = slice(self._num_done, self._num_done + size[0])
            self._labels[target_rows] = prediction.labels.cpu().to(self._labels.dtype)
            if self._keep == "confidence":
                assert self._kept_scores is not None
                confidence = torch.take_along_dim(
                    prediction.probs, prediction.labels[None].long(), dim=0
                )
                self._kept_scores[target_rows] = confidence[0].cpu()
            elif self._keep == "probs":
                assert self._kept_scores is not None
                self._kept_scores[:, target_rows] = prediction.probs.cpu()
            self._num_done += size[0]


def get_window_logits(
    name: str, raw: Mapping[str, Any], padded: Sequence[int], num_classes: int
) -> Tensor:
    """Return the `(B, K, H', W')` logits of a batch of windows from a semantic head's raw output.

    Args:
        name: Name of the head, for messages.
        raw: Raw output of the head.
        padded: (H', W') of the padded windows, pixels.
        num_classes: Number of classes, `K`.

    Raises:
        HeadError: If the raw output has no logits at the size of the padded windows.
    """
    logits = raw.get("logits")
    expected = (num_classes, *padded)
    if not isinstance(logits, Tensor) or tuple(logits.shape[1:]) != expected:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else f"only {', '.join(raw)}"
        raise HeadError(
            f"head {name}: windows are blended in raw `logits` of shape (B, {num_classes}, "
            f"{padded[0]}, {padded[1]}), its forward gives {got}; predict whole images, or resize "
            "the logits to the size of the image in `forward`"
        )
    return logits
