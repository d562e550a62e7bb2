"""The data card: where a converted data set comes from, what it holds, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_tools.writing.split_summary import SplitSummary

UNKNOWN = "not stated"
UNVERIFIED = (
    "unverified on the full data set: this conversion was tested on small files of the format, "
    "never on the publisher's own; compare the counts below with the published ones"
)


@dataclass(frozen=True)
class DatasetProvenance:
    """Where a data set comes from.

    Attributes:
        title: Its name in sentences.
        homepage: Address where it is published.
        license: Terms of use.
        citation: What to cite.
        notes: Anything that a reader of results must know about the conversion.
    """

    title: str
    homepage: str = UNKNOWN
    license: str = UNKNOWN
    citation: str = UNKNOWN
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataCard:
    """One converted data set.

    Attributes:
        name: Short name.
        origin: Where it comes from.
        source: Folder or generator that was read.
        splits: What each split holds.
        verified: Whether this conversion has run on the publisher's own files.
    """

    name: str
    origin: DatasetProvenance
    source: str
    splits: tuple[SplitSummary, ...]
    verified: bool

    @property
    def num_skipped(self) -> int:
        """Number of objects left out of all splits together."""
        return sum(len(split.skipped) for split in self.splits)

    @property
    def warnings(self) -> list[str]:
        """Warnings of all splits, each with the name of its split."""
        return [f"{split.split}: {text}" for split in self.splits for text in split.warnings]

    def to_markdown(self) -> str:
        """The card as text; the same conversion gives the same text."""
        origin = self.origin
        lines = [
            f"# {origin.title}",
            "",
            f"- Name: {self.name}",
            f"- Home page: {origin.homepage}",
            f"- License: {origin.license}",
            f"- Cite: {origin.citation}",
            f"- Converted from: {self.source}",
            *(() if self.verified else (f"- Note: {UNVERIFIED}",)),
            *(f"- Note: {note}" for note in origin.notes),
            *(f"- Note, {split.split}: {note}" for split in self.splits for note in split.notes),
            *(f"- Warning, {warning}" for warning in self.warnings),
            "",
            *self._format_counts(),
            *self._format_pixel_fractions(),
            *self._format_changes(),
            f"## Left out: {self.num_skipped}",
            "",
        ]
        if self.num_skipped:
            rows = [
                (s.split, o.file, o.description, o.reason) for s in self.splits for o in s.skipped
            ]
            lines += [*_format_table(("split", "file", "object", "why"), rows), ""]
        return "\n".join(lines)

    def _format_counts(self) -> list[str]:
        header = ("", *(split.split for split in self.splits))
        rows = [("images", *(str(split.images) for split in self.splits))]
        # A class that only pixels have needs no row of zeros.
        rows += [
            (name, *(str(split.objects[name]) for split in self.splits))
            for name in self.splits[0].objects
            if any(split.objects[name] or not split.pixels for split in self.splits)
        ]
        return ["## Images and objects", "", *_format_table(header, rows), ""]

    def _format_pixel_fractions(self) -> list[str]:
        labeled = [split for split in self.splits if split.pixels]
        if not labeled:
            return []
        totals = [max(sum(split.pixels.values()), 1) for split in labeled]
        rows = [
            (name, *(f"{s.pixels[name] / t:.2%}" for s, t in zip(labeled, totals, strict=True)))
            for name in labeled[0].pixels
        ]
        header = ("", *(split.split for split in labeled))
        return ["## Share of the labeled pixels", "", *_format_table(header, rows), ""]

    def _format_changes(self) -> list[str]:
        rows = [
            (s.split, description, str(count))
            for s in self.splits
            for description, count in s.changed.items()
        ]
        return (
            ["## Changed", "", *_format_table(("split", "what", "objects"), rows), ""]
            if rows
            else []
        )


def _format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]
