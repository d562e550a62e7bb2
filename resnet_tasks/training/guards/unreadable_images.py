"""Images that cannot be read: left out of training, listed in the run folder, limited in number.

An image is known as bad when its batch is reached, not when a loader process happens upon it, so
that the list is a function of the data and the order of samples, whatever the number of processes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch.utils.data import Dataset

from resnet_tasks.data.datasets.tiled_dataset import TiledDataset
from resnet_tasks.data.sampling.dataset_protocols import SkipsUnreadableImages
from resnet_tasks.errors import DataError, ImageError
from resnet_tasks.files.atomic import json_text, write_text
from resnet_tasks.structures.samples import Sample

UNREADABLE_FILE = "unreadable_images.jsonl"
"""In the run folder: a line for each."""


@dataclass(frozen=True)
class UnreadableImage:
    """An image that could not be read.

    Attributes:
        image_id: In its data set.
        file: Of the image.
        reason: One sentence.
        update: Optimizer step that it was wanted for first.
        epoch: From 1.
    """

    image_id: int | str
    file: str
    reason: str
    update: int
    epoch: int


class UnreadableImages:
    """Those that a run has met.

    Args:
        folder: Run folder; None: a rehearsal, which has none.
        limit: How many there may be.
        total: Images of the data set.
        writes: Write the list; several processes keep the same, and one writes it.
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
        """Those of a data set, which knows how many there may be: none, if it does not say."""
        limit = data.max_unreadable_images if isinstance(data, SkipsUnreadableImages) else 0
        images = data.images if isinstance(data, TiledDataset) else data
        total = len(images)  # type: ignore[arg-type]
        return cls(folder, limit=limit, total=total, writes=writes)

    def __len__(self) -> int:
        return len(self._by_id)

    def load(self) -> None:
        """Reads what an earlier sitting listed."""
        if self._path is not None and self._path.is_file():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                image = UnreadableImage(**json.loads(line))
                self._by_id[image.image_id] = image

    def add(
        self, errors: Iterable[ImageError], *, update: int, epoch: int
    ) -> Sequence[UnreadableImage]:
        """Takes what was left out of a batch.

        Args:
            errors: What is wrong, of all processes.
            update: The step.
            epoch: From 0.

        Returns:
            Those that were not known.

        Raises:
            DataError: If there are more than allowed; they are listed nevertheless.
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
                f"{new[-1].reason}; with it {len(self._by_id)} of {self._total} training images "
                f"cannot be read{listed}; data.unreadable_images_limit allows "
                f"{self._limit}: mend or remove them (resnet-tasks data check --read-images), or "
                "raise the limit"
            )
        return new
