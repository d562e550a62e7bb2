"""Docstrings as the source of descriptions."""

from __future__ import annotations

import pytest

from resnet_tasks.docstrings import (
    get_descriptions,
    get_first_sentence,
    get_introduction,
    parse_descriptions,
)

DOCSTRING = """Resize an image.

    Second paragraph, e.g. A and B.

    Args:
        size: Height and width: two numbers, which
            continue here. None: the size stays.
        scale (float, optional): Factor, ``1.0`` by default.

            - A list item.
        *names: Any number of names.

    Returns:
        image: This is no parameter.

    Raises:
        ValueError: If it fails.
    """


class Base:
    """Base.

    Attributes:
        first: Text of the base.
        second: Text that stays.
    """


class Derived(Base):
    """Derived class.

    Attributes:
        first: Text of the subclass, if True.
    """


def test_every_entry_of_the_sections_is_read_and_nothing_else() -> None:
    assert parse_descriptions(DOCSTRING) == {
        "size": "Height and width: two numbers, which continue here. null: the size stays.",
        "scale": "Factor, `1.0` by default. - A list item.",
        "names": "Any number of names.",
    }
    assert parse_descriptions(None) == {}
    assert parse_descriptions("") == {}
    assert parse_descriptions("Args:\n") == {}


def test_a_subclass_overrides_descriptions_of_its_base() -> None:
    assert get_descriptions(Derived) == {
        "first": "Text of the subclass, if true.",
        "second": "Text that stays.",
    }


def test_the_introduction_ends_at_the_first_section() -> None:
    assert get_introduction(DOCSTRING) == "Resize an image.\nSecond paragraph, e.g. A and B."
    assert get_introduction(None) == ""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One. Two.", "One."),
        ("Scale, e.g. Affine. Two.", "Scale, e.g. Affine."),
        ("Lin et al. 2017. Two", "Lin et al. 2017."),
        ("Factor 0.5 of it; `x`. `y` is next.", "Factor 0.5 of it; `x`."),
        ("null: none. null stays a word", "null: none. null stays a word"),
        ("No end", "No end"),
        ("", ""),
    ],
)
def test_the_first_sentence(text: str, sentence: str) -> None:
    assert get_first_sentence(text) == sentence
