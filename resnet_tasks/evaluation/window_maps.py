"""Label maps put together from the logits of overlapping windows, a band of rows at a time.

Shape glossary: `K` classes, `H, W` the prepared picture, `h, w` the original one, `r` rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_tasks.data.tiles import Tile, Windows, shares
from resnet_tasks.errors import HeadError
from resnet_tasks.heads.base import Head
from resnet_tasks.structures import Geometry, SegmentationMap

Keep = Literal["labels", "confidence", "probs"]
ROWS_AT_ONCE = 64
"""Rows that are decoded together: `K * ROWS_AT_ONCE * w` probabilities are held at a time."""


class BlendedMap:
    """One head's map of one picture, from windows that come row by row.

    Logits are summed with weights that fade towards the inner borders of a window and add up to 1
    (`tiles.shares`), in float32, over as many rows as a window has; rows that no later window
    touches are decoded and dropped. Nothing of size `K * h * w` is ever held, unless `probs` are to
    be kept.

    Args:
        head: Decodes the logits.
        windows: That the picture is cut into.
        size: (height, width) of the prepared picture.
        original_size: (height, width) of the picture.
        keep: What is kept besides labels: nothing, the probability of the label, or those of all
            classes.
    """

    def __init__(
        self,
        head: Head,
        windows: Windows,
        size: tuple[int, int],
        original_size: tuple[int, int],
        *,
        keep: Keep = "labels",
    ) -> None:
        rows, columns = windows.rows(size), windows.columns(size)
        self._rows = dict(zip(rows, shares(rows, size[0], windows.height), strict=True))
        self._columns = dict(zip(columns, shares(columns, size[1], windows.width), strict=True))
        self._height = min(windows.height, size[0])
        self._size = size
        self._top = 0
        self._band = torch.zeros(0)
        self._decoded = _DecodedRows(head, size, original_size, keep)

    def add(self, tile: Tile, logits: Tensor) -> None:
        """Takes one window, in the order of `Windows.over`.

        Args:
            tile: Where it lies in the prepared picture.
            logits: `(K, H', W')` over the padded window.
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
        """The whole map, when all windows were taken."""
        self._flush(self._size[0])
        return self._decoded.map()

    def _flush(self, top: int) -> None:
        """Decodes the rows above `top`, and moves the band there."""
        done = top - self._top
        self._decoded.add(self._band[:, :done])
        if top < self._size[0]:
            kept = self._band[:, done:].clone()
            self._band[:, : kept.shape[1]] = kept
            self._band[:, kept.shape[1] :] = 0
        self._top = top


class _DecodedRows:
    """Rows of logits, brought to the original size and decoded as they come.

    Args:
        head: Decodes them.
        size: (H, W).
        original_size: (h, w).
        keep: As `BlendedMap` has it.
    """

    def __init__(
        self, head: Head, size: tuple[int, int], original_size: tuple[int, int], keep: Keep
    ) -> None:
        self._head, self._size, self._original, self._keep = head, size, original_size, keep
        many = len(head.classes) > 256
        self._labels = torch.zeros(original_size, dtype=torch.int16 if many else torch.uint8)
        self._kept: Tensor | None = None
        if keep != "labels":
            shape = original_size if keep == "confidence" else (len(head.classes), *original_size)
            self._kept = torch.zeros(shape)
        self._tail = torch.zeros(0)  # rows that the next original row may still need
        self._first = 0  # of the tail
        self._done = 0  # original rows

    def add(self, rows: Tensor) -> None:
        """`(K, r, W)` finished logits, next to those that came before."""
        if self._size == self._original:
            self._write(rows)
            return
        known = torch.cat((self._tail, rows), dim=1) if self._tail.numel() else rows
        end = self._first + known.shape[1]
        scale = self._size[0] / self._original[0]
        # As `F.interpolate` places pixel centres, which `Geometry.map_to_original` uses.
        at = ((torch.arange(self._done, self._original[0]) + 0.5) * scale - 0.5).clamp(min=0)
        low = at.long().clamp(max=self._size[0] - 1)
        high = (low + 1).clamp(max=self._size[0] - 1)
        ready = int((high < end).sum())
        for start in range(0, ready, ROWS_AT_ONCE):
            chosen = slice(start, min(start + ROWS_AT_ONCE, ready))
            share = (at[chosen] - low[chosen]).to(known)[:, None]
            above = known[:, (low[chosen] - self._first).to(known.device)]
            below = known[:, (high[chosen] - self._first).to(known.device)]
            mixed = above * (1 - share) + below * share
            size = [mixed.shape[1], self._original[1]]
            self._write(F.interpolate(mixed[None], size, mode="bilinear", align_corners=False)[0])
        needed = int(low[ready]) if ready < len(low) else end
        self._tail = known[:, max(0, needed - self._first) :].clone()
        self._first = max(needed, self._first)

    def map(self) -> SegmentationMap:
        """What was decoded."""
        assert self._done == self._original[0], "every row came"
        kept = {} if self._keep == "labels" else {self._keep: self._kept}
        return SegmentationMap(self._labels, **{"probs": None, **kept})

    def _write(self, rows: Tensor) -> None:
        """Decodes `(K, r, w)` logits at original size."""
        for start in range(0, rows.shape[1], ROWS_AT_ONCE):
            part = rows[:, start : start + ROWS_AT_ONCE]
            size = (int(part.shape[1]), self._original[1])
            (found,) = self._head.decode({"logits": part[None]}, [Geometry(size, size)])
            place = slice(self._done, self._done + size[0])
            self._labels[place] = found.labels.cpu().to(self._labels.dtype)
            if self._keep == "confidence":
                assert self._kept is not None
                chosen = torch.take_along_dim(found.probs, found.labels[None].long(), dim=0)
                self._kept[place] = chosen[0].cpu()
            elif self._keep == "probs":
                assert self._kept is not None
                self._kept[:, place] = found.probs.cpu()
            self._done += size[0]


def window_logits(
    name: str, raw: Mapping[str, Any], padded: Sequence[int], num_classes: int
) -> Tensor:
    """`(B, K, H', W')` logits of a batch of windows, from a semantic head's raw output.

    Raises:
        HeadError: If the head gives none over the padded windows.
    """
    logits = raw.get("logits")
    expected = (num_classes, *padded)
    if not isinstance(logits, Tensor) or tuple(logits.shape[1:]) != expected:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else f"only {', '.join(raw)}"
        raise HeadError(
            f"head {name}: windows are blended in raw `logits` of shape (B, {num_classes}, "
            f"{padded[0]}, {padded[1]}), its forward gives {got}; predict whole pictures, or bring "
            "the logits to the size of the picture in `forward`"
        )
    return logits
