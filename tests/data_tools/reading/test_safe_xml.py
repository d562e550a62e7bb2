from pathlib import Path

import pytest

from data_tools.reading.safe_xml import read_xml
from resnet_tasks.errors import DataError

CHINESE = "\u4e2d"
"""A character that GB2312, GBK, Big5, Shift JIS and UTF-8 encode differently."""


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        *((name, name) for name in ("GB2312", "gbk", "big5", "Shift_JIS", "utf-8", "GB18030")),
        ("GB2312", "gb18030"),
        ("utf-16", "utf-8"),  # .NET declares the encoding of its strings, not of the file
    ],
)
def test_declared_encodings(declared: str, encoding: str, tmp_path: Path) -> None:
    text = f'<?xml version="1.0" encoding="{declared}"?>\n<a><name>{CHINESE}</name></a>'
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    assert read_xml(tmp_path / "a.xml").findtext("name") == CHINESE


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf", b"\r\n", b"\xef\xbb\xbf\n"])
def test_text_before_the_declaration(prefix: bytes, tmp_path: Path) -> None:
    text = f"<?xml version='1.0'?><a><name>{CHINESE}</name></a>"
    (tmp_path / "a.xml").write_bytes(prefix + text.encode())
    assert read_xml(tmp_path / "a.xml").findtext("name") == CHINESE
    (tmp_path / "b.xml").write_bytes(text.encode("utf-16"))
    assert read_xml(tmp_path / "b.xml").findtext("name") == CHINESE


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        (b"", "declares no encoding, but is not utf-8 text"),
        (b'<?xml version="1.0" encoding="utf-8"?>', "declares the encoding utf-8, but is not"),
        (b'<?xml version="1.0" encoding="nowhere"?>', "declares the unknown encoding 'nowhere'"),
        (b'<?xml version="1.0" encoding="zlib"?>', "declares the unknown encoding 'zlib'"),
    ],
)
def test_ambiguous_encodings_are_refused(declaration: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(declaration + f"<a>{CHINESE}</a>".encode("gbk"))
    with pytest.raises(DataError, match=rf"a\.xml .*{message}"):
        read_xml(tmp_path / "a.xml")


def test_namespaces_are_removed(tmp_path: Path) -> None:
    text = '<v:a xmlns:v="urn:v" xmlns="urn:w"><v:b><c>1</c></v:b><!-- note --></v:a>'
    (tmp_path / "a.xml").write_text(text)
    root = read_xml(tmp_path / "a.xml")
    assert (root.tag, root.findtext("b/c")) == ("a", "1")
