"""Data card of a converted dataset: its origin, content, and skipped or changed objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.files.safe_names import remove_folders
from resnet_tasks.foreign_text import escape_markdown

UNKNOWN = "not stated"
_ADDRESS = re.compile(r"https?://[\w.:/?=&%#~+,@-]+", re.ASCII)
UNVERIFIED = (
    "unverified on the full dataset: this conversion was tested on small files of the format, "
    "never on the publisher's own; compare the counts below with the published ones"
)


@dataclass(frozen=True)
class DatasetProvenance:
    """Origin of a dataset.

    Attributes:
        title: Full name of the dataset.
        homepage: Address at which the dataset is published.
        license: Terms of use.
        citation: Publication to cite.
        notes: Facts about the conversion that a reader of results must know.
    """

    title: str
    homepage: str = UNKNOWN
    license: str = UNKNOWN
    citation: str = UNKNOWN
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataCard:
    """Description of one converted dataset.

    Attributes:
        name: Short name.
        origin: Origin of the dataset.
        source: Folder or generator that was read.
        splits: Summary of each split.
        verified: Whether this conversion has run on the publisher's own files.
    """

    name: str
    origin: DatasetProvenance
    source: str
    splits: tuple[SplitSummary, ...]
    verified: bool

    @property
    def num_skipped(self) -> int:
        """Number of skipped objects in all splits together."""
        return sum(len(split.skipped) for split in self.splits)

    @property
    def warnings(self) -> list[str]:
        """Warnings of all splits, each with the name of its split."""
        return [f"{split.split}: {text}" for split in self.splits for text in split.warnings]

    def to_markdown(self) -> str:
        """Return the card as Markdown; the same conversion gives the same text.

        Absolute paths are reduced to names, because the card is shared with the dataset.
        """
        origin = self.origin
        lines = [
            f"# {_format_text(origin.title)}",
            "",
            f"- Name: {_format_text(self.name)}",
            f"- Home page: {_format_address(origin.homepage)}",
            f"- License: {_format_text(origin.license)}",
            f"- Cite: {_format_text(origin.citation)}",
            f"- Converted from: {_format_text(self.source)}",
            *(() if self.verified else (f"- Note: {UNVERIFIED}",)),
            *(f"- Note: {_format_text(note)}" for note in origin.notes),
            *(
                f"- Note, {escape_markdown(split.split)}: {_format_text(note)}"
                for split in self.splits
                for note in split.notes
            ),
            *(f"- Warning, {_format_text(warning)}" for warning in self.warnings),
            "",
            *self._format_counts(),
            *self._format_pixel_fractions(),
            *self._format_changes(),
            f"## Skipped: {self.num_skipped}",
            "",
        ]
        if self.num_skipped:
            rows = [
                (s.split, *map(remove_folders, (o.file, o.description, o.reason)))
                for s in self.splits
                for o in s.skipped
            ]
            lines += [*_format_table(("split", "file", "object", "reason"), rows), ""]
        return "\n".join(lines)

    def _format_counts(self) -> list[str]:
        header = ("", *(split.split for split in self.splits))
        rows = [("images", *(str(split.images) for split in self.splits))]
        # A class that occurs only in label maps would add a row of zeros.
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
            (s.split, remove_folders(description), str(count))
            for s in self.splits
            for description, count in s.changed.items()
        ]
        return (
            ["## Changed", "", *_format_table(("split", "change", "objects"), rows), ""]
            if rows
            else []
        )


def _format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(map(escape_markdown, line)) + " |" for line in lines]


def _format_address(text: str) -> str:
    """Return the address of a page, which stays a link, or escape any other text."""
    return text if _ADDRESS.fullmatch(text) else _format_text(text)


def _format_text(text: str) -> str:
    return escape_markdown(remove_folders(text))
