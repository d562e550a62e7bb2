"""Counted nouns agree with their number; sizes and p-values are never rounded to zero."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from resnet_tasks.number_formats import Count, format_bytes, format_duration, format_p_value

ROOT = Path(__file__).resolve().parents[1]


def test_a_noun_and_its_verb_agree_with_the_number() -> None:
    assert f"{Count(1):image}, {Count(2):image}, {Count(0):image}" == "1 image, 2 images, 0 images"
    texts = [f"{Count(n):chosen image does} not exist" for n in (1, 3)]
    assert texts == ["1 chosen image does not exist", "3 chosen images do not exist"]
    nouns = ("box", "class", "batch", "loader process", "category", "file name", "essay", "epoch")
    assert [f"{Count(2):{noun}}" for noun in nouns] == [
        "2 boxes",
        "2 classes",
        "2 batches",
        "2 loader processes",
        "2 categories",
        "2 file names",
        "2 essays",
        "2 epochs",
    ]
    verbs = ("is", "has", "does", "was")
    assert [f"{Count(5):box {verb}}" for verb in verbs] == [
        "5 boxes are",
        "5 boxes have",
        "5 boxes do",
        "5 boxes were",
    ]
    irregular = [f"{Count(n):image looks|images look}" for n in (1, 2)]
    assert irregular == ["1 image looks", "2 images look"]


def test_other_formats_of_a_count_are_those_of_a_number() -> None:
    assert f"{Count(12345)} {Count(12345):,} {Count(7):03d} {Count(255):x}" == "12345 12,345 007 ff"
    template = "{n:annotation has} {n}"
    assert template.format(n=Count(2)) == "2 annotations have 2"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (45_000_000, "45.0 MB"),
        (1_234_567_890, "1.23 GB"),
        (5e15, "5000 TB"),
    ],
)
def test_sizes_have_three_digits_and_the_unit_that_fits(num_bytes: float, text: str) -> None:
    assert format_bytes(num_bytes) == text


def test_memory_is_counted_in_powers_of_1024() -> None:
    assert format_bytes(1000, binary=True) == "1000 bytes"
    assert format_bytes(3 << 20, binary=True) == "3.00 MiB"
    assert format_bytes(139 << 30, binary=True) == "139 GiB"
    assert format_bytes(1023 << 20, binary=True) == "1.00 GiB"


@pytest.mark.parametrize(
    ("p", "text"),
    [(1.0, "1.00"), (0.432, "0.43"), (0.0995, "0.10"), (0.0994, "0.099"), (0.002, "0.002")],
)
def test_p_values(p: float, text: str) -> None:
    assert format_p_value(p) == text


def test_a_p_value_is_never_zero() -> None:
    assert format_p_value(0.001) == "0.001"
    assert format_p_value(0.00099) == "<0.001"
    assert format_p_value(0.0) == "<0.001"


@pytest.mark.parametrize("folder", ["resnet_tasks", "data_tools", "benchmarks", "examples"])
def test_no_message_leaves_the_plural_to_the_reader(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    hits = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"[a-z]\((s|es|ies)\)[ ,.;:\"']", line) and '"' in line
    ]
    assert hits == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (185.4, "3 min 5 s"), (7620, "2 h 7 min")],
)
def test_durations_have_units_that_fit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
