"""Instance masks of one image, each a bitmap in its window.

Shape glossary: `N` objects, `P` pixels of all windows together, `h, w` one window.

The masks of N objects as one `(N, H, W)` tensor take N times the pixels of the image: 2 GB for 500
objects on 2,000 x 2,000 pixels. Windows take the pixels of the objects' bounding boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bitmap = Tensor | NDArray[np.bool_]
"""`(h, w)` bool pixels of a window."""


@dataclass(frozen=True)
class InstanceMasks:
    """Masks of the objects of one image as bitmaps in windows of the image.

    Every pixel outside an object's window is False.

    Attributes:
        windows: `(N, 4)` int64 xyxy, pixels of the image; x2 and y2 are exclusive. The window of
            an object without visible pixels may be empty.
        pixels: `(P,)` bool, the bitmaps of all windows, each row by row, in the order of the
            objects.
        annotated: `(N,)` bool, False for objects without a mask, whose window is empty. True for an
            object whose mask has no visible pixels.

    Raises:
        ValueError: If the shapes or dtypes are inconsistent.
    """

    windows: Tensor
    pixels: Tensor
    annotated: Tensor

    def __post_init__(self) -> None:
        count = len(self.windows)
        expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "windows": ((count, 4), torch.int64),
            "pixels": ((len(self.pixels),), torch.bool),
            "annotated": ((count,), torch.bool),
        }
        for name, (shape, dtype) in expected.items():
            tensor = getattr(self, name)
            if tensor.shape != shape or tensor.dtype != dtype:
                raise ValueError(
                    f"InstanceMasks.{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; "
                    f"expected {dtype} of shape {shape}"
                )
        # Reading the sum from another device would make the CPU wait for it.
        if self.windows.device.type == "cpu" and int(self.areas.sum()) != len(self.pixels):
            raise ValueError(
                f"InstanceMasks.pixels holds {len(self.pixels)} pixels, but the windows have "
                f"{int(self.areas.sum())}"
            )

    @classmethod
    def from_bitmaps(
        cls, bitmaps: Sequence[Bitmap | None], corners: Sequence[tuple[int, int]]
    ) -> InstanceMasks:
        """Build the masks of an image from bitmaps.

        Args:
            bitmaps: `(h, w)` bool pixels of every object's window; None for an object without a
                mask.
            corners: (x, y) of the top left pixel of every window; ignored where the bitmap is None.
        """
        tensors = [
            torch.zeros(0, 0, dtype=torch.bool) if bitmap is None else torch.as_tensor(bitmap)
            for bitmap in bitmaps
        ]
        has_mask = torch.tensor([bitmap is not None for bitmap in bitmaps], dtype=torch.bool)
        return _join(tensors, corners, has_mask)

    @classmethod
    def cat(cls, parts: Sequence[InstanceMasks]) -> InstanceMasks:
        """Concatenate the masks of several groups of objects of one image, at least one group."""
        return cls(
            torch.cat([part.windows for part in parts]),
            torch.cat([part.pixels for part in parts]),
            torch.cat([part.annotated for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def areas(self) -> Tensor:
        """`(N,)` int64 number of pixels of each window, set or not."""
        return (self.windows[:, 2:] - self.windows[:, :2]).prod(dim=1)

    @property
    def starts(self) -> Tensor:
        """`(N,)` int64 position of each window's first pixel in `pixels`."""
        return self.areas.cumsum(dim=0) - self.areas

    @property
    def bitmaps(self) -> list[Tensor]:
        """`(h, w)` bool pixels of each window, as views of `pixels`."""
        return [
            part.view(y2 - y1, x2 - x1)
            for part, (x1, y1, x2, y2) in zip(self._split(), self.windows.tolist(), strict=True)
        ]

    def count_pixels(self) -> Tensor:
        """Return the `(N,)` int64 number of set pixels of each mask."""
        sums = torch.cat((self.pixels.new_zeros(1, dtype=torch.int64), self.pixels.cumsum(dim=0)))
        starts = self.starts
        return sums[starts + self.areas] - sums[starts]

    def compute_boxes(self) -> Tensor:
        """Return the `(N, 4)` float32 xyxy bounding box of each mask, zeros for an empty mask."""
        boxes = torch.zeros(len(self), 4)
        for i, (bitmap, (x, y, _, _)) in enumerate(
            zip(self.bitmaps, self.windows.tolist(), strict=True)
        ):
            x1, y1, x2, y2 = _find_bounds(bitmap)
            if x2:
                boxes[i] = torch.tensor([x + x1, y + y1, x + x2, y + y2])
        return boxes.to(self.windows.device)

    def select(self, index: Tensor) -> InstanceMasks:
        """Return the masks of some objects.

        Args:
            index: `(N,)` bool, or int64 positions in the new order.
        """
        if index.dtype == torch.bool:
            if bool(index.all()):
                return self
            index = index.nonzero()[:, 0]
        parts = self._split()
        selected = [parts[i] for i in index.tolist()]
        pixels = torch.cat(selected) if selected else self.pixels[:0]
        return InstanceMasks(self.windows[index], pixels, self.annotated[index])

    def rasterize(self, i: int, size: tuple[int, int]) -> Tensor:
        """Return the mask of object `i` on the image, `(H, W)` bool.

        Args:
            i: Position of the object.
            size: (H, W) of the image; pixels of the window outside it are cut off.
        """
        mask = self.pixels.new_zeros(size)
        start, area = int(self.starts[i]), int(self.areas[i])
        x1, y1, x2, y2 = self.windows[i].tolist()
        bitmap = self.pixels[start : start + area].view(y2 - y1, x2 - x1)
        left, top = max(0, -x1), max(0, -y1)
        visible = bitmap[top : max(top, size[0] - y1), left : max(left, size[1] - x1)]
        height, width = visible.shape
        mask[y1 + top : y1 + top + height, x1 + left : x1 + left + width] = visible
        return mask

    # --- maps of the image

    def translate(self, x: int, y: int) -> InstanceMasks:
        """Move all masks by whole pixels, for example by the padding at the left and top."""
        offset = self.windows.new_tensor([x, y, x, y])
        is_empty = (self.areas == 0)[:, None]
        windows = torch.where(is_empty, self.windows, self.windows + offset)
        return InstanceMasks(windows, self.pixels, self.annotated)

    def crop(self, box: tuple[int, int, int, int]) -> InstanceMasks:
        """Crop all masks with the image.

        Args:
            box: xyxy of the new image in the old one, whole pixels.

        Returns:
            Masks in pixels of the new image, for the same objects. The window of an object outside
            the new image is empty.
        """
        x1, y1, x2, y2 = box
        low, high = self.windows.new_tensor([x1, y1] * 2), self.windows.new_tensor([x2, y2] * 2)
        clipped = self.windows.clamp(low, high)
        if torch.equal(clipped, self.windows):
            return self.translate(-x1, -y1)

        def crop_bitmap(bitmap: Tensor, window: Sequence[int], new: Sequence[int]) -> Tensor:
            rows = slice(new[1] - window[1], new[3] - window[1])
            return bitmap[rows, new[0] - window[0] : new[2] - window[0]]

        bitmaps = map(crop_bitmap, self.bitmaps, self.windows.tolist(), clipped.tolist())
        corners = [(left - x1, top - y1) for left, top, _, _ in clipped.tolist()]
        return _join(list(bitmaps), corners, self.annotated)

    def flip(self, axis: int, size: tuple[int, int]) -> InstanceMasks:
        """Mirror all masks with the image.

        Args:
            axis: Axis whose direction changes: 0 for rows (upside down), 1 for columns.
            size: (height, width) of the image.
        """
        low, high = (1, 3) if axis == 0 else (0, 2)

        def find_corner(window: Sequence[int]) -> tuple[int, int]:
            corner = [window[0], window[1]]
            corner[low] = size[axis] - window[high]
            return corner[0], corner[1]

        return self._map_bitmaps(lambda bitmap: bitmap.flip(axis), find_corner)

    def transpose(self) -> InstanceMasks:
        """Swap rows and columns of all masks with those of the image."""
        return self._map_bitmaps(lambda bitmap: bitmap.T, lambda window: (window[1], window[0]))

    def resize(self, size: tuple[int, int], new_size: tuple[int, int]) -> InstanceMasks:
        """Resize all masks with the image, by the nearest pixel center.

        The result equals resizing the masks on the full image: pixel i of n takes the source pixel
        of m that contains its center, `(2 i + 1) m // (2 n)` in integers.

        Args:
            size: (height, width) of the image.
            new_size: (height, width) of the resized image.
        """
        if size == new_size:
            return self
        # Source pixel of each new row and column. They ascend, so the new pixels whose source lies
        # inside a window are consecutive.
        rows, columns = (
            (2 * torch.arange(new) + 1) * old // (2 * new)
            for new, old in zip(new_size, size, strict=True)
        )
        x_edges = torch.searchsorted(columns, self.windows[:, 0::2].cpu().contiguous())
        y_edges = torch.searchsorted(rows, self.windows[:, 1::2].cpu().contiguous())
        bitmaps, corners = [], []
        for bitmap, (x, y, _, _), (left, right), (top, bottom) in zip(
            self.bitmaps, self.windows.tolist(), x_edges.tolist(), y_edges.tolist(), strict=True
        ):
            chosen_rows = (rows[top:bottom] - y).to(bitmap.device)
            chosen_columns = (columns[left:right] - x).to(bitmap.device)
            bitmaps.append(bitmap.index_select(0, chosen_rows).index_select(1, chosen_columns))
            corners.append((left, top))
        return _join(bitmaps, corners, self.annotated)

    # --- device

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> InstanceMasks:
        """Return the same masks on `device`."""
        return self._map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> InstanceMasks:
        """Return the same masks in page-locked memory."""
        return self._map_tensors(Tensor.pin_memory)

    def _map_tensors(self, change: Callable[[Tensor], Tensor]) -> InstanceMasks:
        return InstanceMasks(*map(change, (self.windows, self.pixels, self.annotated)))

    def _split(self) -> tuple[Tensor, ...]:
        if not len(self):
            return ()
        return torch.split(self.pixels, self.areas.tolist())

    def _map_bitmaps(
        self,
        change: Callable[[Tensor], Tensor],
        find_corner: Callable[[Sequence[int]], tuple[int, int]],
    ) -> InstanceMasks:
        corners = [find_corner(window) for window in self.windows.tolist()]
        return _join([change(bitmap) for bitmap in self.bitmaps], corners, self.annotated)


def make_ellipse(size: tuple[int, int]) -> Tensor:
    """Return the `(h, w)` bool pixels whose centers lie in the ellipse that fills the rectangle."""
    y, x = ((2 * torch.arange(length) + 1 - length) / length for length in size)
    return y[:, None].square() + x.square() <= 1


def _join(
    bitmaps: Sequence[Tensor], corners: Sequence[tuple[int, int]], annotated: Tensor
) -> InstanceMasks:
    windows = [
        (x, y, x + bitmap.shape[1], y + bitmap.shape[0]) if bitmap.numel() else (0, 0, 0, 0)
        for bitmap, (x, y) in zip(bitmaps, corners, strict=True)
    ]
    device = annotated.device
    pixels = [bitmap.reshape(-1) for bitmap in bitmaps]
    return InstanceMasks(
        torch.tensor(windows, dtype=torch.int64, device=device).reshape(-1, 4),
        torch.cat(pixels) if pixels else torch.zeros(0, dtype=torch.bool, device=device),
        annotated,
    )


def _find_bounds(mask: Tensor) -> tuple[int, int, int, int]:
    """Return the xyxy bounding box of a `(h, w)` mask, zeros if it is empty."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    if not len(rows):
        return (0, 0, 0, 0)
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
