"""Augmentation of the samples of a dataset, and the seeds that make it reproducible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from resnet_tasks.data.augmentation.copy_paste import CopyPaste
from resnet_tasks.data.augmentation.transforms import Augmentation
from resnet_tasks.data.datasets.samples import as_tensor, get_pixels
from resnet_tasks.data.images.preprocessing import to_unit_range
from resnet_tasks.data.sampling.sample_keys import derive_sample_seed
from resnet_tasks.structures.samples import Sample


@dataclass(frozen=True)
class SampleAugmentation:
    """Augmentation of samples as a function of (seed, epoch, image id, visit).

    Attributes:
        augment: Augmentation of a single sample, or None.
        copy_paste: Copy-paste of objects from another sample, after `augment`; None: no pasting.
        seed: Seed of the run.
    """

    augment: Augmentation | None = None
    copy_paste: CopyPaste | None = None
    seed: int = 0

    def __call__(self, sample: Sample, epoch: int, visit: int) -> Sample:
        """Return the sample with its seed, transformed by `augment`.

        Args:
            sample: Sample with values as returned by `Preparation.prepare_pixels`. Its id, the
                epoch and the visit determine all randomness.
            epoch: Epoch, from 0.
            visit: Number of earlier occurrences of the sample in the epoch.
        """
        seed = derive_sample_seed(self.seed, epoch, sample.image_id, visit)
        if self.augment is None:
            return replace(sample, seed=seed)
        pixels, target = self.augment(get_pixels(sample), sample.target, seed)
        # Augmented images are only used in training, so the geometry omits the augmentation.
        geometry = replace(sample.geometry, input_size=(pixels.shape[0], pixels.shape[1]))
        return replace(sample, image=as_tensor(pixels), geometry=geometry, target=target, seed=seed)

    def paste_objects(
        self, sample: Sample, num_others: int, load_other: Callable[[int], Sample | None]
    ) -> Sample:
        """Paste objects of another image into a sample with probability `CopyPaste.p`.

        Args:
            sample: Augmented sample. Its seed and id determine all randomness.
            num_others: Number of other images.
            load_other: Function that loads one of them by its number, without augmentation, and
                returns None if it cannot be read, in which case nothing is pasted.

        Returns:
            The sample as float32 in 0..1.
        """
        assert self.copy_paste is not None
        sample = convert_to_float(sample)
        seed = derive_sample_seed(sample.seed, 0, f"{sample.image_id}, pasted into")
        rng = np.random.default_rng(seed)
        if rng.random() >= self.copy_paste.p or not num_others:
            return sample
        other = load_other(int(rng.integers(num_others)))
        if other is None:
            return sample
        # The random id gives the pasted image a different augmentation at every use.
        other = replace(other, image_id=f"{other.image_id} in {rng.integers(2**63)}")
        source = convert_to_float(self(other, 0, 0))
        pixels, target = self.copy_paste(
            (get_pixels(sample), sample.target), (get_pixels(source), source.target), rng
        )
        return replace(sample, image=as_tensor(pixels), target=target)


def convert_to_float(sample: Sample) -> Sample:
    """Return the sample as float32 in 0..1."""
    return replace(sample, image=as_tensor(to_unit_range(get_pixels(sample))))
