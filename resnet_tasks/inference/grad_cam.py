"""Grad-CAM: the locations of a feature level that support a predicted box, class or pixel region.

Grad-CAM: Selvaraju et al., ICCV 2017, section 3; for a region of pixels: Vinogradova et al., AAAI
2020; HiResCAM: Draelos and Carin, 2020. Existing libraries pin numpy below 2 or install a second
OpenCV, and none supports several heads on one backbone.

Shape glossary: `H, W` padded image, `Hk, Wk` level k, `h, w` original image, `K` classes, `D`
detections.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from resnet_tasks.errors import HeadError, format_allowed
from resnet_tasks.heads.base import Head
from resnet_tasks.model import TaskModel
from resnet_tasks.registry import suggest_nearest
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.samples import Sample, collate
from resnet_tasks.structures.tasks import ExplainedOutput, ExplainedQuestion, Outputs

Method = Literal["gradcam", "hirescam"]


@dataclass(frozen=True)
class ExplanationQuery:
    """Prediction to explain.

    Attributes:
        class_name: Class of the head; None: class of the box, or the class with the strongest
            prediction.
        box: xyxy, pixels of the original image: the detection at this box, or the pixels inside it.
            None: the strongest detection, or all pixels of the class.
    """

    class_name: str | None = None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Explanation:
    """Heat map of the locations of a feature level that support a prediction.

    Attributes:
        heat: `(h, w)` float32, relative to the maximum over the original image (0..1); all 0 if no
            location supports the prediction.
        head: Name of the head.
        level: Feature level, `C1` to `C5`.
        method: `gradcam` or `hirescam`.
        class_name: Explained class.
        box: xyxy, pixels of the original image; None for a whole image or all pixels of a class.
        evidence: Explained logit: of the detection's score, of the class, or the mean over the
            pixels.
        score: Score of the prediction, 0..1: of the detection, of the class, or the mean
            probability over the pixels; None if the predictions of the head have none.
    """

    heat: NDArray[np.float32]
    head: str
    level: str
    method: str
    class_name: str
    box: tuple[float, float, float, float] | None
    evidence: float
    score: float | None = None


def explain(
    model: TaskModel,
    sample: Sample,
    *,
    head: str,
    level: str | None = None,
    query: ExplanationQuery | None = None,
    method: Method | None = None,
) -> Explanation:
    """Explain a prediction of one head for one image by Grad-CAM or HiResCAM.

    The model runs in float32 and evaluation mode, with gradients of the whole model down to
    `level`, frozen stages included.

    Args:
        model: Model in any mode.
        sample: Image; its target is not used.
        head: Name of the head.
        level: Feature level of the backbone; deep levels are more semantic, shallow levels localize
            better. None: the coarsest one that the head uses, C5 for most heads.
        query: Prediction to explain; default: the head's strongest prediction.
        method: `gradcam` weights channels by their mean gradient over the image, which shows all
            evidence for a class regardless of its location; `hirescam` weights every location by
            its own gradient. Default: `gradcam` for a whole image, `hirescam` for a box or the
            pixels inside it.

    Returns:
        Heat map over the original image, and the explained prediction.

    Raises:
        HeadError: If the head, level or class does not exist, or the head does not use the level.
        DataError: If no detection or pixel matches the query.
    """
    resolved_query = query or ExplanationQuery()
    head_module = _get_head(model, head)
    if level is not None and level not in model.specs:
        raise HeadError(f"level {level!r} does not exist; the model has {', '.join(model.specs)}")
    device = model.device
    batch = collate([sample]).to(device)
    with _enable_full_graph(model), torch.enable_grad():
        images = model.normalize(batch.images, [sample.geometry.input_size])
        features = model.compute_features(images.requires_grad_())
        raw = head_module({name: feature.float() for name, feature in features.items()})
        sizes = torch.tensor([sample.geometry.input_size], device=device)
        outputs = head_module.outputs(raw, sizes)
        evidence = _select_explained(head_module, outputs, sample.geometry, resolved_query, head)
        candidates = tuple(reversed(model.backbone.specs)) if level is None else (level,)
        used_level, gradient = _compute_gradient(evidence.value, features, candidates)
    if gradient is None:
        raise HeadError(
            f"head {head} does not use {', '.join(candidates)} (it reads "
            f"{', '.join(head_module.in_levels)}); choose a level that the head reads, or an "
            "earlier one"
        )
    cam_method = method or ("gradcam" if evidence.box is None else "hirescam")
    heat = _compute_heat(features[used_level][0].detach(), gradient[0], cam_method)
    return Explanation(
        heat=_map_to_image(heat, batch.padded_size, sample.geometry),
        head=head,
        level=used_level,
        method=cam_method,
        class_name=head_module.classes[evidence.label],
        box=evidence.box,
        evidence=float(evidence.value.detach()),
        score=evidence.score,
    )


def _get_head(model: TaskModel, name: str) -> Head:
    heads = model.named_heads
    if name not in heads:
        hint = suggest_nearest(name, heads)
        raise HeadError(f"head {name!r} does not exist; the heads are {', '.join(heads)}{hint}")
    return heads[name]


@contextmanager
def _enable_full_graph(model: TaskModel) -> Iterator[None]:
    """Switch to evaluation mode and enable gradients through frozen stages, temporarily."""
    was_training = model.training
    backbone: Any = model.backbone
    frozen = getattr(backbone, "frozen_stages", None)
    model.eval()
    if frozen is not None:
        backbone.frozen_stages = 0
    try:
        yield
    finally:
        if frozen is not None:
            backbone.frozen_stages = frozen
        model.train(was_training)


def _select_explained(
    head: Head, outputs: Outputs, geometry: Geometry, query: ExplanationQuery, name: str
) -> ExplainedOutput:
    label = None
    if query.class_name is not None:
        if query.class_name not in head.classes:
            hint = suggest_nearest(query.class_name, head.classes)
            raise HeadError(
                f"head {name} has no class {query.class_name!r}; its classes are "
                f"{format_allowed(head.classes)}{hint}"
            )
        label = head.classes.index(query.class_name)
    question = ExplainedQuestion(label, query.box, head.classes)
    return head.task_spec.select_explained(outputs, geometry, question)


def _compute_gradient(
    value: Tensor, features: Mapping[str, Tensor], levels: Sequence[str]
) -> tuple[str, Tensor | None]:
    """Return the first level that a value depends on, and its gradient; None if there is none."""
    gradient: Tensor | None = None
    for level in levels:
        if level not in features:  # of a stage that no head reads
            continue
        (gradient,) = torch.autograd.grad(
            value, features[level], allow_unused=True, retain_graph=True
        )
        if gradient is not None:
            break
    return level, gradient


def _compute_heat(feature: Tensor, gradient: Tensor, method: str) -> Tensor:
    """Compute the `(Hk, Wk)` heat map, at least 0, from `(C, Hk, Wk)` features and gradients."""
    feature, gradient = feature.float(), gradient.float()
    if method == "gradcam":
        gradient = gradient.mean(dim=(1, 2), keepdim=True)
    return F.relu((gradient * feature).sum(dim=0))


def _map_to_image(heat: Tensor, padded: tuple[int, int], geometry: Geometry) -> NDArray[np.float32]:
    """Resize a `(Hk, Wk)` heat map to the `(h, w)` original image, with a maximum of 1."""
    padded_heat = F.interpolate(
        heat[None, None], size=padded, mode="bilinear", align_corners=False
    )[0]
    original = geometry.map_to_original(padded_heat)[0]
    strongest = original.max()
    normalized = original / strongest if strongest > 0 else original
    result: NDArray[np.float32] = normalized.cpu().numpy().astype(np.float32)
    return result
