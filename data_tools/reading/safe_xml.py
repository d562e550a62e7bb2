"""XML files of annotation tools, read so that a small file cannot grow without bound."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from resnet_tasks.errors import DataError


def read_xml(file: Path) -> ElementTree.Element:
    """The root of an XML file that declares no document type.

    Raises:
        DataError: If the file is missing, is no XML, or declares a document type (only there can
            entities be declared, which make a small file huge).
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
            f"the annotation file {file} is missing; add it or take its name out of the list"
        ) from None
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); mend its name") from None
    guard = expat.ParserCreate()
    guard.StartDoctypeDeclHandler = refuse
    try:
        guard.Parse(content, True)
        return ElementTree.fromstring(content)
    except (expat.ExpatError, ElementTree.ParseError, LookupError, ValueError) as error:
        raise DataError(f"{file} is not valid XML ({error}); repair it") from error
