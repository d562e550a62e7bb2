"""Damage inside of containers, whose lengths and checksums stay valid."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import tarfile
import zipfile

from tests.support.damage import Damage, damaged_bytes, damaged_json, damaged_text

NUMBERS = (0, 1, 2, 3, 7, 8, 16, 32, 127, 128, 255, 256, 32767, 32768, 65535, 65536)
LARGE = (2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)


def damage_numbers(content: bytes, draw: random.Random) -> bytes:
    """Write one to three integers of 1, 2, 4 or 8 bytes, mostly to the first 512 bytes."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        code = draw.choice(("B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
        size = struct.calcsize(code)
        end = len(changed) if draw.random() < 0.3 else min(len(changed), 512)
        start = draw.randrange(max(1, end - size))
        number = draw.choice((*NUMBERS, *LARGE, draw.randrange(1 << 16))) % (1 << 8 * size)
        changed[start : start + size] = struct.pack(code, number)
    if draw.random() < 0.1:
        del changed[draw.randrange(len(changed)) :]
    return bytes(changed)


def damage_binary(content: bytes, draw: random.Random) -> bytes:
    """Change bytes, numbers or lengths."""
    return draw.choice((damaged_bytes, damage_numbers, damage_numbers, damaged_text))(content, draw)


def damage_lines(content: bytes, draw: random.Random) -> bytes:
    """Damage one line of JSON, or repeat, remove or cut off a line."""
    lines = content.splitlines()
    place, change = draw.randrange(len(lines)), draw.random()
    if change < 0.7:
        lines[place] = damaged_json(lines[place], draw)
    elif change < 0.8:
        lines.insert(draw.randrange(len(lines) + 1), lines[place])
    elif change < 0.9:
        del lines[place]
    else:
        lines[place] = damaged_text(lines[place], draw)
    return b"\n".join(lines) + draw.choice((b"\n", b"\n", b""))


def damage_zip(content: bytes, draw: random.Random) -> bytes:
    """Damage, rename, repeat or remove one file of a zip archive."""
    if draw.random() < 0.2:
        return damage_binary(content, draw)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        kind = archive.infolist()[0].compress_type
        files = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place, change = draw.randrange(len(files)), draw.random()
    name, data = files[place]
    if change < 0.8:
        files[place] = (name, damage_binary(data or b"\0", draw))
    elif change < 0.85:
        files[place] = (damaged_text(name.encode(), draw).decode("utf-8", "replace"), data)
    elif change < 0.9:
        files[place] = (draw.choice(files)[0], data)
    else:
        del files[place]
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", kind) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data, kind)
    return written.getvalue()


def damage_safetensors(content: bytes, draw: random.Random) -> bytes:
    """Damage the JSON of the header, or the tensors."""
    if draw.random() < 0.2:
        return damage_binary(content, draw)
    (length,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + length], content[8 + length :]
    if draw.random() < 0.8:
        header = draw.choice((damaged_json, damaged_json, damaged_text))(header, draw)
    elif data:
        data = damage_binary(data, draw)
    return struct.pack("<Q", len(header)) + header + data


def damage_gzip(damage: Damage) -> Damage:
    """Return damage of content that is compressed with gzip."""

    def damage_content(content: bytes, draw: random.Random) -> bytes:
        if draw.random() < 0.2:
            return damage_binary(content, draw)
        return gzip.compress(damage(gzip.decompress(content), draw), mtime=0)

    return damage_content


def damage_tar(content: bytes, draw: random.Random) -> bytes:
    """Damage the header of one file, and correct its checksum."""
    if draw.random() < 0.2:
        return damage_binary(content, draw)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        start = draw.choice(archive.getmembers()).offset
    changed = bytearray(content)
    header = bytearray(damage_numbers(bytes(changed[start : start + 512]), draw)[:512].ljust(512))
    if draw.random() < 0.3:
        header[156:157] = draw.choice((b"0", b"1", b"2", b"3", b"5", b"6", b"L", b"K", b"x", b"g"))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    changed[start : start + 512] = header
    return bytes(changed)


def damage_tiff(content: bytes, draw: random.Random) -> bytes:
    """Write a number to the tag, type, count or value of one entry of the first directory."""
    if draw.random() < 0.3:
        return damage_binary(content, draw)
    order = "<" if content[:2] == b"II" else ">"
    is_big = struct.unpack(f"{order}H", content[2:4])[0] == 43
    (start,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", content, 8 if is_big else 4)
    (count,) = struct.unpack_from(f"{order}{'Q' if is_big else 'H'}", content, start)
    entry = start + (8 if is_big else 2) + draw.randrange(count) * (20 if is_big else 12)
    changed = bytearray(content)
    place, code = draw.choice(
        ((0, "H"), (2, "H"), (4, "Q"), (12, "H"), (12, "Q"))
        if is_big
        else ((0, "H"), (2, "H"), (4, "I"), (8, "H"), (8, "I"))
    )
    number = draw.choice((*NUMBERS, *LARGE, draw.randrange(1 << 10)))
    struct.pack_into(
        order + code, changed, entry + place, number % (1 << 8 * struct.calcsize(code))
    )
    return bytes(changed)


def damage_jpeg(content: bytes, draw: random.Random) -> bytes:
    """Damage, repeat or remove one segment."""
    if draw.random() < 0.2:
        return damage_binary(content, draw)
    segments, place = [], 2
    while place + 4 <= len(content) and content[place] == 0xFF and content[place + 1] != 0xDA:
        (length,) = struct.unpack(">H", content[place + 2 : place + 4])
        segments.append(content[place : place + 2 + length])
        place += 2 + length
    number, change = draw.randrange(len(segments)), draw.random()
    if change < 0.7:
        body = damage_binary(segments[number][4:] or b"\0", draw)[: (1 << 16) - 3]
        segments[number] = segments[number][:2] + struct.pack(">H", len(body) + 2) + body
    elif change < 0.85:
        segments.insert(draw.randrange(len(segments) + 1), segments[number])
    else:
        del segments[number]
    return content[:2] + b"".join(segments) + content[place:]


def damage_dicom(content: bytes, draw: random.Random) -> bytes:
    """Replace the value of one element of a file with explicit little-endian elements."""
    if draw.random() < 0.2:
        return damage_binary(content, draw)
    elements, place = [], 132
    while place + 8 <= len(content):
        head = 12 if content[place + 4 : place + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT") else 8
        code, at = ("<I", place + 8) if head == 12 else ("<H", place + 6)
        (length,) = struct.unpack_from(code, content, at)
        elements.append((content[place:at], code, content[place + head : place + head + length]))
        place += head + length
    number = draw.randrange(len(elements))
    start, code, value = elements[number]
    texts = (b"", b"0", b"-1", b"1e400", b"nan", b"MONOCHROME1", b"RGB", b"PALETTE COLOR", b"1\\2")
    if draw.random() < 0.5 and value:
        value = damage_numbers(value, draw) if len(value) < 64 else damaged_bytes(value, draw)
    else:
        value = draw.choice((*texts, struct.pack("<H", draw.choice(NUMBERS) % (1 << 16))))
    if draw.random() < 0.1:
        start = start[:4] + draw.choice((b"US", b"SS", b"DS", b"IS", b"LO", b"OW", b"SQ", b"UI"))
        code = "<I" if start[4:6] in (b"OW", b"SQ") else "<H"
        start += b"\0\0" if code == "<I" else b""
    value += b" " * (len(value) % 2)
    elements[number] = (start, code, value)
    if draw.random() < 0.1:
        del elements[draw.randrange(len(elements))]
    parts = [start + struct.pack(code, len(value)) + value for start, code, value in elements]
    return content[:132] + b"".join(parts)


def damage_json_text(content: bytes, draw: random.Random) -> bytes:
    """Damage values, or nest the content deeply."""
    if draw.random() < 0.03:
        depth = draw.choice((50, 1000, 3000))
        return b"[" * depth + content + b"]" * depth
    if draw.random() < 0.1:
        return json.dumps(draw.choice((None, 1, [], {}, "x", [json.loads(content)]))).encode()
    return damaged_json(content, draw)
