"""Reader of the XML files of annotation tools, safe against entities that expand without bound."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from resnet_tasks.errors import DataError


def read_xml(file: Path) -> ElementTree.Element:
    """Return the root element of an XML file that declares no document type.

    Raises:
        DataError: If the file is missing, is not valid XML, or declares a document type. Entities
            can only be declared there, and they can make a small file huge.
    """

    def refuse(name: str, *_: object) -> None:
        raise DataError(
            f"{file} declares the document type {name!r}; annotation files have none, and entities "
            "can make a small file huge, so remove the declaration"
        )

    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"the annotation file {file} is missing; add it or remove its name from the list"
        ) from None
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); fix its name") from None
    # ElementTree expands entities while it parses, so expat first checks for a document type.
    guard = expat.ParserCreate()
    guard.StartDoctypeDeclHandler = refuse
    try:
        guard.Parse(content, True)
        return ElementTree.fromstring(content)
    except (expat.ExpatError, ElementTree.ParseError, LookupError, ValueError) as error:
        raise DataError(f"{file} is not valid XML ({error}); repair it") from error
