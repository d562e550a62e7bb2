"""Inputs of layers that are cheap to make are made again in the backward instead of being kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from resnet_tasks.layers.tracing import is_traced


def apply_with_recomputation(
    layer: Callable[[Tensor], Tensor], make: Callable[..., Tensor], *inputs: Tensor
) -> Tensor:
    """`layer(make(*inputs))`, whose backward keeps `inputs` in the place of what `make` made.

    Worth it where the inputs are kept anyway, by those that made them, and `make` is a copy such
    as an upsampling or a concatenation: memory for one more copy in the backward. Values and
    gradients are the same to the last bit.

    Args:
        layer: Is called once; what it keeps of its input is replaced, other things are not.
        make: Depends on `inputs` alone.
        inputs: Must not be changed in place before the backward.

    Raises:
        RuntimeError: In the backward, if an input was changed in place.
    """
    layer_input = make(*inputs)
    if not torch.is_grad_enabled() or is_traced():
        return layer(layer_input)
    address, shape, versions = (
        layer_input.data_ptr(),
        layer_input.shape,
        [tensor._version for tensor in inputs],
    )
    saved_inputs = tuple(tensor.detach() for tensor in inputs)

    def pack(tensor: Tensor) -> Tensor | None:
        same = (
            tensor.data_ptr() == address and tensor.shape == shape and tensor.dtype == input_dtype
        )
        return None if same else tensor

    def unpack(packed: Tensor | None) -> Tensor:
        if packed is not None:
            return packed
        if [tensor._version for tensor in saved_inputs] != versions:
            raise RuntimeError("an input of a layer was changed in place before its backward")
        with torch.no_grad():
            return make(*saved_inputs)

    input_dtype = layer_input.dtype
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return layer(layer_input)
