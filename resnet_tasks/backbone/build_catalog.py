"""Makes the catalog anew: counts every variant and collects the published figures.

Run it where timm or torchvision changed:

    python -m resnet_tasks.backbone.build_catalog RESULTS.csv COMMIT

RESULTS.csv is timm's `results/results-imagenet.csv`, COMMIT says of which state of its repository
(commit and day). Nothing is downloaded.
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from resnet_tasks.backbone.catalog import FILE, WeightSet
from resnet_tasks.backbone.family import list_backbones
from resnet_tasks.backbone.resnet import ResNet

Results = dict[str, list[dict[str, str]]]
IMAGE = (1, 3, 224, 224)


def measure_cost(name: str) -> tuple[int, int]:
    """Parameters and multiply-adds of a variant, from its shapes alone.

    Convolutions and matrix products count; norms, activations and pooling do not.
    """
    with torch.device("meta"):
        backbone = ResNet(name).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            backbone(torch.empty(IMAGE))
    return sum(
        parameter.numel() for parameter in backbone.parameters()
    ), counter.get_total_flops() // 2


def list_weight_sets(name: str, results: Results) -> list[WeightSet]:
    """All weights that timm and torchvision publish for a variant, the default first.

    Args:
        name: The variant.
        results: timm's table: model and tag -> rows, one per image size.
    """
    default = timm.get_pretrained_cfg(name)
    timm_sets = []
    for full in timm.list_pretrained(f"{name}.*"):
        config = timm.get_pretrained_cfg(full)
        # The largest image is the size at which timm recommends to test.
        best = max(results.get(full, []), key=lambda row: int(row["img_size"]), default=None)
        tag = full.partition(".")[2]
        timm_sets.append(
            WeightSet(
                f"timm:{tag}",
                None if best is None else round(float(best["top1"]) / 100, 5),
                None if best is None else int(best["img_size"]),
                config.license or "not stated",
                is_default=default is not None and tag == default.tag,
            )
        )
    timm_sets.sort(key=lambda weight_set: not weight_set.is_default)
    return timm_sets + _list_torchvision_sets(name)


def _list_torchvision_sets(name: str) -> list[WeightSet]:
    if name not in torchvision.models.list_models(module=torchvision.models):
        return []
    return [
        WeightSet(
            f"torchvision:{weights.name}",
            round(weights.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100, 5),
            weights.transforms().crop_size[0],
            "bsd-3-clause",
        )
        for weights in torchvision.models.get_model_weights(name)
    ]


def build_catalog(results: Results, state: str) -> dict[str, Any]:
    """The content of the catalog's file."""
    variants = {}
    for name in list_backbones():
        parameters, multiply_adds = measure_cost(name)
        variants[name] = {
            "parameters": parameters,
            "multiply_adds": multiply_adds,
            "weights": [asdict(weight_set) for weight_set in list_weight_sets(name, results)],
        }
    return {
        "sources": {
            "top1 of timm:*": f"huggingface/pytorch-image-models, results/results-imagenet.csv, "
            f"{state}; the row of the largest images",
            "top1 of torchvision:*": f"meta data of the weight enums of torchvision "
            f"{torchvision.__version__.partition('+')[0]}",
            "licenses": f"pretrained configurations of timm {timm.__version__}; torchvision's own",
            "parameters and multiply_adds": (
                "counted by resnet_tasks.backbone.build_catalog, without classifier, 3 x 224 x 224"
            ),
        },
        "variants": variants,
    }


def read_results(file: Path) -> Results:
    """The rows of timm's table by model and tag."""
    rows: Results = {}
    with file.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            rows.setdefault(row["model"], []).append(row)
    return rows


def format_catalog(content: dict[str, Any]) -> str:
    """JSON with a line per weight set, so that changes read well."""
    lines = ["{", f'"sources": {json.dumps(content["sources"], indent=2)},', '"variants": {']
    for name, variant in content["variants"].items():
        sets = ",\n".join(f"  {json.dumps(weight_set)}" for weight_set in variant["weights"])
        head = {key: variant[key] for key in ("parameters", "multiply_adds")}
        lines.append(f'"{name}": {json.dumps(head)[:-1]}, "weights": [\n{sets}]}},')
    return "\n".join(lines).rstrip(",") + "\n}}\n"


if __name__ == "__main__":
    FILE.write_text(
        format_catalog(build_catalog(read_results(Path(sys.argv[1])), sys.argv[2])),
        encoding="utf-8",
    )
