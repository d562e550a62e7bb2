from pathlib import Path

import pytest

from data_tools.converters.csv.tables import TableBox, merge_findings, read_box_table
from resnet_tasks.errors import DataError

VINDR = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n"


def table(tmp_path: Path, rows: str, header: str = VINDR) -> Path:
    file = tmp_path / "boxes.csv"
    file.write_text(header + rows, encoding="utf-8")
    return file


def box(reader: str, *corners: float, label: str = "mass", line: int = 2) -> TableBox:
    x1, y1, x2, y2 = corners
    return TableBox(label, (x1, y1, x2, y2), reader, line)


def test_rows_are_grouped_by_image(tmp_path: Path) -> None:
    rows = "b,R1,mass,1.5,2,3,4e1\na,R2,No finding,,,,\nb,R2,No finding,,,,\nb,R1,cyst,0,0,5,6\n"
    read = read_box_table(table(tmp_path, rows), {})
    assert list(read) == ["b", "a"]
    assert read["b"].readers == {"R1", "R2"}
    assert read["b"].boxes == [
        box("R1", 1.5, 2, 3, 40),
        box("R1", 0, 0, 5, 6, label="cyst", line=5),
    ]
    assert (read["a"].readers, read["a"].boxes) == ({"R2"}, [])


def test_tables_without_readers_and_with_other_columns(tmp_path: Path) -> None:
    header = "\ufeffpatientId,x,y,width,height,Target\n"
    rows = "p1,10,20,30.5,40,1\np2,,,,,0\n"
    columns = {"image": "patientId", "x_min": "x", "y_min": "y", "width": "width",
               "height": "height", "class": "Target", "group": "patientId"}  # fmt: skip
    read = read_box_table(table(tmp_path, rows, header), columns, empty="0")
    assert read["p1"].boxes == [box("", 10, 20, 40.5, 60, label="1")]
    assert (read["p1"].group, read["p1"].readers) == ("p1", {""})
    assert read["p2"].boxes == []


@pytest.mark.parametrize(
    ("row", "description", "message"),
    [
        (
            "a,R1,mass,1,2,3,\n",
            "mass (line 3)",
            "y_max=''; a box needs four numbers; use the class 'No finding' where nothing was",
        ),
        ("a,R1,mass,1,2,nan,4\n", "mass (line 3)", "x_max='nan', y_max='4'; a box needs four"),
        (
            "a,R1,mass,1,2\n",
            "mass (line 3)",
            "csv:3: a 'mass' has the box x_min='1', y_min='2', x_max=''",
        ),
        ("a,R1,,1,2,3,4\n", "line 3", "csv:3 names no class for the box x_min='1', y_min='2',"),
    ],
)
def test_invalid_rows_are_separate_and_name_the_line(
    tmp_path: Path, row: str, description: str, message: str
) -> None:
    content = read_box_table(table(tmp_path, f"a,R1,mass,1,2,3,4\n{row}"), {})["a"]
    assert content.boxes == [box("R1", 1, 2, 3, 4)]
    (invalid,) = content.invalid
    assert (invalid.reader, invalid.description) == ("R1", description)
    assert message in str(invalid.error)


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ("a,R1,No finding,,,,\n,R1,mass,1,2,3,4\n", "csv:3 names no image; add the name or"),
        ("", "has no row"),
        (",,,,,,\n", "has no row"),
    ],
)
def test_rows_without_sense_name_the_line(tmp_path: Path, rows: str, part: str) -> None:
    with pytest.raises(DataError, match=part):
        read_box_table(table(tmp_path, rows), {})


def test_rows_without_values_state_images_without_objects(tmp_path: Path) -> None:
    """As RetinaNet's tables list images without objects, and spreadsheets end."""
    header = "image_id,x_min,y_min,x_max,y_max,class_name\n"
    read = read_box_table(table(tmp_path, "a.jpg,1,2,3,4,mass\nb.jpg,,,,,\n,,,,,\n", header), {})
    assert [len(read["a.jpg"].boxes), len(read["b.jpg"].boxes)] == [1, 0]
    assert [content.invalid for content in read.values()] == [[], []]


def test_files_and_columns_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'x_min'; it has image_id, class_name: name"):
        read_box_table(table(tmp_path, "a,b\n", "image_id,class_name\n"), {})
    with pytest.raises(DataError, match="no column 'doctor'"):
        read_box_table(table(tmp_path, "a,R,mass,1,2,3,4\n"), {"reader": "doctor"})
    with pytest.raises(
        DataError, match="columns has the unknown key 'photo'; allowed: image, class, reader"
    ):
        read_box_table(table(tmp_path, "a,R,mass,1,2,3,4\n"), {"photo": "image_id"})
    with pytest.raises(DataError, match="is missing; add it, or name"):
        read_box_table(tmp_path / "none.csv", {})
    with pytest.raises(DataError, match="cannot be read"):
        read_box_table(tmp_path, {})
    (tmp_path / "b.csv").write_bytes(b"\x80\xff\0\x01")
    with pytest.raises(DataError, match="cannot be read"):
        read_box_table(tmp_path / "b.csv", {})
    rows = "a,g,mass,1,2,3,4\na,h,mass,1,2,3,4\n"
    with pytest.raises(DataError, match=r"csv:3 puts the image a into the group 'h', but an ear"):
        read_box_table(table(tmp_path, rows), {"group": "rad_id"})


def test_findings_of_several_readers_by_hand() -> None:
    found = list(
        merge_findings(
            [
                box("R1", 0, 0, 10, 10),
                box("R2", 1, 0, 11, 10),  # IoU 9/11 with the first: one finding
                box("R3", 6, 0, 16, 10),  # 5/15.5 with their mean: another
                box("R3", 0, 0, 10, 10, label="cyst"),  # another class
                box("R1", 2, 0, 12, 10),  # R1 drew the first: a second finding of theirs
                box("R3", 100, 0, 110, 10, line=9),
            ]
        )
    )
    assert [(each.label, each.corners, count) for each, count in found] == [
        ("mass", (0.5, 0, 10.5, 10), 2),
        ("mass", (6, 0, 16, 10), 1),
        ("cyst", (0, 0, 10, 10), 1),
        ("mass", (2, 0, 12, 10), 1),
        ("mass", (100, 0, 110, 10), 1),
    ]
    assert (found[-1][0].reader, found[-1][0].line) == ("R3", 9)


def test_a_box_joins_what_it_overlaps_most() -> None:
    boxes = [box("R1", 0, 0, 10, 10), box("R1", 3, 0, 13, 10), box("R2", 2, 0, 12, 10)]
    assert [count for _, count in merge_findings(boxes)] == [1, 2]
    assert list(merge_findings([])) == []


@pytest.mark.parametrize(
    "header",
    [
        "filename,width,height,class,xmin,ymin,xmax,ymax",
        "image_id,width,height,label,x1,y1,x2,y2",
        "Image Path,w,h,Category_Name,Left,Top,Right,Bottom",
        " path , width , height , class_name , x_min , y_min , x_max , y_max ",
    ],
)
def test_usual_columns(header: str, tmp_path: Path) -> None:
    read = read_box_table(table(tmp_path, "a.jpg,128,96,cat,10,11,40,42\n", header + "\n"), {})
    assert read["a.jpg"].boxes == [box("", 10, 11, 40, 42, label="cat")]


def test_two_columns_of_one_meaning_are_named(tmp_path: Path) -> None:
    header, rows = "filename,class,label,x1,y1,x2,y2\n", "a,cat,tabby,1,2,3,4\n"
    with pytest.raises(DataError, match=r"columns 'class' and 'label', .*columns=\{class: class\}"):
        read_box_table(table(tmp_path, rows, header), {})
    read = read_box_table(table(tmp_path, rows, header), {"class": "label"})
    assert read["a"].boxes == [box("", 1, 2, 3, 4, label="tabby")]


def test_a_corner_and_a_size_are_not_guessed(tmp_path: Path) -> None:
    file = table(tmp_path, "a,cat,1,2,3,4\n", "filename,class,x,y,width,height\n")
    with pytest.raises(DataError) as error:
        read_box_table(file, {})
    assert str(error.value) == (
        f"the table {file} has no column 'x_min'; it has filename, class, x, y, width, height: "
        "name the columns with columns={x_min: NAME, y_min: NAME, x_max: NAME, y_max: NAME} "
        "(or width and height in place of x_max and y_max)"
    )


def test_a_table_without_header_and_one_in_another_encoding_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"it has a\.jpg, cat, 1, 2, 3, 4: the first line is a row"):
        read_box_table(table(tmp_path, "b.jpg,cat,1,2,3,4\n", "a.jpg,cat,1,2,3,4\n"), {})
    file = table(tmp_path, "a,cat,1,2,3,4\n", "image,class,x1,y1,x2,y2\n")
    file.write_bytes(file.read_bytes().replace(b"cat", "\u6c7d".encode("gbk")))
    with pytest.raises(DataError, match=r"cannot be read \(.*\); save it as UTF-8"):
        read_box_table(file, {})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_and_encodings(encoding: str, separator: str, tmp_path: Path) -> None:
    rows = [["filename", "class", "xmin", "ymin", "xmax", "ymax"], ["a", "K\u00e4fer", *"1234"]]
    text = "".join(separator.join(row) + "\r\n" for row in rows)
    file = tmp_path / "boxes.csv"
    file.write_bytes(text.encode(encoding))
    assert read_box_table(file, {})["a"].boxes == [box("", 1, 2, 3, 4, label="K\u00e4fer")]
    file.write_bytes(f"sep={separator}\r\n{text}".encode(encoding))
    assert [b.corners for b in read_box_table(file, {})["a"].boxes] == [(1, 2, 3, 4)]


def test_decimal_commas(tmp_path: Path) -> None:
    header, rows = "filename;class;xmin;ymin;xmax;ymax\n", "a;x, y;1,5;2;3,25;4\n"
    read = read_box_table(table(tmp_path, rows, header), {})
    assert read["a"].boxes == [box("", 1.5, 2, 3.25, 4, label="x, y")]


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        (VINDR, "a," * 600_000 + "\n"),
        (VINDR[:-1] + ",a" * 600_000 + "\n", "a,R1,mass,1,2,3,4\n"),
        ("sep=," + " " * 1_200_000 + VINDR, "a,R1,mass,1,2,3,4\n"),
    ],
)
def test_long_lines_are_rejected(header: str, rows: str, tmp_path: Path) -> None:
    """A line of 50 MB takes 2 GB."""
    message = r"boxes\.csv cannot be read \(a line has more than 1,048,576 characters, the limit"
    with pytest.raises(DataError, match=message):
        read_box_table(table(tmp_path, rows, header), {})


def test_long_fields_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="field larger than field limit"):
        read_box_table(table(tmp_path, "a" * 200_000 + "\n"), {})
