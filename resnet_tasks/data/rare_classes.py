"""How often pictures with rare classes come, and how much rare classes weigh."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def repeat_factors(
    places: NDArray[np.int64], categories: NDArray[np.int64], *, pictures: int, threshold: float
) -> NDArray[np.float64]:
    """`(P,)` how often each picture comes per epoch, at least 1.

    Gupta et al. 2019 (LVIS), section 4.2: of class c, shown by the share f of all pictures, r(c) is
    max(1, sqrt(t / f)); a picture gets the greatest of its classes, 1 where it shows none.

    Args:
        places: Picture 0..P-1 of every (picture, class) pair that occurs; each pair once.
        categories: Class of the pair.
        pictures: P.
        threshold: t, a share of pictures.
    """
    factors = np.ones(pictures)
    if len(places):
        shares = np.bincount(categories) / pictures
        with np.errstate(divide="ignore"):
            of_class = np.maximum(1.0, np.sqrt(threshold / shares))
        np.maximum.at(factors, places, of_class[categories])
    return factors
