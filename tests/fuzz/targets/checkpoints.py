"""Checkpoints in every layout that a backbone or a whole model is filled from."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from resnet_tasks.assemble.labels import build_labels
from resnet_tasks.assemble.model import build_model
from resnet_tasks.backbone.checkpoints import read_checkpoint
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.backbone.weights_folders import find_in_folder
from resnet_tasks.backbone.weights_request import WeightsRequest
from resnet_tasks.data.coco.categories import Category, CategoryMap
from resnet_tasks.errors import DataError, WeightsError
from resnet_tasks.model import TaskModel
from resnet_tasks.model_weights.fill_model import fill_model
from resnet_tasks.recipe.schema.recipe import Recipe
from tests.fuzz.forms import damage_binary, damage_json_text, damage_safetensors, damage_zip
from tests.fuzz.target import Read, Target, call_all
from tests.support.damage import Damage

Tensors = dict[str, Tensor]
TINY = "test_resnet"


def _build_backbone() -> Tensors:
    """Tensors of two blocks under timm's names, far smaller than those of a variant."""
    torch.manual_seed(0)
    tensors = {"conv1.weight": torch.randn(2, 3, 3, 3)}
    for block in ("layer1.0", "layer2.0"):
        tensors[f"{block}.conv1.weight"] = torch.randn(2, 2, 1, 1)
        tensors[f"{block}.downsample.0.weight"] = torch.randn(2, 2, 1, 1)
        for norm in ("bn1", "downsample.1"):
            for name in ("weight", "bias", "running_mean", "running_var"):
                tensors[f"{block}.{norm}.{name}"] = torch.ones(2)
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensors[f"bn1.{name}"] = torch.ones(2)
    return tensors


def _rename_for_detectron2(tensors: Tensors) -> Tensors:
    renamed = {}
    for key, value in tensors.items():
        name = re.sub(r"^bn1\.", "stem.conv1.norm.", key)
        name = re.sub(r"^conv1\.", "stem.conv1.", name)
        name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
        name = name.replace(".downsample.0.", ".shortcut.")
        name = name.replace(".downsample.1.", ".shortcut.norm.")
        renamed["backbone.bottom_up." + re.sub(r"\.bn(\d)\.", r".conv\1.norm.", name)] = value
    pixels = {"pixel_mean": torch.tensor([103.53, 116.28, 123.675])[:, None, None]}
    return renamed | pixels | {"pixel_std": torch.tensor([57.375, 57.12, 58.395])[:, None, None]}


def _add_prefix(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + key: value for key, value in tensors.items()}


def _build_detector() -> Tensors:
    """A detector under torchvision's names."""
    box = "roi_heads.box_predictor."
    return {
        **_add_prefix("backbone.body.", _build_backbone()),
        "backbone.fpn.inner_blocks.0.0.weight": torch.ones(2, 2, 1, 1),
        "rpn.head.conv.0.0.weight": torch.ones(2, 2, 3, 3),
        "rpn.head.cls_logits.weight": torch.ones(3, 2, 1, 1),
        "roi_heads.box_head.fc6.weight": torch.ones(2, 8),
        f"{box}cls_score.weight": torch.ones(3, 2),
        f"{box}cls_score.bias": torch.ones(3),
        f"{box}bbox_pred.weight": torch.ones(12, 2),
        "roi_heads.mask_predictor.mask_fcn_logits.weight": torch.ones(3, 2, 1, 1),
    }


def _build_unet() -> Tensors:
    """A model under the names of segmentation_models_pytorch."""
    return {
        **_add_prefix("encoder.", _build_backbone()),
        "decoder.blocks.0.conv1.0.weight": torch.ones(2, 4, 3, 3),
        "decoder.blocks.0.conv1.1.weight": torch.ones(2),
        "segmentation_head.0.weight": torch.ones(2, 2, 3, 3),
        "segmentation_head.0.bias": torch.ones(2),
    }


def _save(content: Any, *, is_zip: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=is_zip)
    return stream.getvalue()


def _list_layouts() -> dict[str, Any]:
    tensors = _build_backbone()
    state = _add_prefix("backbone.", tensors)
    return {
        "timm": tensors,
        "detectron2": {"model": _rename_for_detectron2(tensors), "iteration": 3},
        "mmdetection": {"meta": {"CLASSES": ("a", "b")}, "state_dict": state},
        "parallel": {"model_state_dict": _add_prefix("module.", tensors), "epoch": 1},
        "torchvision_detector": _build_detector(),
        "unet": _build_unet(),
    }


def _build_models() -> tuple[TaskModel, ...]:
    small = {"pyramid_channels": 8, "box_head_channels": 8}
    heads = {
        "detector": {"objects": {"type": "faster_rcnn", "options": small}},
        "masks": {"objects": {"type": "mask_rcnn", "options": small}},
        "unet": {"scene": {"type": "unet"}},
    }
    data = {"root": "here", "train": [{"annotations": "a"}], "val": [{"annotations": "a"}]}
    categories = CategoryMap((Category(1, "car"), Category(2, "person")))
    backbone = {"name": TINY, "weights": "none"}
    models = []
    for head in heads.values():
        recipe = Recipe.model_validate(
            {"name": "fuzz", "data": data, "backbone": backbone, "heads": head}
        )
        models.append(build_model(recipe, build_labels(recipe, categories)))
    return tuple(models)


def _prepare(folder: Path, name: str) -> Read:
    path, models = folder / name, _build_models()
    (folder / "config.json").write_bytes(CONFIG)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        _fill(path, models)

    return read


def _fill(path: Path, models: tuple[TaskModel, ...]) -> None:
    """Fill a backbone and whole models; weights that fit none are still read completely."""
    tensors = read_checkpoint(path)
    assert all(isinstance(tensor, Tensor) for tensor in tensors.values())
    calls: list[Callable[[], object]] = [lambda: ResNet(TINY, weights=str(path))]
    calls += [lambda model=model: fill_model(model, str(path)) for model in models]  # type: ignore[misc]
    for call in calls:
        try:
            call()
        except WeightsError:
            continue


CONFIG = b"""{"_model_class": "Unet", "encoder_name": "resnet18", "encoder_depth": 5,
"decoder_channels": [16, 8, 4, 2, 1], "in_channels": 3, "classes": 2}"""


def _prepare_config(folder: Path) -> Read:
    (folder / "model.safetensors").write_bytes(save(_build_unet()))
    unet = _build_models()[-1]

    def read(content: bytes) -> None:
        (folder / "config.json").write_bytes(content)
        call_all(
            (
                lambda: fill_model(unet, str(folder)),
                lambda: find_in_folder(WeightsRequest(str(folder)), folder, "last"),
            ),
            (WeightsError, DataError),
        )

    return read


def _list_seeds(encode: Callable[[Any], bytes], suffix: str) -> Mapping[str, bytes]:
    return {f"{name}{suffix}": encode(content) for name, content in _list_layouts().items()}


def _flatten(content: Any) -> bytes:
    for key in ("model", "state_dict", "model_state_dict"):
        content = content.get(key, content)
    return save({name: tensor.contiguous() for name, tensor in content.items()})


def _list_targets() -> list[Target]:
    kinds: dict[str, tuple[str, Callable[[Any], bytes], Damage]] = {
        "safetensors": (".safetensors", _flatten, damage_safetensors),
        "pth": (".pth", _save, damage_zip),
        "pth_legacy": (".pth", lambda content: _save(content, is_zip=False), damage_binary),
    }
    found = []
    for name, (suffix, encode, damage) in kinds.items():
        found.append(
            Target(
                f"checkpoint_{name}",
                lambda folder, suffix=suffix: _prepare(folder, f"net{suffix}"),
                lambda encode=encode, suffix=suffix: _list_seeds(encode, suffix),
                damage,
                (WeightsError,),
            )
        )
    found.append(
        Target(
            "checkpoint_config",
            _prepare_config,
            lambda: {"config.json": CONFIG},
            damage_json_text,
            (WeightsError, DataError),
        )
    )
    return found


CHECKPOINTS = _list_targets()
