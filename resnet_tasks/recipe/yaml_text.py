"""Strict YAML: YAML 1.2 scalars, no tags, no aliases, no duplicate keys, known line numbers.

PyYAML reads YAML 1.1, where `1e-4` is text and `no` is a boolean. Here `1e-4` is a number, and only
`true` and `false` are booleans.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from resnet_tasks.errors import RecipeError
from resnet_tasks.files.regular_files import read_file_or_pipe

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the top of a document to a value."""

MAX_DEPTH = 30
"""Depth above which nesting is rejected, before it exhausts the interpreter's stack."""

MAX_DIGITS = 1000
"""Length above which digits stay text: Python cannot convert them, and no setting needs them."""

MAX_CHARACTERS = 4_000_000
"""Maximum length of a document; 21,841 class names of ImageNet-21k take less than 1 MB."""

MAX_VALUES = 100_000
"""Maximum number of keys and values of a document, each of which takes about 50 microseconds."""

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOLEANS = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True)
class YamlDocument:
    """Parsed YAML text.

    Attributes:
        value: Dicts with text keys, lists, text, numbers, booleans and None.
        lines: Key path -> line where the value begins, counted from 1.
    """

    value: Any
    lines: dict[KeyPath, int]


def format_key_path(path: KeyPath) -> str:
    """Format a key path as in messages and overrides: `data.train.0.annotations`."""
    return ".".join(map(str, path))


def parse_yaml(
    text: str, source: str, *, number_keys: bool = False, text_keys: Collection[str] = ()
) -> YamlDocument:
    """Parse one YAML document.

    Args:
        text: YAML text.
        source: Name of the file or override, for error messages.
        number_keys: Whether to accept keys that are not text, such as numbers, and to read them as
            written. Files of other tools that number their classes need this.
        text_keys: Top-level keys whose values are read as written, such as `007` for a name.

    Raises:
        RecipeError: If the text is not YAML, exceeds a limit, or has a tag, an alias, a duplicate
            key, or a key that is not text.
    """
    if len(text) > MAX_CHARACTERS:
        raise RecipeError(
            f"{source} has {len(text):,} characters, more than the limit of {MAX_CHARACTERS:,} for "
            "YAML; is it the right file?"
        )
    lines: dict[KeyPath, int] = {}
    try:
        root = _NodeLoader(text).get_single_node()
        value: Any = None if root is None else _node_to_value(root, (), lines, number_keys)
        for key_node, node in root.value if isinstance(root, yaml.MappingNode) else ():
            if key_node.value in text_keys:
                value[key_node.value] = _node_to_text(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position_text = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise RecipeError(
            f"{source}{position_text}: this is not valid YAML: {problem}; fix it"
        ) from None
    except yaml.YAMLError as error:
        raise RecipeError(
            f"{source}: this is not valid YAML: {' '.join(str(error).split())}; fix it"
        ) from None
    return YamlDocument(value, lines)


def read_yaml_text(path: Path) -> str:
    """Return the text of a YAML file, without reading more than a document may have.

    Args:
        path: Path of the file, or of a pipe.

    Raises:
        OSError: If it cannot be read, or is too long.
        UnicodeDecodeError: If it is not UTF-8.
    """
    return read_file_or_pipe(path, 4 * MAX_CHARACTERS).decode("utf-8")


def parse_scalar(text: str) -> Any:
    """Return the value of an unquoted YAML 1.2 scalar: None, bool, int, float, or the text."""
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text) and len(text) <= MAX_DIGITS:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL_FLOAT.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


def dump_yaml(value: Any) -> str:
    """Format plain values as YAML that `parse_yaml` reads back unchanged."""
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=None,
        allow_unicode=True,
        width=100,
    )
    return text


def dump_inline(value: Any) -> str:
    """Format a plain value as YAML in one line, to follow `key: `; also the key itself."""
    entries: str = yaml.dump(
        [value], Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=math.inf
    )
    text = entries.strip()[1:-1]
    return json.dumps(value) if "\n" in text else text  # JSON escapes line breaks


def _node_to_value(
    node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], number_keys: bool
) -> Any:
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return [
            _node_to_value(child, (*path, i), lines, number_keys)
            for i, child in enumerate(node.value)
        ]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = _node_to_key(key_node, number_keys)
            if key in mapping:
                first = lines[(*path, key)]
                raise yaml.MarkedYAMLError(
                    problem=(
                        f"the key {format_key_path((*path, key))!r} is repeated; it first appears "
                        f"on line {first}; keep one of the two"
                    ),
                    problem_mark=key_node.start_mark,
                )
            mapping[key] = _node_to_value(value_node, (*path, key), lines, number_keys)
            lines[(*path, key)] = key_node.start_mark.line + 1
        return mapping
    return parse_scalar(node.value) if _is_plain(node) else node.value


def _node_to_text(node: yaml.Node) -> Any:
    """Return the value of a node whose scalars and keys are all text, as written."""
    if isinstance(node, yaml.SequenceNode):
        return [_node_to_text(child) for child in node.value]
    if isinstance(node, yaml.MappingNode):
        return {key.value: _node_to_text(child) for key, child in node.value}
    return node.value


def _is_plain(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None


def _node_to_key(node: yaml.Node, number_keys: bool) -> str:
    key = parse_scalar(node.value) if _is_plain(node) and not number_keys else node.value
    if isinstance(node, yaml.ScalarNode) and isinstance(key, str):
        return key
    raise yaml.MarkedYAMLError(
        problem="a key must be text; put it in quotes", problem_mark=node.start_mark
    )


class _NodeLoader(yaml.SafeLoader):
    """Loader that rejects tags and aliases, which recipes do not need, and excessive nesting."""

    _depth = 0
    _num_values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, f"the alias *{event.anchor} is not allowed; write out the value")
        if getattr(event, "tag", None) is not None:
            self._refuse(event, f"the tag {event.tag} is not allowed; write a plain value")
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            self._refuse(event, f"there are more than {MAX_VALUES:,} keys and values")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse(event, f"the nesting is more than {MAX_DEPTH} levels deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    @staticmethod
    def _refuse(event: yaml.Event, problem: str) -> None:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes text that YAML 1.1 or 1.2 would read as another type."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base class's signature
        return True


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(rf"^(?:{_INTEGER.pattern})$"), list("-+0123456789")
)
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(rf"^(?:{_FLOAT.pattern})$"), list("-+.0123456789")
)


def get_value(path: KeyPath, document: Any) -> Any:
    """Return the value at a key path of a parsed document; None if there is none."""
    value = document
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value
