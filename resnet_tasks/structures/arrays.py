"""Functions on arrays that are numpy arrays or torch tensors, without importing torch.

`tensors` registers the versions for torch tensors. It is imported wherever tensors are made
(`samples`), so that code here runs on exported models in a process without torch.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = TypeVar("Array")
"""Type of a tensor or a numpy array."""


def as_array(values: Any) -> NDArray[Any]:
    """Convert a tensor on any device, or anything numpy accepts, to a numpy array."""
    detach = getattr(values, "detach", None)
    return np.asarray(values if detach is None else detach().cpu().numpy())


def array_like(array: Any, values: Any) -> Any:
    """Return `values` as an array of the same type, dtype and device as `array`."""
    make = getattr(array, "new_tensor", None)
    return np.asarray(values, dtype=array.dtype) if make is None else make(values)


@singledispatch
def from_array_like(like: Any, values: NDArray[Any]) -> Any:
    """Return a numpy array as an array of the type of `like`; a tensor stays on the CPU."""
    del values
    raise TypeError(describe_type(like))


@singledispatch
def as_float32(values: Any) -> Any:
    """Return the values as float32, in an array of the same type."""
    raise TypeError(describe_type(values))


@singledispatch
def softmax(logits: Any, axis: int) -> Any:
    """Return the softmax of float logits along `axis`."""
    del axis
    raise TypeError(describe_type(logits))


@singledispatch
def sigmoid(logits: Any) -> Any:
    """Return the logistic function of every value."""
    raise TypeError(describe_type(logits))


@singledispatch
def logit(probs: Any) -> Any:
    """Return the inverse of the logistic function of every value, 0 < value < 1."""
    raise TypeError(describe_type(probs))


@singledispatch
def where(condition: Any, values: Any, other: Any) -> Any:
    """Return `values` where a bool array is True, else `other`; all three of the same type."""
    del values, other
    raise TypeError(describe_type(condition))


@singledispatch
def argsort_descending(scores: Any) -> Any:
    """Return the indices that sort `(N,)` scores from high to low; ties keep their order."""
    raise TypeError(describe_type(scores))


def describe_type(values: Any) -> str:
    """Return the end of an error message on values without a registered function."""
    return f"values of type {type(values).__name__} are neither a numpy array nor a tensor"


@from_array_like.register
def _(like: np.ndarray, values: NDArray[Any]) -> Any:
    del like
    return values


@as_float32.register
def _(values: np.ndarray) -> Any:
    return values.astype(np.float32, copy=False)


@softmax.register
def _(logits: np.ndarray, axis: int) -> Any:
    probs = np.exp(logits - logits.max(axis=axis, keepdims=True))
    probs /= probs.sum(axis=axis, keepdims=True)
    return probs


@sigmoid.register
def _(logits: np.ndarray) -> Any:
    # One branch would overflow for large negative logits.
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))


@logit.register
def _(probs: np.ndarray) -> Any:
    return np.log(probs) - np.log1p(-probs)


@where.register
def _(condition: np.ndarray, values: Any, other: Any) -> Any:
    return np.where(condition, values, other)


@argsort_descending.register
def _(scores: np.ndarray) -> Any:
    return np.argsort(-scores, kind="stable")
