"""Lists and names in messages: short, with the number of what they leave out."""

from __future__ import annotations

import pytest

from resnet_tasks.errors import (
    MAX_MESSAGE,
    MAX_QUOTED_NAME,
    format_allowed,
    format_list,
    limit_message,
    limit_name,
    shorten_name,
)


def test_a_list_names_the_first_values_and_counts_the_others() -> None:
    assert format_list([]) == "none"
    assert format_list("abcde") == "a, b, c, d, e"
    assert format_list("abcdefg") == "a, b, c, d, e, and 2 more"
    assert format_list((i for i in range(1200)), 2) == "0, 1, and 1198 more"


def test_allowed_names_are_complete_up_to_twenty() -> None:
    assert format_allowed(range(20)).endswith("18, 19")
    assert format_allowed(range(80)).endswith("18, 19, and 60 more")


@pytest.mark.parametrize("length", [1, 31, 32])
def test_a_name_that_fits_stays(length: int) -> None:
    assert shorten_name("x" * length) == "x" * length


def test_a_long_name_keeps_its_ends() -> None:
    name = "Animalia Chordata Mammalia Carnivora Felidae lynx"
    assert shorten_name(name) == "Animalia Chord...ra Felidae lynx"
    assert {len(shorten_name("x" * n, limit)) for n in (40, 41) for limit in (20,)} == {20}


def test_a_name_stays_on_its_line() -> None:
    assert shorten_name("a\nb\x1b[31m") == "a b [31m"


def test_long_messages_are_cut() -> None:
    assert limit_message("x" * MAX_MESSAGE) == "x" * MAX_MESSAGE
    cut = limit_message("x" * (MAX_MESSAGE + 1234))
    assert cut == "x" * MAX_MESSAGE + "... (1,234 characters more)"


def test_only_long_names_are_changed() -> None:
    assert limit_name("a\nb") == "a\nb"
    assert len(limit_name("x" * (MAX_QUOTED_NAME + 1))) == MAX_QUOTED_NAME
