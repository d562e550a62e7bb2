"""Fixtures are quoted from the published description of the format, docs.cvat.ai "XML annotation
format", version 1.1 (cvat-ai/cvat, site/content/en/docs/manual/advanced/xml_format.md): its example
for images, with that of a mask, and its example for video."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.converters.cvat.convert import convert_cvat
from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError

META = """<version>1.1</version><meta><task><id>4</id><name>segmentation</name><size>{size}</size>
<mode>annotation</mode><labels>
<label><name>car</name><attributes></attributes></label>
<label><name>traffic_line</name><type>polyline</type><attributes></attributes></label>
<label><name>wheel</name><attributes></attributes></label>
<label><name>plate</name><attributes></attributes></label>
<label><name>s1</name><type>skeleton</type><attributes></attributes></label>
<label><name>1</name><type>points</type><parent>s1</parent></label>
</labels><original_size><width>640</width><height>480</height></original_size></task></meta>"""
IMAGE = """<image id="0" name="filename000.jpg" {attributes} width="1600" height="1200">
<box label="plate" xtl="797.33" ytl="870.92" xbr="965.52" ybr="928.94" occluded="1" z_order="4">
</box>
<polygon label="car" points="561.30,916.23;561.30,842.77;554.72,761.63;553.62,716.67;565.68,677.20"
 occluded="0" z_order="1"></polygon>
<polyline label="traffic_line" points="462.10,0.00;126.80,1200.00" occluded="0" z_order="3">
</polyline>
<points label="wheel" points="574.90,939.48;1170.16,907.90" occluded="0" z_order="5"></points>
<tag label="good_frame" source="manual"></tag>
<skeleton label="s1" source="manual" z_order="0">
<points label="1" occluded="0" source="manual" outside="0" points="54.47,94.81"></points></skeleton>
<mask label="car" source="manual" occluded="0" rle="3, 5, 7, 7, 5, 9, 3, 11, 2, 11, 2, 12, 1, 12, 1,
 26, 1, 12, 1, 12, 2, 11, 3, 9, 5, 7, 7, 5, 3" left="707" top="888" width="13" height="15"
 z_order="0"></mask>
</image>"""
TRACK = """<track id="0" label="car">
<polygon frame="0" points="324.79,213.16;323.74,227.90;347.42,237.37;371.11,217.37;350.05,190.00"
 outside="0" occluded="0" keyframe="1"></polygon>
<polygon frame="1" points="324.79,213.16;323.74,227.90;347.42,237.37;371.11,217.37;350.05,190.00"
 outside="1" occluded="0" keyframe="1"></polygon>
<polygon frame="2" points="305.32,237.90;312.16,207.90;352.69,206.32;355.32,233.16;331.11,254.74"
 outside="0" occluded="1" keyframe="1"></polygon></track>"""


def cvat(folder: Path, body: str, size: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = f"<annotations>{META.format(size=size)}{body}</annotations>"
    (folder / "annotations.xml").write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{text}')
    return folder


def write_image(file: Path, size: tuple[int, int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(size, dtype=np.uint8)).save(file)


def image(shapes: str, attributes: str = "") -> str:
    return f'<image id="0" name="a.png" width="40" height="30" {attributes}>{shapes}</image>'


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def test_the_published_example_for_images(tmp_path: Path) -> None:
    source = cvat(tmp_path / "in", IMAGE.format(attributes=""))
    write_image(source / "images/filename000.jpg", (1200, 1600))
    (summary,) = convert_cvat(source, tmp_path / "out")
    content = load(tmp_path / "out/train.json")
    assert [c["name"] for c in content["categories"]] == ["car", "wheel", "plate"]
    assert content["images"][0]["file_name"] == "images/filename000.jpg"
    plate, car, mask = content["annotations"]
    assert plate["bbox"] == [797.33, 870.92, 168.19, 58.02]
    assert plate["attributes"] == {"occluded": 1}
    assert car["segmentation"][0][:4] == [561.3, 916.23, 561.3, 842.77]
    # The runs go along the rows: 3 off, 5 on, 7 off, of which 5 end the first row of 13; and so on.
    pixels = decode_mask(mask["segmentation"], 1200, 1600)[888:903, 707:720]
    assert mask["bbox"] == [707, 888, 13, 15]
    assert pixels[0].tolist() == [False] * 3 + [True] * 5 + [False] * 5
    assert pixels[14].tolist() == [False] * 5 + [True] * 5 + [False] * 3
    assert pixels.sum() == mask["area"] == 149
    assert [(each.description, each.reason) for each in summary.skipped] == [
        ("traffic_line (shape 2)", "a line has no area"),
        ("wheel (shape 3)", "points have no area"),
        ("good_frame (shape 4)", "image-level tags are not converted"),
        ("s1 (shape 5)", "points have no area"),
    ]
    coco = read_coco(tmp_path / "out/train.json")
    assert (coco.annotated, coco.problems) == ({"boxes"}, ())
    assert [each.occluded for each in coco.annotations[1]] == [1, None, None]


def test_the_published_example_for_video(tmp_path: Path) -> None:
    source = cvat(tmp_path / "in", TRACK, size=4)
    for number in range(4):
        write_image(source / f"images/frame_{number:06d}.png", (480, 640))
    (summary,) = convert_cvat(source, tmp_path / "out")
    coco = read_coco(tmp_path / "out/train.json")
    assert summary.images == 4
    assert [len(coco.annotations[record.id]) for record in coco.images] == [1, 0, 1, 0]
    assert {record.group for record in coco.images} == {"segmentation"}
    assert coco.annotated == {"boxes", "masks"}
    (source / "images/frame_000003.png").unlink()
    with pytest.raises(DataError, match="has no frame_000003"):
        convert_cvat(source, tmp_path / "no")


def test_subsets_are_splits(tmp_path: Path) -> None:
    box = '<box label="car" xtl="1" ytl="2" xbr="11" ybr="22"/>'
    body = image(box, 'subset="Validation"') + image("", 'subset="default"').replace(
        "a.png", "b.png"
    )
    source = cvat(tmp_path / "in", body)
    write_image(source / "images/Validation/a.png", (30, 40))
    write_image(source / "b.png", (30, 40))
    train, val = convert_cvat(source, tmp_path / "out")
    assert (train.split, train.images, val.split, val.objects["car"]) == ("train", 1, "val", 1)
    assert load(tmp_path / "out/val.json")["images"][0]["file_name"] == "images/Validation/a.png"
    cvat(source, image(box, 'subset="holdout"'))
    with pytest.raises(DataError, match=r"image 'a\.png' is in the subset 'holdout'; allowed:"):
        convert_cvat(source, tmp_path / "no")


def test_images_of_one_name_belong_to_their_subsets(tmp_path: Path) -> None:
    """As projects are exported: images/SUBSET/NAME."""
    box = '<box label="car" xtl="1" ytl="2" xbr="11" ybr="22"/>'
    source = cvat(tmp_path / "in", image(box, 'subset="Train"') + image("", 'subset="Val"'))
    for subset in ("Train", "Val"):
        write_image(source / f"images/{subset}/a.png", (30, 40))
    convert_cvat(source, tmp_path / "out")
    names = [
        load(tmp_path / f"out/{split}.json")["images"][0]["file_name"] for split in ("train", "val")
    ]
    assert names == ["images/Train/a.png", "images/Val/a.png"]
    cvat(source, image(box))
    with pytest.raises(DataError, match=r"which may be .*Train.* or .*Val.*; keep one"):
        convert_cvat(source, tmp_path / "no")


def test_frames_of_a_step(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for number in (2, 7):
        write_image(source / f"images/frame_{number:06d}.png", (30, 40))
    text = """<annotations><version>1.1</version><meta><task><name>v</name><size>2</size>
        <start_frame>2</start_frame><frame_filter>{}</frame_filter>
        <labels><label><name>car</name></label></labels><original_size><width>40</width>
        <height>30</height></original_size></task></meta><track id="0" label="car">
        <box frame="7" outside="0" xtl="1" ytl="2" xbr="11" ybr="22"/></track></annotations>"""
    (source / "annotations.xml").write_text(text.format("step=5"))
    (train,) = convert_cvat(source, tmp_path / "out")
    assert (train.images, train.objects) == (2, {"car": 1})
    written = load(tmp_path / "out/train.json")
    assert [each["image_id"] for each in written["annotations"]] == [2]
    assert written["images"][1]["file_name"] == "images/frame_000007.png"
    (source / "annotations.xml").write_text(text.format("step=0"))
    with pytest.raises(DataError, match=r"frame_filter 'step=0'; it must be step=N"):
        convert_cvat(source, tmp_path / "no")


def test_turned_boxes_and_ellipses_are_outlines(tmp_path: Path) -> None:
    shapes = (
        '<box label="car" xtl="10" ytl="5" xbr="30" ybr="9" rotation="90"/>'
        '<ellipse label="wheel" cx="20" cy="15" rx="8" ry="4" rotation="0"/>'
    )
    source = cvat(tmp_path / "in", image(shapes))
    write_image(source / "images/a.png", (30, 40))
    convert_cvat(source, tmp_path / "out")
    car, wheel = load(tmp_path / "out/train.json")["annotations"]
    # 20 x 4 around (20, 7), a quarter turn: 4 x 20, of which the image cuts off 3 rows.
    assert car["bbox"] == [18, 0, 4, 17]
    assert wheel["bbox"] == [12, 11, 16, 8]
    assert wheel["area"] == pytest.approx(np.pi * 32, rel=0.05)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "lists no image and no track"),
        (image('<box xtl="1" ytl="2" xbr="3" ybr="4"/>'), "shape 0 has no label"),
        (image('<box label="car" xtl="1" ytl="2" xbr="x" ybr="4"/>'), r"\(car\) has xbr='x'"),
        (image('<box label="car" xtl="1" ytl="2" ybr="4"/>'), "has xbr=None; it must be a number"),
        (image('<polygon label="car" points="1,2;3,4"/>'), "has points='1,2;3,4'; a polygon has"),
        (image('<polygon label="car" points="1,2;3;4,5"/>'), "points, as in x0,y0;x1,y1"),
        (
            image('<polygon label="car" points="0,0;9e9,0;0,5"/>'),
            "none farther from the origin than",
        ),
        (
            image('<mask label="car" rle="3,5" left="0" top="0" width="3" height="3"/>'),
            "does not fill its 3 x 3 pixels",
        ),
        (image('<blob label="car"/>'), "is a 'blob'; supported shapes: box, polygon, mask"),
        (image('<box label="bus" xtl="1" ytl="2" xbr="3" ybr="4"/>'), "an object of class 'bus'"),
        (image("").replace('"30"', '"31"'), r"a\.png has the size \(31, 40\)"),
        (image("").replace('"30"', '"tall"'), "has height='tall'"),
        (image("").replace("a.png", "../a.png"), "leads out of the folder"),
        (image("").replace("a.png", "gone.png"), r"names the image gone\.png, but neither"),
        ('<track id="0" label="car"><box frame="7"/></track>', "is on frame 7; the task has 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, body: str, message: str) -> None:
    source = cvat(tmp_path / "in", body)
    write_image(source / "images/a.png", (30, 40))
    with pytest.raises(DataError, match=message):
        convert_cvat(source, tmp_path / "out")


INVALID_SHAPES = {
    '<box label="car" xtl="x" ytl="2" xbr="3" ybr="4"/>': "has xtl='x'; it must be a number",
    '<polygon label="car" points="1,2;3,4"/>': "has points='1,2;3,4'; a polygon has",
    '<ellipse label="car" cx="9" cy="nan" rx="3" ry="3"/>': "has cy='nan'; it must be a number",
    '<mask label="car" rle="3,5" left="0" top="0" width="3" height="3"/>': "an rle that does not",
    '<mask label="car" rle="8" left="-1" top="0" width="4" height="2"/>': "has left='-1'",
    '<polygon label="car" points="0,0;9e9,0;0,5"/>': "none farther from the origin than",
}


@pytest.mark.parametrize(("shape", "message"), INVALID_SHAPES.items())
def test_a_few_invalid_shapes_are_skipped_and_many_are_not(
    shape: str, message: str, tmp_path: Path
) -> None:
    box = '<box label="car" xtl="1" ytl="2" xbr="11" ybr="22"/>'
    source = cvat(tmp_path / "in", image(box + shape + box))
    write_image(source / "images/a.png", (30, 40))
    (summary,) = convert_cvat(source, tmp_path / "out")
    assert summary.objects["car"] == 2
    (skipped,) = summary.skipped
    assert (skipped.file, skipped.description) == ("a.png", "car (shape 1)")
    assert message in skipped.reason
    assert summary.warnings == (f"1 invalid object is skipped: {skipped.reason}",)
    cvat(source, image(box + shape * 11))
    with pytest.raises(DataError, match=r"\(11 of 12 objects of train are invalid; up to 10"):
        convert_cvat(source, tmp_path / "many")


def test_invalid_shapes_of_tracks_are_skipped(tmp_path: Path) -> None:
    track = """<track id="3" label="car"><box frame="0" xtl="1" ytl="2" xbr="9" ybr="9"/>
        <box frame="1" xtl="" ytl="2" xbr="9" ybr="9"/></track>"""
    source = cvat(tmp_path / "in", track, size=2)
    for number in range(2):
        write_image(source / f"images/frame_{number:06d}.png", (480, 640))
    (summary,) = convert_cvat(source, tmp_path / "out")
    assert (summary.images, summary.objects["car"]) == (2, 1)
    (skipped,) = summary.skipped
    assert (skipped.file, skipped.description) == ("1", "car (track 3)")
    assert "track 3, frame 1, track 3 (car) has xtl=''; it must be a number" in skipped.reason


def test_other_xml_and_bombs_are_refused(tmp_path: Path) -> None:
    source = cvat(tmp_path / "in", "")
    file = source / "annotations.xml"
    file.write_text(file.read_text().replace("1.1<", "1.0<"))
    with pytest.raises(DataError, match=r"is not an `annotations` file of version 1\.1"):
        convert_cvat(source, tmp_path / "out")
    file.write_text('<!DOCTYPE bomb [<!ENTITY a "ha">]><annotations>&a;</annotations>')
    with pytest.raises(DataError, match="declares the document type 'bomb'"):
        convert_cvat(source, tmp_path / "out")
    file.unlink()
    with pytest.raises(DataError, match=r"annotations\.xml is missing"):
        convert_cvat(source, tmp_path / "out")
