"""Rebuild `catalog.json`: count the cost of every variant and collect the published accuracies.

Run it after timm or torchvision changes:

    python -m resnet_tasks.backbone.build_catalog RESULTS.csv COMMIT

RESULTS.csv is timm's `results/results-imagenet.csv`. COMMIT names the state of timm's repository
that the file comes from (commit and day). Nothing is downloaded.
"""

from __future__ import annotations

import csv
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
from resnet_tasks.files.json_encoding import encode_json

Results = dict[str, list[dict[str, str]]]
IMAGE = (1, 3, 224, 224)


def measure_cost(name: str) -> tuple[int, int]:
    """Count the parameters and multiply-adds of a variant on the meta device.

    Convolutions and matrix products count. Norms, activations and pooling do not.

    Args:
        name: Name of the variant.

    Returns:
        Number of parameters, and number of multiply-adds for one image of 3 x 224 x 224.
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
    """List all weights that timm and torchvision publish for a variant, the default first.

    Args:
        name: Name of the variant.
        results: timm's results: `model.tag` -> table rows, one per image size.
    """
    default = timm.get_pretrained_cfg(name)
    timm_sets = []
    for full in timm.list_pretrained(f"{name}.*"):
        config = timm.get_pretrained_cfg(full)
        # timm lists one row per image size and recommends the largest one for testing.
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
    """Build the content of `catalog.json`."""
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
    """Read the rows of timm's results table, grouped by `model.tag`."""
    rows: Results = {}
    with file.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            rows.setdefault(row["model"], []).append(row)
    return rows


def format_catalog(content: dict[str, Any]) -> str:
    """Format the catalog as JSON with one line per weight set, so that diffs are readable."""
    lines = ["{", f'"sources": {encode_json(content["sources"], indent=2)},', '"variants": {']
    for name, variant in content["variants"].items():
        sets = ",\n".join(f"  {encode_json(weight_set)}" for weight_set in variant["weights"])
        head = {key: variant[key] for key in ("parameters", "multiply_adds")}
        lines.append(f'"{name}": {encode_json(head)[:-1]}, "weights": [\n{sets}]}},')
    return "\n".join(lines).rstrip(",") + "\n}}\n"


if __name__ == "__main__":
    FILE.write_text(
        format_catalog(build_catalog(read_results(Path(sys.argv[1])), sys.argv[2])),
        encoding="utf-8",
    )
