"""What `data stats` prints and draws."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from resnet_tasks.cli import app
from resnet_tasks.data.images.intensity import Intensity
from resnet_tasks.data.statistics.measure import ChannelMoments, DatasetStatistics, ValueRange
from resnet_tasks.data.statistics.report import (
    draw_statistics,
    is_shortened,
    print_statistics,
    write_statistics,
)
from resnet_tasks.errors import DataError
from resnet_tasks.recipe.schema.data import IntensityRecipe
from resnet_tasks.recipe.yaml_text import parse_yaml
from tests.support.consoles import heard, quiet
from tests.support.many_classes import class_names, count_lines, write_dataset


def measured() -> DatasetStatistics:
    found = DatasetStatistics(images=2, per_image=[1, 0], objects={"cell": 1}, groups=2)
    found.sizes.update({(4, 6): 2})
    values = np.full((4, 6, 2), 0.25, np.float32)
    values[:2] = 0.75
    found.channels.add(values)
    found.value_ranges["uint16"] = ValueRange(2, 5, 900)
    found.boxes = np.asarray([[1.0, 1, 2, 3]])
    found.areas = np.asarray([6.0])
    found.class_pixels, found.void_pixels = {"cell": 6}, 18
    return found


def printed(found: DatasetStatistics) -> str:
    console = quiet(100)
    print_statistics(found, console, title="a.json", channels=2)
    return heard(console)


def test_text_holds_the_numbers_and_what_to_write() -> None:
    text = printed(measured())
    for part in (
        "a.json: 2 images in 2 groups",
        "6 x 4: 2",
        "2 images of uint16, values 5 to 900",
        "objects: cell 1; 0 crowd regions; per image 0 to 1, mean 0.50, 1 image without",
        "1 small, 0 medium, 0 large",
        "25.00%",
        "channels: 2",
        "normalize: {mean: [0.5, 0.5], std: [0.25, 0.25]}",
    ):
        assert part in text
    assert "intensity:" not in text


def test_small_values_keep_their_digits_and_the_step_is_named() -> None:
    found = measured()
    found.channels = ChannelMoments()
    found.channels.add(np.asarray([[[0.00001234]], [[0.00003234]]]).repeat(2, axis=2))
    console = quiet(100)
    step = Intensity("percentile", low=1, per_channel=True)
    print_statistics(found, console, title="a.json", channels=2, intensity=step)
    *_, channels, intensity, normalize = heard(console).splitlines()
    lines = parse_yaml("\n".join((channels, intensity, normalize)), "printed").value
    assert lines["channels"] == 2
    assert IntensityRecipe(**lines["intensity"]) == IntensityRecipe(
        type="percentile", low=1, per_channel=True
    )
    assert lines["normalize"]["mean"] == pytest.approx([2.234e-5] * 2)
    assert lines["normalize"]["std"] == pytest.approx([1e-5] * 2)


def test_a_channel_that_never_changes_gives_no_constants() -> None:
    found = measured()
    found.channels = ChannelMoments()
    found.channels.add(np.stack([np.full((4, 6), 0.5), np.eye(4, 6)], axis=2))
    text = printed(found)
    assert "channel 0 is constant over all images" in text
    assert "normalize:" not in text


def test_values_that_cannot_be_placed_get_a_window() -> None:
    found = DatasetStatistics(images=1, unplaced=1)
    found.sizes[4, 6] = 1
    found.value_ranges["int16"] = ValueRange(1, -1000, 3000)
    text = printed(found)
    assert "data.intensity.level=1000 data.intensity.width=4000" in text
    assert "normalize:" not in text


@pytest.mark.parametrize("bare", [False, True])
def test_figure_is_a_image(tmp_path: Path, bare: bool) -> None:
    found = measured()
    if bare:  # nothing but the size of an image
        found = DatasetStatistics(images=1)
        found.sizes[4, 6] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_statistics(
            found, tmp_path / "new" / "a.png", dict.fromkeys(found.objects, (1, 2, 255))
        )
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert np.asarray(image.convert("L")).std() > 5
        has_bars = (np.asarray(image.convert("RGB")) == (1, 2, 255)).all(axis=2).any()
    assert has_bars == bool(found.objects)


def test_figure_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    colors = dict.fromkeys(measured().objects, (1, 2, 255))
    with pytest.raises(DataError, match=r"b\.png cannot be written .*choose another --out"):
        draw_statistics(measured(), tmp_path / "a" / "b.png", colors)


@pytest.mark.parametrize("number", [80, 1200])
def test_many_classes_take_few_lines_and_are_all_in_the_json(tmp_path: Path, number: int) -> None:
    write_dataset(tmp_path, number)
    words = ["data", "stats", str(tmp_path / "train.json")]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert count_lines(shown.stdout) < 60
    assert f"({number - 20} rarer classes)" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "all classes and image sizes: add --json FILE"

    report = tmp_path / "statistics.json"
    written = CliRunner().invoke(app, [*words, "--json", str(report), "--out", f"{report}.png"])
    assert f"statistics: {report}" in written.stdout
    assert "add --json FILE" not in written.stdout
    found = json.loads(report.read_text())
    assert list(found["objects"]) == class_names(number)
    assert sum(found["objects"].values()) == 24
    assert sum(found["class_pixels"].values()) + found["void_pixels"] == 12 * 32 * 64
    assert found["sizes"] == [{"height": 32, "width": 64, "images": 12}]
    assert [set(channel) for channel in found["channels"]] == [{"mean", "std", "min", "max"}] * 3


def test_few_classes_need_no_json() -> None:
    assert not is_shortened(measured())
    many_sizes = measured()
    many_sizes.sizes.update({(i, i): 1 for i in range(1, 7)})
    assert is_shortened(many_sizes)


def test_the_json_of_a_file_without_readable_values_is_complete(tmp_path: Path) -> None:
    write_statistics(DatasetStatistics(images=1), tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["channels"] == []


def test_mixed_bit_depths_propose_an_intensity_step(tmp_path: Path) -> None:
    records = []
    for number, bits in enumerate((8, 12)):
        Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) << (bits - 4)).save(
            tmp_path / f"{bits}.png"
        )
        records.append({"id": number, "file_name": f"{bits}.png", "height": 4, "width": 4,
                        "attributes": {"bits_stored": bits}})  # fmt: skip
    file = tmp_path / "a.json"
    file.write_text(
        json.dumps(
            {"images": records, "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
        )
    )
    command = ["data", "stats", str(file), "data.channels=1"]
    text = " ".join(CliRunner().invoke(app, command).output.split())
    assert "(1 image of 8 bits, 1 image of 12 bits)" in text
    assert "set data.intensity.type=percentile" in text
    result = CliRunner().invoke(app, [*command, "data.intensity.type=percentile"])
    assert result.exit_code == 0
    assert "bit depths" not in result.output


def test_values_of_12_bits_in_16_propose_a_window(tmp_path: Path) -> None:
    pixels = np.arange(16, dtype=np.uint16).reshape(4, 4) * 273  # 0 to 4095
    Image.fromarray(pixels).save(tmp_path / "a.png")
    record = {"id": 1, "file_name": "a.png", "height": 4, "width": 4}
    file = tmp_path / "a.json"
    categories = [{"id": 1, "name": "cell"}]
    file.write_text(json.dumps({"images": [record], "annotations": [], "categories": categories}))
    command = ["data", "stats", str(file), "data.channels=1"]
    text = " ".join(CliRunner().invoke(app, command).output.split())
    settings = "data.intensity.type=window data.intensity.level=2047.5 data.intensity.width=4095"
    assert "the largest value in 1 image of 16 bits is 4095" in text
    assert f"set {settings}" in text
    output = CliRunner().invoke(app, [*command, *settings.split()]).output
    assert "of 16 bits" not in output
    assert "1.0000" in output, "the largest value after the window"
