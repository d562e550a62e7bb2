"""A conversion reports what it skips, changes and repairs, with counts and names."""

from __future__ import annotations

import pytest

from data_tools.writing.conversion_report import ConversionReport
from resnet_tasks.errors import DataError


def test_repairs_are_grouped_and_files_counted_once() -> None:
    report = ConversionReport()
    for name in ("a", "b", "a", "c", "d", "e"):
        report.add_repair("the slope was missing and was taken as 1", f"{name}.dcm")
    report.add_repair("a comma was read as a decimal point", "a.dcm")
    report.warn("first")
    assert report.list_warnings() == [
        "first",
        "the slope was missing and was taken as 1: 5 files (a.dcm, b.dcm, c.dcm and 2 others)",
        "a comma was read as a decimal point: 1 file (a.dcm)",
    ]


def test_invalid_objects_are_skipped_and_many_are_refused() -> None:
    report = ConversionReport()
    report.skip_invalid("a.xml", "object 0", DataError("object 0 of a.xml has no box"))
    assert report.skipped[0].reason == "object 0 of a.xml has no box"
    assert report.list_warnings() == [
        "1 invalid object is skipped: object 0 of a.xml has no box",
    ]
    report.require_few_invalid(1, "train")
    with pytest.raises(DataError, match=r"1 of 1 objects of train are invalid"):
        report.require_few_invalid(0, "train")
    for number in range(1, 11):
        report.skip_invalid("a.xml", f"object {number}", DataError(f"object {number}"))
    assert "11 invalid objects are skipped: object 0 of a.xml has no box; ..." in (
        report.list_warnings()
    )
    report.require_few_invalid(99, "train")  # 10 % of 110
    with pytest.raises(DataError, match=r"11 of 109 objects"):
        report.require_few_invalid(98, "train")
