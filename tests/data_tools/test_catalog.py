from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.catalog import convert, find_dataset, load_datasets, prepare
from data_tools.formats import FORMATS
from data_tools.shapes.components import SMALL_COMPONENT
from data_tools.writing.data_card import UNVERIFIED
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError, ResnetTasksError
from resnet_tasks.recipe.load import load_recipe
from tests.support.damage import damaged_yaml, outcomes

SMALL: dict[str, Any] = {"train": 1, "val": 1, "size": (96, 128)}


def segnet(root: Path) -> Path:
    for folder, pixels in (("train", np.zeros((4, 4, 3))), ("trainannot", np.ones((4, 4)))):
        (root / folder).mkdir(parents=True)
        Image.fromarray(pixels.astype(np.uint8)).save(root / folder / "a.png")
    return root


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("name", load_datasets())
def test_every_data_set_fits_its_format_and_its_recipes(name: str) -> None:
    data_set = load_datasets()[name]
    assert FORMATS.get(data_set.format).validate_options(data_set.options, name).keys() == (
        data_set.options.keys()
    )
    assert "not stated" not in vars(data_set.origin).values()
    assert data_set.recipes
    for recipe in data_set.recipes:
        assert load_recipe(recipe).data.root == name


def test_the_catalog() -> None:
    assert set(load_datasets()) >= {"bccd", "camvid", "dsb2018", "cells"}
    for name in FORMATS:
        assert callable(FORMATS.get(name).convert)
    (note,) = load_datasets()["camvid"].origin.notes
    assert f"components under {SMALL_COMPONENT} pixels" in note


def own(folder: Path, **changes: Any) -> Path:
    """A description of a user's own data set; `None` takes a key out."""
    content = {
        "title": "Lanes",
        "homepage": "https://example.org",
        "license": "MIT",
        "citation": "none",
        "by_hand": "ask the owner",
        "format": "label-maps",
        "expects": "{train: the images, trainannot: their maps}",
        "options": "{classes: [road, car]}",
    } | changes
    file = folder / "lanes.yaml"
    file.write_text("".join(f"{k}: {v}\n" for k, v in content.items() if v is not None))
    return file


def test_own_data_sets_are_described_in_a_file(tmp_path: Path) -> None:
    segnet(tmp_path / "in" / "lanes-main" / "data")
    segnet(tmp_path / "in" / "lanes-main" / "empty" / "deeper")
    (tmp_path / "in/lanes-main/empty/deeper/train/a.png").unlink()
    file = own(tmp_path, expects="{train/*.png: the images, trainannot: their maps}")
    card = prepare(str(file), tmp_path / "in", tmp_path / "out")
    assert card.name == "lanes"
    assert card.splits[0].pixels == {"road": 0, "car": 16}
    text = card.to_markdown()
    assert "- Converted from: data\n" in text
    assert str(tmp_path) not in text
    assert UNVERIFIED in text
    segnet(tmp_path / "in" / "lanes-main" / "copy")
    with pytest.raises(DataError, match=r"copy and .*data both contain train/\*\.png, trainannot"):
        prepare(str(file), tmp_path / "in", tmp_path / "other")
    with pytest.raises(
        DataError, match=r"lacks train.*; trainannot \(their maps\), .* Ask the owner"
    ):
        prepare(str(file), tmp_path / "in/lanes-main/data/train", tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"title": None}, "title is missing"),
        ({"licence": "MIT"}, "lanes.yaml:9: licence is unknown; .*did you mean 'license'"),
        ({"verified": '"yes"'}, "lanes.yaml:9: verified: Input should be a valid boolean"),
        ({"expects": "[train]"}, "lanes.yaml:7: expects: Input should be an object, got"),
        ({"by_hand": None}, "by_hand of a dataset of the format 'label-maps' must say"),
        ({"options": "{classes: 3}"}, "dataset lanes: option classes of the format 'label-maps'"),
        ({"options": "{class: [a]}"}, "has no option 'class'; .*did you mean 'classes'"),
    ],
)
def test_mistakes_in_a_description(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    file = own(tmp_path, **changes)
    with pytest.raises(DataError, match=told):
        prepare(str(file), segnet(tmp_path / "in"), tmp_path / "out")
    file.write_text("[]")
    with pytest.raises(DataError, match=r"lanes\.yaml:1: the dataset: Input should be an object"):
        find_dataset(str(file))


def test_bccd_card(shared_data: Path, tmp_path: Path) -> None:
    card = prepare("bccd", shared_data / "bccd", tmp_path / "bccd")
    text = (tmp_path / "bccd" / "data_card.md").read_text(encoding="utf-8")
    assert text == card.to_markdown()
    for line in (
        "# BCCD: blood cells",
        "- License: MIT",
        "- Home page: https://github.com/Shenggan/BCCD_Dataset",
        "| images | 205 | 87 |",
        "| RBC | 2381 | 967 |",
        "## Skipped: 2",
    ):
        assert line in text.splitlines()
    assert "| train | BloodImage_00343.xml | RBC (object 3)" in text
    assert "| val | BloodImage_00338.xml | RBC (object 12)" in text
    assert card.num_skipped == 2
    assert UNVERIFIED not in text
    categories = read_coco(tmp_path / "bccd" / "train.json").categories.categories
    assert [c.name for c in categories] == ["RBC", "WBC", "Platelets"]


def test_cells_need_no_source_and_take_options(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    card = prepare(
        "cells",
        None,
        tmp_path / "cells",
        progress=lambda done, total: seen.append((done, total)),
        **SMALL,
    )
    assert [split.images for split in card.splits] == [1, 1]
    assert seen == [(1, 2), (2, 2)]
    assert names(tmp_path / "cells") == [
        "data_card.md",
        "images",
        "semantic",
        "train.json",
        "val.json",
    ]
    assert "seed=0" in card.to_markdown()
    assert read_coco(tmp_path / "cells" / "val.json").problems == ()


def test_label_maps_by_format(tmp_path: Path) -> None:
    source = segnet(tmp_path / "in")
    classes = {"classes": ("road", "car"), "things": ("car",)}
    card = convert("label-maps", source, tmp_path / "out", copy_images=True, **classes)
    assert card.splits[0].pixels == {"road": 0, "car": 16}
    assert (tmp_path / "out/images/train/train/a.png").is_file()
    assert "| car | 100.00% |" in card.to_markdown()
    with pytest.raises(DataError, match="need classes"):
        convert("label-maps", source, tmp_path / "other")
    with pytest.raises(DataError, match="the thing 'bus' is not among the classes road"):
        convert("label-maps", source, tmp_path / "other", classes=("road",), things=("bus",))


def test_unknown_names_get_the_nearest_match(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no dataset 'BCDD'; available: .*mean 'bccd'\?"):
        prepare("BCDD", tmp_path, tmp_path / "out")
    with pytest.raises(ResnetTasksError, match=r"unknown format 'label_maps'; .*'label-maps'\?"):
        convert("label_maps", tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match=r"no option 'one_base'; .*mean 'one_based'\?"):
        convert("voc", tmp_path, tmp_path / "out", one_base=True)
    with pytest.raises(ResnetTasksError, match="unknown format 'zzz'") as raised:
        convert("zzz", tmp_path, tmp_path / "out")
    assert "did you mean" not in str(raised.value)


def test_sources_must_fit_the_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="bccd needs a source"):
        prepare("bccd", None, tmp_path / "out")
    with pytest.raises(DataError, match="cells is generated, not read"):
        prepare("cells", tmp_path, tmp_path / "out")
    assert names(tmp_path) == []


def test_taken_folders_are_replaced_only_when_asked_and_ours(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare("cells", None, out, seed=1, **SMALL)
    before = (out / "train.json").read_bytes()
    with pytest.raises(DataError, match=r"already contains data_card\.md, images"):
        prepare("cells", None, out, seed=2, **SMALL)
    assert (out / "train.json").read_bytes() == before
    prepare("cells", None, out, seed=2, overwrite=True, **SMALL)
    assert (out / "train.json").read_bytes() != before
    (out / "data_card.md").unlink()
    with pytest.raises(DataError, match=r"no data_card\.md, so no conversion created it"):
        prepare("cells", None, out, overwrite=True, **SMALL)
    assert names(tmp_path) == ["out"]
    with pytest.raises(DataError, match="is a file"):
        prepare("cells", None, out / "train.json", **SMALL)


def test_the_source_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "data_card.md").write_text("an earlier card")
    source = segnet(tmp_path / "in")
    with pytest.raises(DataError, match="lies in the output folder"):
        convert("label-maps", source, tmp_path, overwrite=True, classes=("a", "b"))
    assert names(source) == ["train", "trainannot"]


def test_a_failed_conversion_leaves_everything_as_it_was(tmp_path: Path) -> None:
    source = segnet(tmp_path / "in")
    with pytest.raises(DataError, match="unknown values"):
        convert("label-maps", source, tmp_path / "new", classes=("only",))
    prepare("cells", None, tmp_path / "out", **SMALL)
    before = names(tmp_path / "out")

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("cells", None, tmp_path / "out", overwrite=True, progress=interrupted, **SMALL)
    assert names(tmp_path / "out") == before
    assert names(tmp_path) == ["in", "out"]


def test_an_empty_output_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    prepare("cells", None, tmp_path / "out", **SMALL)
    assert (tmp_path / "out" / "data_card.md").is_file()


def yolo(root: Path, description: str) -> Path:
    for split in ("train", "valid"):
        for folder in ("images", "labels"):
            (root / split / folder).mkdir(parents=True)
        Image.new("RGB", (200, 100)).save(root / split / "images/x.png")
        (root / split / "images/._x.png").write_bytes(b"what macOS leaves")
        (root / split / "labels/x.txt").write_text("0 0.5 0.5 0.00001 0.1\n")
    (root / "data.yaml").write_text(f"{description}\nnames: [a]\n")
    return root


def test_splits_do_not_share_images(tmp_path: Path) -> None:
    source = yolo(tmp_path / "in", "train: train/images\nval: train/images")
    with pytest.raises(DataError, match=r"1 image is in train and in val, the first .*x\.png"):
        convert("yolo", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_result_inside_its_source_is_refused(tmp_path: Path) -> None:
    """Copies in it would be images without labels the next time."""
    source = yolo(tmp_path / "in", "train: train/images\nval: valid/images")
    out = source / "train/images/out"
    with pytest.raises(DataError, match=r"out lies inside the source .*; choose a folder outside"):
        convert("yolo", source, out, copy_images=True)
    assert not out.exists()
    card = convert("yolo", source, tmp_path / "out")
    assert [split.images for split in card.splits] == [1, 1]
    coco = read_coco(tmp_path / "out/train.json")
    assert [len(each) for each in coco.annotations.values()] == [1]  # thin, and still there


def test_coco_images_outside_of_the_source_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/train.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(DataError, match=r"images is '\.\.', which leads out of the source"):
        convert("coco", tmp_path / "in", tmp_path / "out", images="..")


def test_descriptions_of_unknown_formats_are_refused(tmp_path: Path) -> None:
    message = r"lanes\.yaml:6: format is 'label_maps'; allowed: .*did you mean 'label-maps'"
    with pytest.raises(DataError, match=message):
        find_dataset(str(own(tmp_path, format="label_maps")))


def test_damaged_descriptions_are_read_or_refused(tmp_path: Path) -> None:
    file = own(tmp_path)

    def described(data: bytes) -> None:
        file.write_bytes(data)
        data_set = find_dataset(str(file))
        FORMATS.get(data_set.format).validate_options(data_set.options, data_set.name)

    good = file.read_bytes()
    described(good)
    outcomes(good, described, damaged_yaml, 60, "catalog")


def test_errors_of_samples_are_not_mixed_with_those_of_nested_folders(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "in/x" / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / f"in/x/{folder}/a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg is stored as JPEG") as raised:
        convert("instance-masks", tmp_path / "in", tmp_path / "out")
    assert "one folder per image" not in str(raised.value)
    # A folder around the source is no fault.
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "in/x/masks/a.png")
    (tmp_path / "in/x/masks/a.jpg").unlink()
    (tmp_path / "outer").mkdir()
    (tmp_path / "in").rename(tmp_path / "outer/in")
    card = convert("instance-masks", tmp_path / "outer", tmp_path / "out")
    assert card.splits[0].images == 1
