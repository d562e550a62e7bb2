"""Images of any depth and number of channels: from the file to the tensor to the prediction."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
import yaml
from rich.console import Console
from safetensors.torch import save_file

from resnet_tasks.backbone import resnet
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.errors import DataError, RecipeError
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.inference.predict_images import as_predictor, predict_images
from resnet_tasks.inference.streaming.stream_predictor import PredictorStream
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.load import load_data_settings, load_recipe
from resnet_tasks.recipe.schema.data import NormalizeRecipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.runs.run import Run, load
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap
from resnet_tasks.structures.samples import collate
from resnet_tasks.training.finetune_recipe import finetune_recipe
from resnet_tasks.visualization.drawing import draw_prediction
from resnet_tasks.visualization.thumbnails import to_canvas

SIZE = (64, 96)
LIGHT_UNET = {"decoder_channels": [16, 16, 8, 8, 8]}


def stored(channels: int, kind: str, seed: int = 0) -> Any:
    """An image over the whole range of a type; floats in 0..1."""
    values = np.random.default_rng(seed).random((*SIZE, channels))
    return (values if kind == "float32" else values * np.iinfo(kind).max).astype(kind)


def write(path: Path, pixels: Any) -> Path:
    channels = pixels.shape[2]
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".tif":
        gray = channels == 1
        tifffile.imwrite(
            path,
            pixels[:, :, 0] if gray else pixels,
            photometric="rgb" if channels == 3 else "minisblack",
            planarconfig=None if gray else "contig",
        )
    else:
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
        assert cv2.imwrite(str(path), pixels[:, :, order])
    return path


def write_coco(folder: Path, names: list[str], size: tuple[int, int] = SIZE) -> Path:
    """Images with a label map each: the left half is `left`, the right half unlabeled."""
    labels = np.zeros(size, np.uint8)
    labels[:, : size[1] // 2] = 1
    cv2.imwrite(str(folder / "map.png"), labels)
    record = {
        "images": [
            {
                "id": i,
                "file_name": name,
                "height": size[0],
                "width": size[1],
                "sem_seg_file_name": "map.png",
            }
            for i, name in enumerate(names)
        ],
        "annotations": [],
        "categories": [{"id": 1, "name": "left"}],
    }
    (folder / "a.json").write_text(json.dumps(record))
    return folder / "a.json"


def small_model(channels: int) -> TaskModel:
    torch.manual_seed(1)
    backbone = ResNet("resnet10t", in_channels=channels)
    classes = ("background", "left")
    return TaskModel(backbone, {"scene": UNet(backbone.specs, classes, LIGHT_UNET)}).eval()


FILES = [
    (channels, kind, suffix)
    for channels in (1, 2, 3, 4, 7)
    for kind in ("uint8", "uint16", "float32")
    for suffix in ("png", "tif", "npy")
    if suffix != "png" or (kind != "float32" and channels in (1, 3, 4))
]


@pytest.mark.parametrize(("channels", "kind", "suffix"), FILES)
def test_from_file_to_tensor_to_prediction(
    tmp_path: Path, channels: int, kind: str, suffix: str
) -> None:
    pixels = stored(channels, kind)
    path = write(tmp_path / f"a.{suffix}", pixels)
    coco = read_coco(write_coco(tmp_path, [path.name]))
    sample = CocoDataset([coco], categories=coco.categories, preparation=Preparation(channels))[0]
    largest = 1 if kind == "float32" else np.iinfo(kind).max
    exact = (pixels.astype(np.float64) / largest).astype(np.float32)
    assert sample.image.dtype == torch.float32
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), exact)
    model, preparation = small_model(channels), Preparation(channels)
    image = PredictorStream(as_predictor(model), preparation).read(path, "a")
    assert np.array_equal(image.render_overview(), to_canvas(pixels, preparation))
    from_file = predict_images(model, [path], preparation, precision="fp32")[0]
    in_memory = predict_images(model, [pixels], preparation, precision="fp32")[0]
    direct = model.predict(collate([sample]))["scene"][0]
    assert direct.probs.shape == (2, *SIZE)
    for other in (from_file["scene"], in_memory["scene"]):
        assert torch.equal(other.probs, direct.probs)
    drawn = draw_prediction(image.render_overview(), from_file, {"scene": ("background", "left")})
    assert (drawn.shape, drawn.dtype) == ((*SIZE, 3), np.uint8)
    losses = model(collate([sample]), mode="loss")
    assert all(torch.isfinite(term.sum) for term in losses.values())


@pytest.mark.parametrize(("wanted", "remedy"), [(3, 5), (1, 5), (4, 5)])
def test_file_of_other_channels_gets_one_sentence(tmp_path: Path, wanted: int, remedy: int) -> None:
    path = write(tmp_path / "a.tif", stored(5, "uint16"))
    with pytest.raises(DataError, match=rf"a\.tif has 5 .*channels={wanted}; .*channels={remedy}"):
        predict_images(small_model(wanted), [path], Preparation(wanted))


# --- The stem


def stem_and_constants(folder: Path, channels: int) -> tuple[Any, Any, ResNet]:
    torch.manual_seed(0)
    original = ResNet("resnet18")
    save_file(original.state_dict(), folder / "w.safetensors")
    adapted = ResNet("resnet18", weights=str(folder / "w.safetensors"), in_channels=channels)
    return original.conv1.weight.detach(), adapted.conv1.weight.detach(), adapted


def test_stem_for_other_channels(tmp_path: Path) -> None:
    for channels in (1, 2, 4, 7):
        given, made, backbone = stem_and_constants(tmp_path, channels)
        if channels == 1:
            expected = given.sum(1, keepdim=True)
            assert backbone.mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))
        else:
            columns = [given[:, i % 3] for i in range(channels)]
            expected = torch.stack(columns, 1) * (3 / channels)
            mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
            assert backbone.mean == tuple(mean[i % 3] for i in range(channels))
            assert backbone.std == tuple(std[i % 3] for i in range(channels))
        assert torch.allclose(made, expected, atol=1e-6)


def test_equal_channels_keep_the_response_of_the_stem(tmp_path: Path) -> None:
    """Where all channels hold one normalized image, the adapted stem answers as the original."""
    image = torch.randn(1, 1, 32, 32)
    for channels in (1, 6):
        given, made, _ = stem_and_constants(tmp_path, channels)
        wanted = torch.nn.functional.conv2d(image.expand(1, 3, 32, 32), given)
        got = torch.nn.functional.conv2d(image.expand(1, channels, 32, 32), made)
        assert torch.allclose(got, wanted, atol=1e-5)


# --- Recipes: a window over 16 bits, constants of the data


def recipe_over(folder: Path, **data: Any) -> Recipe:
    sources = {split: [{"annotations": "a.json"}] for split in ("train", "val")}
    document = {
        "data": {"root": str(folder), **sources, "allow_leaks": True, "workers": 0, **data},
        "backbone": {"name": "resnet10t", "weights": "none"},
        "heads": {"scene": {"type": "unet", "background": True, "options": LIGHT_UNET}},
        "training": {
            "epochs": 1,
            "batch_size": 2,
            "precision": "fp32",
            "device": "cpu",
            "ema": 0.5,
        },
        "evaluation": {"resamples": 0},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(document))
    return load_recipe(folder / "tiny.yaml")


def train(recipe: Recipe, out: Path) -> Run:
    console = Console(file=io.StringIO(), width=200)
    run = finetune_recipe(recipe, out=out, console=console)
    assert run is not None
    return run


STEPS: list[dict[str, Any]] = [
    {"type": "window", "level": 30_000, "width": 40_000},
    {"type": "percentile", "low": 5, "high": 90},
]


def by_hand(pixels: Any, step: dict[str, Any]) -> Any:
    """The intensity steps as the documentation states them."""
    values = pixels.astype(np.float64)
    low, high = 10_000.0, 50_000.0
    if step["type"] == "percentile":
        low, high = np.percentile(values, (step["low"], step["high"]))
    return np.clip((values - low) / (high - low), 0, 1)


@pytest.mark.parametrize("step", STEPS, ids=["window", "percentile"])
def test_steps_of_the_recipe_are_those_of_the_reopened_run(
    tmp_path: Path, step: dict[str, Any]
) -> None:
    names = [f"{i}.png" for i in range(4)]
    images = [stored(1, "uint16", seed) for seed in range(4)]
    for name, pixels in zip(names, images, strict=True):
        write(tmp_path / name, pixels)
    write_coco(tmp_path, names)
    recipe = recipe_over(tmp_path, channels=1, intensity=step, normalize="data")
    run = train(recipe, tmp_path / "run")

    ready = np.concatenate([by_hand(each, step).ravel() for each in images])
    constants = run.recipe.data.normalize
    assert isinstance(constants, NormalizeRecipe)
    assert constants.mean == pytest.approx((ready.mean(),), abs=1e-6)
    assert constants.std == pytest.approx((ready.std(),), abs=1e-6)

    # A second process sees the folder only.
    opened = load(tmp_path / "run")
    assert opened.recipe == run.recipe
    model = opened.load_model()
    assert torch.equal(model.mean, torch.tensor(constants.mean))
    assert torch.equal(model.std, torch.tensor(constants.std))
    new = stored(1, "uint16", 9)
    from_file = opened.predict(write(tmp_path / "new.tif", new))["scene"]
    in_process = run.predict(new)["scene"]
    assert isinstance(from_file, SegmentationMap)
    assert torch.equal(from_file.probs, in_process.probs)

    # The same by hand: step, constants, network.
    normal = (by_hand(new, step) - constants.mean[0]) / constants.std[0]
    image = torch.from_numpy(normal.astype(np.float32)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        image = image.contiguous(memory_format=torch.channels_last)
        features = model.backbone(image)
        probs = model.named_heads["scene"](features)["logits"][0].softmax(0)
    assert torch.allclose(from_file.probs, probs, atol=1e-4)

    # Going on with it keeps the constants, and so does the recipe of the folder.
    again = load_recipe(tmp_path / "run/recipe.yaml")
    assert again.data.normalize == constants
    finetune_recipe(again, resume=tmp_path / "run", console=Console(file=io.StringIO()))
    assert torch.equal(load(tmp_path / "run").load_model().mean, model.mean)


def test_constants_of_the_weights_survive_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of 0.5/0.5, as some of timm's tags have: a reopened run knows nothing of them."""
    write(tmp_path / "0.png", stored(3, "uint8"))
    write(tmp_path / "1.png", stored(3, "uint8", 1))
    write_coco(tmp_path, ["0.png", "1.png"])
    torch.manual_seed(0)
    save_file(ResNet("resnet10t").state_dict(), tmp_path / "w.safetensors")
    original = resnet.load_weights

    def halves(*args: Any, **options: Any) -> Any:
        report = original(*args, **options)
        return replace(report, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    monkeypatch.setattr(resnet, "load_weights", halves)
    recipe = recipe_over(tmp_path)
    weights = recipe.backbone.model_copy(update={"weights": str(tmp_path / "w.safetensors")})
    train(recipe.model_copy(update={"backbone": weights}), tmp_path / "run")
    monkeypatch.undo()
    (tmp_path / "w.safetensors").unlink()
    model = load(tmp_path / "run").load_model()
    assert model.mean.tolist() == [0.5, 0.5, 0.5]
    assert model.std.tolist() == [0.5, 0.5, 0.5]


def test_constants_of_the_recipe_go_into_the_model(tmp_path: Path) -> None:
    write(tmp_path / "0.npy", stored(2, "uint16"))
    write_coco(tmp_path, ["0.npy"])
    constants = {"mean": [0.25, 0.5], "std": [0.125, 2.0]}
    recipe = recipe_over(tmp_path, channels=2, normalize=constants)
    assert train(recipe, tmp_path / "run").load_model().mean.tolist() == [0.25, 0.5]
    assert load(tmp_path / "run").load_model().std.tolist() == [0.125, 2.0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.normalize=dta", r"data.normalize: got \"dta\"; allowed is one of 'weights', 'data'"),
        ("data.normalize={mean: [0.5], std: [1]}", r"normalize.mean has 1 value.*channels=3"),
        (
            "data.normalize={mean: [0, 0, 0], std: [1, 0, 1]}",
            r"data.normalize.std.1: got 0;.*above",
        ),
        ("data.normalize={mean: [0, 0, 0]}", r"data.normalize.std is missing"),
    ],
)
def test_wrong_constants_are_explained(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("quickstart", [override])


def test_model_refuses_constants_of_other_channels() -> None:
    model = small_model(2)
    with pytest.raises(RecipeError, match=r"mean has 3 values, but the model takes 2 channels"):
        model.set_normalization((0.5, 0.5, 0.5), (1.0, 1.0))
    with pytest.raises(RecipeError, match=r"std is \[1.0, 0.0\]; every value must be above 0"):
        model.set_normalization((0.5, 0.5), (1.0, 0.0))


def test_color_augmentation_on_many_channels_stops_before_training(tmp_path: Path) -> None:
    write(tmp_path / "0.npy", stored(5, "uint16"))
    write_coco(tmp_path, ["0.npy"])
    recipe = recipe_over(tmp_path, channels=5).model_copy(
        update={"augment": ({"ColorJitter": {}},)}
    )
    with pytest.raises(RecipeError, match=r"augment.0.ColorJitter supports only images of 3"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_steps_on_the_command_line_are_checked_like_a_recipe() -> None:
    steps = load_data_settings(["data.channels=2", "data.intensity.type=percentile"])
    assert (steps.channels, steps.intensity.type) == (2, "percentile")
    with pytest.raises(RecipeError, match=r"'data.resize.*only data.channels and data.intensity"):
        load_data_settings(["data.resize.height=64", "data.resize.width=64"])
    with pytest.raises(RecipeError, match=r"data.channels: got 0; allowed is a whole number"):
        load_data_settings(["data.channels=0"])
