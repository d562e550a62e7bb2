"""Measurement of how far a tree is written in the vocabulary of its field.

A `Kind` is one habit with a limit on its rate; detectron2, litgpt, segmentation_models.pytorch,
supervision, timm and torchtune stay below all of these limits. Text is measured in every file,
names and docstrings in Python files only.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SUFFIXES = {".py", ".md", ".yaml", ".j2", ".toml"}
"""Suffixes of the files that are measured."""


@dataclass(frozen=True)
class Kind:
    """A habit of language and the rate up to which it passes.

    Attributes:
        name: Name of the kind.
        advice: What to write instead.
        limit: Highest rate that passes.
        unit: Counted unit of the rate; None for the plain number of hits.
        scale: Number of units that the rate refers to: 100 for per cent.
    """

    name: str
    advice: str
    limit: float
    unit: str | None = None
    scale: int = 100


KINDS = (
    Kind("participle", "start the name of a function with a verb: load_run, not loaded", 3.0,
         "functions"),
    Kind("of-suffix", "name functions compute_area or get_area, not area_of", 0.5, "functions"),
    Kind("vague name", "name the thing: detections, kept_indices, image_path", 0.5,
         "bound names"),
    Kind("docstring opening", "open with an imperative verb (functions) or a noun (classes)", 1.0,
         "docstrings"),
    Kind("args fragment", "write a noun phrase: `recipe: Recipe of the run.`", 20),
    Kind("picture", "write image", 5.0, "mentions of images"),
    Kind("odd word", "use the standard word of the field", 2.0, "words", 10_000),
    Kind("British spelling", "use US spelling", 1.0, "words", 10_000),
)  # fmt: skip


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_IRREGULAR_PARTICIPLES = _words(
    "begun bound brought built chosen cut drawn found given gone grown heard held kept known left "
    "made met put seen sent shown spread taken told written"
)
_VERBS_LIKE_PARTICIPLES = _words(
    "cropped cut embed feed fixed flipped need nested padded put read red resized seed shared "
    "speed spread"
)
"""Verbs, and adjectives of the field, that look like participles."""
_VAGUE_NAMES = _words(
    "about asked chosen done drawn each found given held here kept known made named opened others "
    "rest said seen shown stored taken them there told wanted what where whole"
)
_DOCSTRING_OPENINGS = _words("As How None That Those What Where Whether Which Who Whom Whose Why")
_FRAGMENT_OPENINGS = _words("As At By For From In Of On That Those To What Where Whose With")
_ODD_WORDS = (
    r"anew|behind it|beside|data sets?|foremost|judge[sd]?|judging|learnt|leapt|mend(?:ed)?|moods?"
    r"|nobody|sittings?|surpass(?:es)?|taught|teach(?:es)?|tells?|told|wanted|whence|whoever"
)
_ODD_TURNS = (
    r"a stranger's?|apart from that|as ever|at life size|by hand of|free of torch"
    r"|go(?:es)? on (?:with|where)|gone on|in words|kept apart|leaves? out|left out|let go of"
    r"|made again|of its own|of one's own|says so|speaks? for|stands for|what there is"
)
_ODD = re.compile(rf"(?<![.\w])(?:{_ODD_WORDS}|{_ODD_TURNS})\b", re.IGNORECASE)
"""A method of a stream such as `.tell()` is excluded by the dot."""
_BRITISH = re.compile(
    r"\b(?:"
    r"(?:behavi|col|fav|hon|neighb)our\w*"
    r"|(?:initial|normal|optim|recogn|serial|summar|visual)is(?:e|ed|er|es|ing|ation)\w*"
    r"|(?:cancell|labell|modell)\w+"
    r"|analyse[ds]?|catalogue\w*|centre[ds]?|grey\w*|licence[ds]?|metres?"
    r")\b",
    re.IGNORECASE,
)
_IMAGE_OR_PICTURE = re.compile(r"image|picture", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z]{2,}")
_ARGUMENT = re.compile(r" *\*{0,2}\w+: (\w+) ")
_NOUN_DECORATORS = {"cached_property", "classmethod", "property"}
"""Decorators of properties, which are nouns, and of constructors such as `padded_from`."""


@dataclass(frozen=True, order=True)
class Hit:
    """One place of a kind.

    Attributes:
        path: Path of the file, relative to the root of the measurement.
        line: Number of the line, from 1.
        text: Name or text at fault.
    """

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@dataclass
class Measurement:
    """Hits of every kind in a set of files, and the number of units that they could occur in.

    Attributes:
        hits: Name of the kind -> its hits.
        units: Unit of a rate -> its number.
        num_files: Number of measured files.
    """

    hits: dict[str, list[Hit]] = field(default_factory=lambda: {kind.name: [] for kind in KINDS})
    units: Counter[str] = field(default_factory=Counter)
    num_files: int = 0

    def compute_rate(self, kind: Kind) -> float:
        """Return the number of hits per `kind.scale` units."""
        num_hits = len(self.hits[kind.name])
        return (
            num_hits if kind.unit is None else kind.scale * num_hits / max(self.units[kind.unit], 1)
        )

    def describe(self, kind: Kind) -> str:
        """Return the rate, the limit, the advice, and one line per hit."""
        per = "" if kind.unit is None else f" per {kind.scale:,} {kind.unit}"
        rate = f"{kind.name}: {self.compute_rate(kind):.2f}{per}, limit {kind.limit:g}"
        return "\n".join([f"{rate}; {kind.advice}", *map(str, sorted(self.hits[kind.name]))])

    def add_file(self, path: Path, root: Path) -> None:
        """Measure the text of a file, and the names and docstrings of a Python file."""
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(root).as_posix()
        self.num_files += 1
        hits = list(_find_in_text(text, self.units))
        if path.suffix == ".py":
            hits += _find_in_code(ast.parse(text), self.units)
        for kind, line, shown in hits:
            self.hits[kind].append(Hit(name, line, shown))


def measure(paths: Iterable[Path], root: Path) -> Measurement:
    """Measure files, and the files below folders."""
    measurement = Measurement()
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.suffix in SUFFIXES and "__pycache__" not in file.parts:
                measurement.add_file(file, root)
    return measurement


def _find_in_text(text: str, units: Counter[str]) -> Iterator[tuple[str, int, str]]:
    """Yield (kind, line number, text) of words, and count words and mentions of images."""
    for number, line in enumerate(text.splitlines(), 1):
        units["words"] += len(_WORD.findall(line))
        for mention in _IMAGE_OR_PICTURE.findall(line):
            units["mentions of images"] += 1
            if mention.lower() == "picture":
                yield "picture", number, line.strip()
        for kind, pattern in (("odd word", _ODD), ("British spelling", _BRITISH)):
            for match in pattern.finditer(line):
                yield kind, number, f"{match.group()!r} in: {line.strip()}"


def _find_in_code(tree: ast.Module, units: Counter[str]) -> Iterator[tuple[str, int, str]]:
    """Yield (kind, line number, text) of names and docstrings, and count what they are among."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                units["bound names"] += 1
                if name in _VAGUE_NAMES:
                    yield "vague name", node.lineno, name
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from _find_in_function_name(node, units)
                yield from _find_in_docstring(node, units)
            case ast.ClassDef() | ast.Module():
                yield from _find_in_docstring(node, units)


def _find_in_function_name(
    node: ast.FunctionDef | ast.AsyncFunctionDef, units: Counter[str]
) -> Iterator[tuple[str, int, str]]:
    if node.name.startswith("__"):
        return
    units["functions"] += 1
    first, *others = node.name.strip("_").split("_")
    is_participle = first.endswith("ed") or first in _IRREGULAR_PARTICIPLES
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    if is_participle and first not in _VERBS_LIKE_PARTICIPLES and not decorators & _NOUN_DECORATORS:
        yield "participle", node.lineno, node.name
    if others and others[-1] == "of":
        yield "of-suffix", node.lineno, node.name


def _find_in_docstring(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module, units: Counter[str]
) -> Iterator[tuple[str, int, str]]:
    docstring = ast.get_docstring(node)
    if not docstring:
        return
    units["docstrings"] += 1
    first_line, *other_lines = docstring.splitlines()
    start = node.body[0].lineno
    # "None of the ..." opens without a subject; "None" alone is a value.
    opening = first_line.lstrip("`").partition(" ")[0]
    if opening in _DOCSTRING_OPENINGS and (opening != "None" or first_line.startswith("None of")):
        yield "docstring opening", start, first_line
    for offset, line in enumerate(other_lines, 1):
        argument = _ARGUMENT.match(line)
        if argument and line.startswith(" ") and argument[1] in _FRAGMENT_OPENINGS:
            yield "args fragment", start + offset, line.strip()
