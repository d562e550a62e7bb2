"""Images that cannot be read: skipped in training, listed in the run folder, limited in number.

An image is recorded when training reaches its batch, not when a loader worker reads it. The list
is therefore a function of the data and the order of samples, with any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch.utils.data import Dataset

from resnet_tasks.data.datasets.tiled_dataset import TiledDataset
from resnet_tasks.data.sampling.dataset_protocols import SkipsUnreadableImages
from resnet_tasks.errors import DataError, ImageError
from resnet_tasks.files.atomic import json_text, write_text
from resnet_tasks.run_folder.files import UNREADABLE_IMAGES
from resnet_tasks.run_folder.read import read_lines
from resnet_tasks.structures.samples import Sample

UNREADABLE_FILE = "unreadable_images.jsonl"
"""Name of the list in the run folder, with one line per image."""


@dataclass(frozen=True)
class UnreadableImage:
    """Image that could not be read.

    Attributes:
        image_id: Id of the image in its dataset.
        file: Path of the image file.
        reason: Reason, in one sentence.
        update: Index of the first optimizer step that needed the image, from 0.
        epoch: Epoch of that step, from 1.
    """

    image_id: int | str
    file: str
    reason: str
    update: int
    epoch: int


class UnreadableImages:
    """List of the unreadable images that a run has encountered.

    Args:
        folder: Path of the run folder; None for a trial without one.
        limit: Maximum number of unreadable images.
        total: Number of images of the dataset.
        writes: Whether to write the list; all processes have the same list, and one writes it.
    """

    def __init__(self, folder: Path | None, *, limit: int, total: int, writes: bool) -> None:
        self._path = None if folder is None else folder / UNREADABLE_FILE
        self._writes = writes
        self._limit = limit
        self._total = total
        self._by_id: dict[int | str, UnreadableImage] = {}

    @classmethod
    def for_dataset(
        cls, data: Dataset[Sample], folder: Path | None, *, writes: bool
    ) -> UnreadableImages:
        """Create the list for a dataset, with the limit of the dataset, or 0 if it has none.

        Args:
            data: Training samples.
            folder: Path of the run folder; None for a trial without one.
            writes: Whether to write the list.
        """
        limit = data.max_unreadable_images if isinstance(data, SkipsUnreadableImages) else 0
        images = data.images if isinstance(data, TiledDataset) else data
        total = len(images)  # type: ignore[arg-type]
        return cls(folder, limit=limit, total=total, writes=writes)

    def __len__(self) -> int:
        return len(self._by_id)

    def load(self) -> None:
        """Load the list that the run wrote before it was interrupted.

        Raises:
            RunError: If the list is damaged.
        """
        if self._path is not None and self._path.exists():
            for line in read_lines(self._path, UNREADABLE_IMAGES):
                image = UnreadableImage(**line)
                self._by_id[image.image_id] = image

    def add(
        self, errors: Iterable[ImageError], *, update: int, epoch: int
    ) -> Sequence[UnreadableImage]:
        """Add the unreadable images of a batch.

        Args:
            errors: Errors of the images, from all processes.
            update: Index of the optimizer step, from 0.
            epoch: Epoch, from 0.

        Returns:
            The images that were not in the list yet.

        Raises:
            DataError: If the list exceeds the limit; it is written before.
        """
        new = []
        for error in errors:
            if error.image_id not in self._by_id:
                image = UnreadableImage(error.image_id, error.file, str(error), update, epoch + 1)
                self._by_id[error.image_id] = image
                new.append(image)
        if new and self._writes and self._path is not None:
            lines = (json_text(asdict(unreadable)) for unreadable in self._by_id.values())
            write_text(self._path, "".join(f"{line}\n" for line in lines))
        if new and len(self._by_id) > self._limit:
            listed = "" if self._path is None else f" (listed in {self._path})"
            raise DataError(
                f"{new[-1].reason}; with this image, {len(self._by_id)} of {self._total} training "
                f"images cannot be read{listed}; data.unreadable_images_limit allows "
                f"{self._limit}: fix or remove them (resnet-tasks data check --read-images), or "
                "raise the limit"
            )
        return new
