"""Names of files, and what is written of predictions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_tasks.data.images.find_images import find_images, make_output_names
from resnet_tasks.data.images.intensity import Intensity
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.errors import DataError
from resnet_tasks.inference.prediction_writer import PredictionWriter
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap
from resnet_tasks.visualization.colors import get_label_color
from resnet_tasks.visualization.thumbnails import to_canvas, write_image


def test_folders_are_searched_and_files_taken_as_named(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "notes.txt", "scan"):
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below/c.png").touch()
    assert find_images([tmp_path]) == [tmp_path / "a.jpg", tmp_path / "b.PNG"]
    named = [tmp_path / "scan", tmp_path / "a.jpg", tmp_path]
    assert [each.name for each in find_images(named)] == ["scan", "a.jpg", "b.PNG"]
    assert find_images([tmp_path / "**/*.png"]) == [tmp_path / "below/c.png"]


def test_nothing_found_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no image"):
        find_images([tmp_path])
    with pytest.raises(DataError, match=r"gone\.png does not exist"):
        find_images([tmp_path / "gone.png"])


def test_names_of_outputs_are_unique() -> None:
    files = [Path(each) for each in ("x/a.png", "y/a.jpg", "a-2.png", "b.png", "z/a.png")]
    assert make_output_names(files) == ["a", "a-2", "a-2-2", "b", "a-3"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["n" * 251 + ".png"] * 2, ["n" * 251, "n" * 249 + "-2"]),
        (
            ["n" * 255, "n" * 252 + ".py", "n" * 251],
            ["n" * 251, "n" * 249 + "-2", "n" * 249 + "-3"],
        ),
        (["\u00e4" * 125 + ".png"] * 2, ["\u00e4" * 125, "\u00e4" * 124 + "-2"]),
        (
            ["\U0001f600" * 62 + "abc.png"] * 2,
            ["\U0001f600" * 62 + "abc", "\U0001f600" * 62 + "a-2"],
        ),
        (["\udcff" * 250 + ".png"] * 2, ["\udcff" * 250, "\udcff" * 249 + "-2"]),
        (["...mp4", "..png", "...mp4.png"], ["...mp4", "..png", "...mp4-2"]),
    ],
)
def test_names_of_outputs_are_valid(names: list[str], expected: list[str], tmp_path: Path) -> None:
    """The suffix `.png` leaves 251 of the 255 bytes of a file name."""
    output_names = make_output_names([Path(str(i), name) for i, name in enumerate(names)])
    assert output_names == expected
    writer = PredictionWriter(tmp_path / "out", {"objects": ("a", "b")}, {"objects": (1, 2)})
    for name in output_names:
        writer.draw(name, np.zeros((4, 4, 3), np.uint8), {})
        writer.draw(f"{name}/000001", np.zeros((4, 4, 3), np.uint8), {})
    drawings = tmp_path / "out/overlays"
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert {path.name for path in drawings.iterdir() if path.is_file()} == {
        f"{name}.png" for name in expected
    }
    assert {path.parent.name for path in drawings.glob("*/000001.png")} == set(expected)


def detections() -> Detections:
    boxes = torch.tensor([[1.0, 2, 4, 8], [0, 0, 2, 2]])
    return Detections(boxes, torch.tensor([0.75, 0.25]), torch.tensor([1, 0]))


def test_results_have_the_ids_of_the_file(tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path, {"objects": ("a", "b")}, {"objects": (3, 90)})
    writer.write(17, "x", {"objects": detections()})
    writer.write("p/2", "y", {"objects": detections().filter_by_score(0.5)})
    first = {"image_id": 17, "category_id": 90, "bbox": [1, 2, 3, 6], "score": 0.75}
    second = {"image_id": 17, "category_id": 3, "bbox": [0, 0, 2, 2], "score": 0.25}
    assert writer.results == {"objects": [first, second, {**first, "image_id": "p/2"}]}


def test_weak_detections_are_not_written(tmp_path: Path) -> None:
    writer = PredictionWriter(
        tmp_path, {"objects": ("a", "b")}, {"objects": (3, 90)}, least_score=0.5
    )
    writer.write(1, "x", {"objects": detections()})
    assert [each["score"] for each in writer.results["objects"]] == [0.75]


def test_every_label_can_have_its_own_threshold(tmp_path: Path) -> None:
    """Scores 0.75 of b and 0.25 of a; b needs 0.8, a exactly what it has."""
    writer = PredictionWriter(
        tmp_path,
        {"objects": ("a", "b")},
        {"objects": (3, 90)},
        thresholds={"objects": (0.25, 0.8)},
    )
    writer.write(1, "x", {"objects": detections()})
    assert [each["category_id"] for each in writer.results["objects"]] == [3]
    gray = np.full((40, 40, 3), 128, np.uint8)
    drawn = np.asarray(Image.open(writer.draw("x", gray, {"objects": detections()})))
    assert (drawn != 128).any()  # 0.25 is drawn, although it lies below one half
    strict = PredictionWriter(
        tmp_path, {"objects": ("a", "b")}, {"objects": (3, 90)}, thresholds={"objects": (0.3, 0.8)}
    )
    drawn = np.asarray(Image.open(strict.draw("y", gray, {"objects": detections()})))
    assert (drawn == 128).all()


def test_classes_are_written_best_first_with_the_ids_of_the_file(tmp_path: Path) -> None:
    found = Classification(torch.tensor([0.25, 0.5, 0.25]))
    writer = PredictionWriter(tmp_path, {"kind": ("a", "b", "c")}, {"kind": (3, 90, 1)})
    writer.write(17, "x", {"kind": found})
    whole = {"image_id": 17, "category_ids": [90, 3, 1], "scores": [0.5, 0.25, 0.25]}
    assert writer.results == {"kind": [whole]}
    strict = PredictionWriter(tmp_path, {}, {"kind": (3, 90, 1)}, least_score=0.3)
    strict.write(17, "x", {"kind": found})
    assert strict.results["kind"] == [{"image_id": 17, "category_ids": [90], "scores": [0.5]}]


@pytest.mark.parametrize(("ids", "kind"), [((0, 7, 254), np.uint8), ((0, 7, 255), np.uint16)])
def test_maps_hold_category_ids(tmp_path: Path, ids: tuple[int, ...], kind: Any) -> None:
    writer = PredictionWriter(tmp_path, {"scene": ("background", "a", "b")}, {"scene": ids})
    labels = torch.tensor([[0, 1, 2]])
    writer.write(1, "x", {"scene": SegmentationMap(labels, torch.zeros(3, 1, 3))})
    with Image.open(tmp_path / "scene/x.png") as image:
        values = np.asarray(image)
        mode, colors = image.mode, np.asarray(image.convert("RGB"))
    assert values.astype(int).tolist() == [list(ids)]
    assert (values.dtype.itemsize == 1) == (kind is np.uint8)
    assert writer.results == {}
    assert (mode == "P") == (kind is np.uint8)  # a PNG of 16 bits cannot have a palette
    if mode == "P":
        assert colors[0].tolist() == [[0, 0, 0], [*get_label_color(0)], [*get_label_color(1)]]
    assert read_label_map(tmp_path / "scene/x.png").tolist() == [list(ids)]


def test_maps_of_300_classes_keep_their_ids(tmp_path: Path) -> None:
    classes, ids = tuple(map(str, range(300))), tuple(range(1, 301))
    writer = PredictionWriter(tmp_path, {"scene": classes}, {"scene": ids})
    labels = torch.arange(300)[None]
    writer.write(1, "x", {"scene": SegmentationMap(labels, None)})
    assert read_label_map(tmp_path / "scene/x.png").tolist() == [list(ids)]


def test_pixels_have_the_color_of_boxes_of_their_class(tmp_path: Path) -> None:
    """The scene has a background and all categories, the detector only one of them."""
    classes = {"scene": ("background", "b", "a"), "objects": ("b",)}
    ids = {"scene": (0, 2, 1), "objects": (2,)}
    writer = PredictionWriter(tmp_path, classes, ids, categories=("b", "a"))
    box = Detections(
        torch.tensor([[10.0, 15, 30, 35]]), torch.tensor([0.9]), torch.zeros(1, dtype=torch.int64)
    )
    labels = torch.zeros(40, 40, dtype=torch.int64)
    labels[20:30, 15:25] = 1
    scene = SegmentationMap(labels, None)
    writer.write(1, "x", {"scene": scene})
    with Image.open(tmp_path / "scene/x.png") as image:
        pixel_color = np.asarray(image.convert("RGB"))[25, 20]
    gray = np.full((40, 40, 3), 128, np.uint8)
    drawn = np.asarray(Image.open(writer.draw("x", gray, {"objects": box, "scene": scene})))
    assert drawn[35, 20].tolist() == pixel_color.tolist() == [*get_label_color(1)]
    assert drawn[25, 20] == pytest.approx(0.55 * 128 + 0.45 * pixel_color, abs=1)


def test_drawing_is_written_in_rgb(tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path, {"objects": ("a", "b")}, {"objects": (3, 90)})
    path = writer.draw("x", np.full((40, 40, 3), (200, 0, 50), np.uint8), {})
    assert path == tmp_path / "overlays/x.png"
    with Image.open(path) as image:
        assert image.getpixel((5, 5)) == (200, 0, 50)
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write_image(tmp_path / "taken.png", np.zeros((4, 4, 3), np.uint8))


def test_shown_goes_through_the_models_intensity() -> None:
    preparation = Preparation(1, intensity=Intensity("window", level=50, width=100))
    assert to_canvas(np.asarray([[[0], [100]]], np.uint16), preparation)[0].tolist() == (
        [[0, 0, 0], [255, 255, 255]]
    )


def test_output_names_of_one_stem_are_numbered_in_linear_time() -> None:
    files = [Path(f"patient{i}/0001.png") for i in range(20_000)]
    names = make_output_names([*files[:2], Path("0001-3.png"), *files[2:]])
    assert names[:5] == ["0001", "0001-2", "0001-3", "0001-4", "0001-5"]
    assert len(set(names)) == 20_001


def test_all_heads_are_drawn_in_one_overlay_and_written_apart(tmp_path: Path) -> None:
    """A box outline where the first head found an object, a tint where the second saw its class."""
    classes = {"objects": ("a", "b"), "scene": ("sky", "road")}
    ids = {"objects": (3, 90), "scene": (1, 2)}
    labels = torch.zeros(40, 60, dtype=torch.int64)
    labels[20:] = 1
    probs = torch.stack((labels == 0, labels == 1)).float()
    found = Detections(
        torch.tensor([[30.0, 4, 50, 18]]), torch.tensor([0.9]), torch.zeros(1, dtype=torch.int64)
    )
    predictions = {"objects": found, "scene": SegmentationMap(labels, probs)}
    writer = PredictionWriter(tmp_path, classes, ids)
    gray = np.full((40, 60, 3), 128, np.uint8)
    drawn = {
        name: np.asarray(Image.open(writer.draw(name, gray, part)))
        for name, part in {
            "both": predictions,
            "boxes": {"objects": found},
            "pixels": {"scene": predictions["scene"]},
        }.items()
    }
    assert (drawn["both"] != drawn["pixels"]).any(axis=2)[4:18, 30:50].any()
    assert (drawn["both"] != drawn["boxes"]).any(axis=2)[25:, :25].all()
    writer.write(1, "x", predictions)
    assert [each["category_id"] for each in writer.results["objects"]] == [3]
    assert (np.asarray(Image.open(tmp_path / "scene/x.png"))[[0, 39], 0] == [1, 2]).all()
    assert [each.name for each in (tmp_path / "overlays").iterdir()].count("both.png") == 1


def test_predictions_of_arrays_are_written_and_drawn_as_those_of_tensors(tmp_path: Path) -> None:
    """Without torch predictions are numpy arrays; files and drawings are the same."""
    found = detections()
    seen = {
        "objects": found,
        "scene": SegmentationMap(torch.tensor([[0, 1], [1, 1]]), None),
        "whole": Classification(torch.tensor([0.25, 0.75])),
    }
    arrays: dict[str, Any] = {
        "objects": Detections(found.boxes.numpy(), found.scores.numpy(), found.labels.numpy()),  # type: ignore[arg-type]
        "scene": SegmentationMap(np.asarray([[0, 1], [1, 1]]), None),  # type: ignore[arg-type]
        "whole": Classification(np.asarray([0.25, 0.75], np.float32)),  # type: ignore[arg-type]
    }
    made = []
    for name, each in (("tensors", seen), ("arrays", arrays)):
        heads = ("objects", "scene", "whole")
        writer = PredictionWriter(
            tmp_path / name,
            dict.fromkeys(heads, ("a", "b")),
            dict.fromkeys(heads, (3, 90)),
            thresholds={"objects": (0.5, 0.5)},
        )
        writer.write(1, "x", each)
        drawn = writer.draw("x", np.zeros((2, 2, 3), np.uint8), each, (4, 4))
        kept = (tmp_path / name / "scene/x.png").read_bytes()
        made.append((writer.results, drawn.read_bytes(), kept))
    assert made[0] == made[1]


def test_images_are_read_and_predictions_written_without_torch() -> None:
    code = (
        "import sys, resnet_tasks.inference.prediction_writer, "
        "resnet_tasks.data.images.preprocessing; "
        "heavy = [m for m in ('torch', 'albumentations', 'pydantic') if m in sys.modules]; "
        "assert not heavy, heavy"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr) == (0, "")
