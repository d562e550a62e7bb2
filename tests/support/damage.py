"""Files with random damage, and how often what reads them accepts or refuses them."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any
from xml.etree import ElementTree

import yaml

from resnet_tasks.errors import ResnetTasksError

Damage = Callable[[bytes, random.Random], bytes]

WORDS = ("", "x", "-1", "0.5", "1e999", "nan", "9" * 30, "9" * 5000, "\x00", "../a", "/", "a" * 300)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 10**400, float("nan"), float("inf"), "", "x", "\x00", "../../etc"),
    *([], [[]], [1, 2], {}, {"a": 1}, "a" * 300),
)
BYTES = (
    *(b"<", b'"', b"{", b"]", b"\x00", b"\xff\xfe", b"-", b",", b"\n", b"&a;"),
    *(b"9" * 400, b"9" * 5000),
)


def damaged_text(data: bytes, draw: random.Random) -> bytes:
    """Bytes cut out, put in or moved."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        start = draw.randrange(len(found) + 1)
        stop = min(len(found), start + draw.randrange(10))
        other = draw.randrange(len(found) + 1)
        found[start:stop] = draw.choice((b"", *BYTES, bytes(found[other : other + 20])))
    return bytes(found)


def damaged_bytes(data: bytes, draw: random.Random) -> bytes:
    """One to three bytes replaced."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        found[draw.randrange(len(found))] = draw.randrange(256)
    return bytes(found)


def damaged_words(data: bytes, draw: random.Random) -> bytes:
    """One word of a text replaced."""
    words = data.decode().split(" ")
    words[draw.randrange(len(words))] = draw.choice((*WORDS, "\n", "7", "1"))
    return " ".join(words).encode()


def damaged_json(data: bytes, draw: random.Random) -> bytes:
    """One or two values replaced or taken out."""
    content = json.loads(data)
    for _ in range(draw.randint(1, 2)):
        places: list[tuple[Any, Any]] = []
        left = [content]
        while left:
            node = left.pop()
            keys = list(node) if isinstance(node, dict) else range(len(node))
            places += [(node, key) for key in keys]
            left += [node[key] for key in keys if isinstance(node[key], dict | list)]
        if places:
            node, key = draw.choice(places)
            if draw.random() < 0.2:
                del node[key]
            else:
                node[key] = deepcopy(draw.choice(VALUES))
    return json.dumps(content).encode()


def damaged_yaml(data: bytes, draw: random.Random) -> bytes:
    """A word of the text replaced, or values of what it says, written as YAML's flow style."""
    if draw.random() < 0.5:
        return damaged_words(data, draw)
    return damaged_json(json.dumps(yaml.safe_load(data)).encode(), draw)


def damaged_xml(data: bytes, draw: random.Random) -> bytes:
    """One or two attributes, texts or tags replaced or taken out."""
    root = ElementTree.fromstring(data)
    for _ in range(draw.randint(1, 2)):
        element = draw.choice(list(root.iter()))
        word = draw.choice([word for word in WORDS if "\x00" not in word])
        if element.attrib and draw.random() < 0.7:
            key = draw.choice(list(element.attrib))
            if draw.random() < 0.2:
                del element.attrib[key]
            else:
                element.set(key, word)
        elif draw.random() < 0.7:
            element.text = word
        elif draw.random() < 0.5:
            element.tag = draw.choice(("box", "mask", "polygon", "image", "track", "object"))
        else:
            element.clear()
    return ElementTree.tostring(root)


def damaged_png(data: bytes, draw: random.Random) -> bytes:
    """Bytes of one chunk changed, mostly with a checksum that fits, so that they are looked at."""
    chunks, place = [], 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append(
            (data[place + 4 : place + 8], bytearray(data[place + 8 : place + 8 + length]))
        )
        place += length + 12
    kind, content = chunks[draw.randrange(len(chunks))]
    for _ in range(draw.randint(1, 3) if content else 0):
        at = draw.randrange(len(content))
        if kind == b"IHDR" and at in (1, 5):
            continue  # sides of a million pixels: below the limits, and slow to find wanting
        content[at] = draw.choice((0, 1, 3, 8, 16, 255, draw.randrange(256)))
    if draw.random() < 0.2:
        del chunks[draw.randrange(len(chunks))]
    written = data[:8]
    for kind, content in chunks:
        check = zlib.crc32(kind + content) ^ (draw.random() < 0.1)
        written += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
    return written[: draw.randrange(len(written))] if draw.random() < 0.1 else written


def outcomes(
    good: bytes,
    use: Callable[[bytes], object],
    damage: Damage,
    count: int,
    seed: str,
    *,
    is_checked: bool = False,
) -> Counter[str]:
    """How often damaged content is accepted and refused; any error that is not ours is raised.

    Args:
        good: What is damaged; every fourth time as mere bytes.
        use: Reads it.
        damage: As its form suggests.
        count: Cases.
        seed: Of the damage.
        is_checked: Whether a checksum finds all damage, so that none need be accepted.
    """
    found: Counter[str] = Counter()
    draw = random.Random(f"{seed} 0")
    for number in range(count):
        content = (damaged_text if number % 4 == 0 else damage)(good, draw)
        try:
            use(content)
            found["accepted"] += 1
        except ResnetTasksError:
            found["refused"] += 1
        except BaseException as error:
            error.add_note(f"case {number} of {seed!r}: {content[:3000]!r}")
            raise
    assert found["refused"] > 0
    assert found["accepted"] > 0 or is_checked
    return found
