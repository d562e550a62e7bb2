"""Streaming reader of long JSON lists, which needs little memory for files of any size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from resnet_tasks.errors import DataError
from resnet_tasks.files.json_files import TOO_DEEP, require_shallow

CHUNK = 1 << 20
MAX_OBJECT_LENGTH = 1 << 28
"""Maximum number of characters of one object."""

_DECODER = json.JSONDecoder()


def stream_objects(file: Path, key: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON list one by one.

    Args:
        file: Path of a JSON file that contains a list of objects, or an object that contains the
            list.
        key: Key of the list in that object; None if the file itself must be a list.

    Raises:
        DataError: If the file is missing, is not such a JSON file, ends early, or contains an entry
            that is not an object. The message names the entry.
    """
    for value, _ in stream_objects_with_progress(file, key):
        yield value


def stream_objects_with_progress(
    file: Path, key: str | None = None
) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield the objects of a JSON list, each with the fraction of the file that has been parsed.

    Args:
        file: Path of the JSON file.
        key: Key of the list; see `stream_objects`.

    Raises:
        DataError: If `stream_objects` would raise it.
    """
    try:
        size = max(1, file.stat().st_size)
        with file.open(encoding="utf-8") as stream:
            reader = _Reader(stream, file)
            for value in reader.iterate_objects(key):
                # A character takes one byte or more, so that the fraction is at most 1.
                yield value, reader.num_parsed / size
    except FileNotFoundError:
        raise DataError(f"the file {file} is missing") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error}); download it again") from None


class _Reader:
    """Window on the text of a JSON file that advances as objects are parsed."""

    def __init__(self, stream: IO[str], file: Path) -> None:
        self._stream = stream
        self._file = file
        self._text = ""
        self._chunk = CHUNK
        self._num_read = 0

    @property
    def num_parsed(self) -> int:
        """Number of parsed characters."""
        return self._num_read - len(self._text)

    def iterate_objects(self, key: str | None) -> Iterator[dict[str, Any]]:
        opening = self._take_character("[{", "a list of objects")
        if opening == "{":
            if key is None:
                raise DataError(
                    f"{self._file} contains an object; it should contain a list of objects"
                )
            self._seek_key(key)
            self._take_character("[", f"the list {key!r}")
        number = 0
        while self._peek() != "]":
            if number:
                self._take_character(",", f"a comma after entry {number - 1}")
            value = self._parse_value(f"entry {number}")
            if not isinstance(value, dict):
                raise DataError(
                    f"entry {number} of {self._file} is {value!r:.60}; expected an object"
                )
            yield value
            number += 1

    def _seek_key(self, key: str) -> None:
        while (current_key := self._parse_value("a key")) != key:
            self._take_character(":", f"a colon after {current_key!r:.60}")
            self._parse_value(f"the value of {current_key!r:.60}")
            if self._take_character(",}", "a comma") == "}":
                raise DataError(f"{self._file} has no key {key!r}")
        self._take_character(":", f"a colon after {key!r}")

    def _peek(self) -> str:
        while not (text := self._text.lstrip()):
            if not self._read_more():
                raise DataError(f"{self._file} ends early; download it again")
        self._text = text
        return text[0]

    def _take_character(self, allowed_characters: str, description: str) -> str:
        character = self._peek()
        if character not in allowed_characters:
            raise DataError(f"{self._file} has {self._text[:30]!r} in place of {description}")
        self._text = self._text[1:]
        return character

    def _parse_value(self, description: str) -> Any:
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text)
                require_shallow(self._text[:end])
            except RecursionError:
                raise DataError(
                    f"{description} of {self._file} is damaged: {TOO_DEEP}; download it again"
                ) from None
            except ValueError as error:  # also raised for a number with too many digits
                if len(self._text) > MAX_OBJECT_LENGTH or not self._read_more():
                    raise DataError(
                        f"{description} of {self._file} is not valid JSON "
                        f"({getattr(error, 'msg', error)}), or the file ends early"
                    ) from None
                continue
            # A number at the end of the window may continue in the next chunk.
            if end == len(self._text) and self._read_more():
                continue
            self._text = self._text[end:]
            self._chunk = CHUNK
            return value

    def _read_more(self) -> bool:
        """Append the next chunk to the window; return False at the end of the file.

        The chunk size doubles each time: every attempt parses a long object from its start again.
        """
        added = self._stream.read(self._chunk)
        self._chunk *= 2
        self._text += added
        self._num_read += len(added)
        return bool(added)
