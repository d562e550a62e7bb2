"""Rules on decoded predictions: types, shapes, ranges and original pixels."""

from __future__ import annotations

from typing import Any

import torch

from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap
from resnet_tasks.testing.head_under_test import HeadUnderTest


def check_decoding(subject: HeadUnderTest) -> None:
    """Require one valid prediction per image from `decode`."""
    head, batch = subject.build(training=False), subject.make_batch()
    raw = head(subject.make_features(batch))
    with subject.report_failures("decode"), torch.no_grad():
        predictions = head.decode(raw, batch.geometries)
    subject.require(
        isinstance(predictions, list) and len(predictions) == len(batch),
        f"decode must give a list of one prediction per image ({len(batch)}), got "
        f"{type(predictions).__name__} of {len(predictions)}",
    )
    for prediction, geometry in zip(predictions, batch.geometries, strict=True):
        if head.task.name == "detection":
            _require_detections(subject, prediction, geometry)
        elif head.task.name == "semantic_segmentation":
            _require_segmentation_map(subject, prediction, geometry)
        elif head.task.name == "classification":
            _require_classification(subject, prediction)


def _require_detections(subject: HeadUnderTest, prediction: Any, geometry: Geometry) -> None:
    subject.require(
        isinstance(prediction, Detections),
        f"a detection head must decode into Detections, got {type(prediction).__name__}",
    )
    height, width = geometry.original_size
    boxes, scores, labels = prediction.boxes, prediction.scores, prediction.labels
    subject.require(
        boxes.shape == (len(scores), 4) and labels.shape == scores.shape == (len(scores),),
        "boxes, scores and labels must have the shapes (N, 4), (N,) and (N,), got "
        f"{tuple(boxes.shape)}, {tuple(scores.shape)} and {tuple(labels.shape)}",
    )
    subject.require(
        boxes.dtype == scores.dtype == torch.float32 and labels.dtype == torch.int64,
        "boxes and scores must be float32 and labels int64, got "
        f"{boxes.dtype}, {scores.dtype} and {labels.dtype}",
    )
    inside = (boxes >= 0) & (boxes <= boxes.new_tensor([width, height, width, height]))
    ordered = (boxes[:, :2] < boxes[:, 2:]).all()
    subject.require(
        bool(inside.all()) and bool(ordered),
        f"decoded boxes must be xyxy inside the original image of {height} x {width} pixels",
    )
    subject.require(
        bool(((scores >= 0) & (scores <= 1)).all()) and bool((scores.diff() <= 0).all()),
        "scores must lie in 0..1 and be in descending order",
    )
    subject.require(
        bool(((labels >= 0) & (labels < len(subject.classes))).all()),
        f"labels must be indices into the {len(subject.classes)} classes",
    )


def _require_segmentation_map(subject: HeadUnderTest, prediction: Any, geometry: Geometry) -> None:
    subject.require(
        isinstance(prediction, SegmentationMap),
        f"a semantic head must decode into SegmentationMap, got {type(prediction).__name__}",
    )
    labels, probs = prediction.labels, prediction.probs
    shape = (len(subject.classes), *geometry.original_size)
    subject.require(
        tuple(labels.shape) == shape[1:] and tuple(probs.shape) == shape,
        f"labels and probs must have the original image's size, {shape[1:]} and {shape}, "
        f"got {tuple(labels.shape)} and {tuple(probs.shape)}",
    )
    subject.require(
        labels.dtype == torch.int64 and probs.dtype == torch.float32,
        f"labels must be int64 and probs float32, got {labels.dtype} and {probs.dtype}",
    )
    subject.require(
        bool(((labels >= 0) & (labels < len(subject.classes))).all()),
        f"labels must be indices into the {len(subject.classes)} classes",
    )
    subject.require(
        bool((probs.sum(dim=0) - 1).abs().max() < 1e-4) and bool((probs >= 0).all()),
        "the probabilities of a pixel must lie in 0..1 and sum to 1 over classes",
    )


def _require_classification(subject: HeadUnderTest, prediction: Any) -> None:
    subject.require(
        isinstance(prediction, Classification),
        f"a classification head must decode into Classification, got {type(prediction).__name__}",
    )
    probs, shape = prediction.probs, (len(subject.classes),)
    subject.require(
        tuple(probs.shape) == shape and probs.dtype == torch.float32,
        f"probs must be float32 of shape {shape}, one per class, got {probs.dtype} of shape "
        f"{tuple(probs.shape)}",
    )
    subject.require(
        bool(((probs >= 0) & (probs <= 1)).all()), "the probabilities of an image must lie in 0..1"
    )
    subject.require(
        prediction.is_multi_label or abs(float(probs.sum()) - 1) < 1e-4,
        f"the probabilities of an image must sum to 1 unless `is_multi_label`, got "
        f"{float(probs.sum()):.6g}",
    )
