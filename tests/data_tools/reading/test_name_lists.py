from pathlib import Path

import pytest

from data_tools.reading.name_lists import read_names
from resnet_tasks.errors import DataError


@pytest.mark.parametrize(
    ("line", "known", "name"),
    [
        ("a", ["a"], "a"),
        ("a.jpg", ["a"], "a"),
        ("a.JPG", ["a"], "a"),
        ("a.json", ["a"], "a"),
        ("sub/a.json", ["sub/a"], "sub/a"),
        ("a.b", ["a.b"], "a.b"),
        ("cell 1", ["cell", "cell 1"], "cell 1"),
        ("cell 1 1", ["cell", "cell 1"], "cell 1"),
        ("cell 1", ["cell"], "cell"),
        ("cell  -1", ["cell"], "cell"),
        ("cat_7 3 1 2", ["cat_7"], "cat_7"),
        ("a.png maps/a.png", ["a"], "a"),
        ("'a b.png'", ["a b"], "a b"),
        ('"a b" -1', ["a b"], "a b"),
        ("gr\u00fcn", ["gru\u0308n"], "gru\u0308n"),
        ("gru\u0308n", ["gr\u00fcn"], "gr\u00fcn"),
        # Neither is the name of another image, although its beginning is one.
        ("cell 2", ["cell"], "cell 2"),
        ("cell copy.png", ["cell"], "cell copy"),
    ],
)
def test_a_line_names_an_image(line: str, known: list[str], name: str, tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_text(f"\ufeff{line}\n\n", encoding="utf-8")
    assert read_names(file, known) == [name]


def test_two_forms_of_one_name_are_a_repetition(tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_text("a\na.png\n")
    with pytest.raises(DataError, match=r"train\.txt lists 'a' more than once"):
        read_names(file, ["a"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_with_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_bytes("a\r\nb\r\n".encode(encoding))
    assert read_names(file, ["a", "b"]) == ["a", "b"]
