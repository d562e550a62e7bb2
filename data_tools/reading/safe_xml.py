"""Reader of the XML files of annotation tools, safe against entities that expand without bound."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from resnet_tasks.errors import DataError

_DECLARATION = re.compile(
    rb"<\?xml\b[^>]*?\bencoding\s*=\s*[\"'](?P<encoding>[A-Za-z0-9._-]+)[\"'][^>]*\?>"
)
_SUPERSETS = {
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
    # A declaration in readable ASCII contradicts UTF-16; .NET writes such files.
    **dict.fromkeys(("utf-16", "utf-16le", "utf-16be"), "utf-8"),
}
"""Declared encoding in lower case -> encoding that is used; GB2312 files often contain GBK."""


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
    content = _encode_as_utf8(content, file)
    # ElementTree expands entities while it parses, so expat first checks for a document type.
    guard = expat.ParserCreate()
    guard.StartDoctypeDeclHandler = refuse
    try:
        guard.Parse(content, True)
        return _remove_namespaces(ElementTree.fromstring(content))
    except (expat.ExpatError, ElementTree.ParseError, LookupError, ValueError) as error:
        raise DataError(f"{file} is not valid XML ({error}); repair it") from error


def _remove_namespaces(root: ElementTree.Element) -> ElementTree.Element:
    """Remove the namespaces from the names of elements, which ElementTree writes as `{URI}name`."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _encode_as_utf8(content: bytes, file: Path) -> bytes:
    """Return the content of an XML file in UTF-8, without its declaration.

    Expat knows only few encodings. Tools write GB2312, Shift JIS and others.

    Raises:
        DataError: If the content does not have the encoding that it declares. Without a declaration
            the encoding is UTF-8.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content
    body = content.removeprefix(codecs.BOM_UTF8).lstrip()
    declaration = _DECLARATION.match(body)
    stated = declaration["encoding"].decode("ascii") if declaration else None
    encoding = _SUPERSETS.get((stated or "utf-8").lower(), stated or "utf-8")
    try:
        text = body[declaration.end() if declaration else 0 :].decode(encoding)
    except LookupError:
        raise DataError(
            f"{file} declares the unknown encoding {stated!r}; save it as UTF-8"
        ) from None
    except UnicodeError as error:
        statement = f"declares the encoding {stated}" if stated else "declares no encoding"
        raise DataError(
            f"{file} is not valid XML: it {statement}, but is not {encoding} text ({error}); "
            "declare the encoding that it has, or save it as UTF-8"
        ) from None
    return text.encode("utf-8", errors="surrogatepass")
