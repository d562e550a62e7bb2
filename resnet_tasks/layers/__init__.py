"""Layers, box operations and losses that several heads share; building blocks for custom heads.

| task | module |
|---|---|
| pyramid over C2..C5 or C3..C5, with pooled or convolved levels above it | `feature_pyramid` |
| tower of convolutions on every level | `towers` |
| anchors, centers of cells | `anchors` |
| boxes from deltas or distances, clipping | `box_coders` |
| boxes or points to objects, ignore regions | `matchers` |
| random candidates for the loss | `samplers` |
| non-maximum suppression of all groups in one call, detections of one-stage detectors | `nms` |
| pooled features of boxes | `roi_align` |
| layers on pooled boxes, in eager mode and in exported graphs | `roi_layers` |
| mask targets of boxes | `mask_targets` |
| focal, IoU, GIoU, L1 and smooth L1 losses | `detection_losses` |
| cross entropy, focal, hard-pixel, Dice and Tversky losses of label maps | `segmentation_losses` |
| Lovász and boundary losses, pooling and norms of decoders | `segmentation/` |
| dropout from the seeds of the images | `dropout` |
| checks of strides, norms | `strides`, `norms` |
| operations that a traced graph records for any input size | `tracing` |

`efficiency/` and `folded_norms` save memory and time without changing results.
"""
