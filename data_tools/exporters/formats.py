"""Formats that COCO files can be exported to."""

from __future__ import annotations

from data_tools.formats import Format
from resnet_tasks.registry import Registry

EXPORTS: Registry[Format] = Registry("export format", group="resnet_tasks.exports")
"""Name -> format; the `convert` functions of these formats take (splits, out)."""

for _name, _entry_point, _title in (
    (
        "yolo",
        "data_tools.exporters.yolo:export_yolo",
        "data.yaml, and a text file of boxes or polygons per image",
    ),
    ("voc", "data_tools.exporters.voc:export_voc", "Pascal VOC: one XML of boxes per image"),
):
    EXPORTS.register(_name)(Format(_name, _entry_point, _title))
