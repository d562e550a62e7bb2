"""DICOM files read frame by frame: pixels, spacing and attributes that identify no patient."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
from numpy.typing import NDArray
from pydicom.filereader import read_partial
from pydicom.uid import UID

from data_tools.converters.dicom.decoding_limits import (
    check_frame,
    check_inflation,
    make_element_limit,
)
from data_tools.converters.dicom.gray_values import convert_gray, read_gray_range
from data_tools.converters.dicom.header_repairs import (
    repair_number_of_frames,
    repair_rescale,
    repair_transfer_syntax,
)
from data_tools.converters.dicom.options import DicomOptions, find_bare_elements
from data_tools.converters.dicom.padding import REPORT as PADDING_REPORT
from data_tools.converters.dicom.padding import fill_padding, find_padding
from data_tools.converters.dicom.pixel_decoding import (
    COLORS,
    MONOCHROME,
    PALETTE,
    count_unused_bits,
    decode_frame,
    require_decoder,
)
from data_tools.converters.dicom.pixel_spacing import ASPECT, REGIONS, SPACINGS, read_pixel_size
from data_tools.converters.dicom.pydicom_errors import IgnoreWarnings, convert_errors, format_uid
from data_tools.writing.lossless_images import shrink
from data_tools.writing.value_types import ValueRange, ValueType
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count

Array = NDArray[Any]

NO_IMAGES = {"SEG": "labels", "RTDOSE": "doses", "PR": "a presentation"}
"""Modalities whose pixels are not an image of a patient."""
NO_IMAGE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "labels",
    "1.2.840.10008.5.1.4.1.1.66.5": "labels",
    "1.2.840.10008.5.1.4.1.1.66.7": "labels",
    "1.2.840.10008.5.1.4.1.1.66.8": "labels",
    "1.2.840.10008.5.1.4.1.1.481.2": "doses",
}
"""SOP classes whose pixels are not an image: segmentations, surfaces, label maps, height maps and
doses. Files of these classes often state the modality of the segmented image."""
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PER_FRAME_KEYWORDS = (
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
    *("PhotometricInterpretation", "ModalityLUTSequence"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("ImageLaterality", "Laterality", "FrameLaterality"),
    *(*SPACINGS, REGIONS, ASPECT),
)
"""Elements that functional groups may override for each frame."""
_GROUPS = (
    *("PixelValueTransformationSequence", "FrameVOILUTSequence", "PixelMeasuresSequence"),
    "FrameAnatomySequence",
)


@dataclass(frozen=True)
class DicomFrame:
    """One image of a DICOM file.

    Attributes:
        pixels: (height, width), or (height, width, 3) RGB; shrunk if that was requested.
        is_color: Whether the pixels are RGB.
        scale: (y, x) factors by which the image was shrunk, at most 1.
        spacing: (y, x) millimeters per pixel, after shrinking.
        aspect: Height / width of a stored pixel.
        index: Index of the frame, from 0; None in files of one frame.
        attributes: Modality, view and side, which do not identify the patient.
    """

    pixels: Array
    is_color: bool
    scale: tuple[float, float]
    spacing: tuple[float, float] | None
    aspect: float
    index: int | None
    attributes: dict[str, Any]


class GrayRange(NamedTuple):
    """Gray values that a header allows.

    Attributes:
        values: Range after the modality transformation, if that is requested.
        bits: Number of stored bits; 0 for floats.
        has_unit: Whether a rescale gives the values a meaning that does not depend on the bits.
    """

    values: ValueRange
    bits: int
    has_unit: bool


class DicomFile:
    """DICOM file with its header in memory; frames are decoded on request.

    Args:
        path: Path of the file.
        options: Options of the conversion from DICOM files to images.

    Attributes:
        path: Path of the file.
        header: Elements before the pixels.
        instance: SOP instance UID; empty if it is missing.
        num_frames: Number of frames; as stated until `iterate_frames` has read the pixels, which
            may hold more.
        repairs: Descriptions of the repaired faults, as keys.
        dtype: Type of gray images, which all files of a dataset share; None: from this file alone.
        has_mixed_depths: Whether the files of the dataset differ in their stored bits, which the
            attributes then state.

    Raises:
        DataError: If the file is not a DICOM file or its header is damaged.
    """

    def __init__(self, path: Path, options: DicomOptions) -> None:
        self.path, self._options = path, options
        self.repairs: dict[str, None] = {}
        self.dtype: ValueType | None = None
        self.has_mixed_depths = False
        with convert_errors(path), IgnoreWarnings():
            self.header = self._read(stop_before_pixels=True)
            if find_bare_elements(path) is not None:
                self._note_repair("the preamble (128 bytes and DICM) is missing")
            self.instance = str(self.header.get("SOPInstanceUID", "") or "")
            self.num_frames = int(self.header.get("NumberOfFrames", None) or 1)

    def _read(self, *, stop_before_pixels: bool) -> pydicom.Dataset:
        # `force` parses a file without preamble; any other file would be read as garbage.
        offset = find_bare_elements(self.path)
        with self.path.open("rb") as file:
            stream = file if offset is None else io.BytesIO(file.read()[offset:])
            check_inflation(stream)
            # As `dcmread` does, with a limit on the number of elements.
            count_element = make_element_limit(stop_before_pixels=stop_before_pixels)
            dataset = read_partial(stream, count_element, force=offset is not None)
        is_compressed = "PixelData" in dataset and dataset["PixelData"].is_undefined_length
        if not is_compressed:
            self._note_repair(repair_transfer_syntax(dataset))
        return dataset

    def _note_repair(self, description: str | None) -> None:
        if description is not None:
            self.repairs[description] = None

    def explain_missing_image(self) -> str | None:
        """Return why the file has no image (a report, a plan, a segmentation), or None."""
        with convert_errors(self.path), IgnoreWarnings():
            modality = str(self.header.get("Modality", "") or "")
            if modality in NO_IMAGES:
                return f"it holds {NO_IMAGES[modality]} ({modality}), not an image"
            kind = self.header.get("SOPClassUID", None) or self.header.file_meta.get(
                "MediaStorageSOPClassUID", None
            )
            if content := NO_IMAGE_CLASSES.get(str(kind)):
                return f"it holds {content} ({format_uid(UID(str(kind)))}), not an image"
            if self.header.get("SegmentSequence", None):
                return "it holds labels (it has a SegmentSequence), not an image"
            if "Rows" in self.header and "Columns" in self.header:
                return None
            return (
                f"it contains no image ({format_uid(UID(str(kind))) if kind else 'no SOP class'})"
            )

    @property
    def group(self) -> str | None:
        """Hash of the patient's or the study's id; None if the file states neither."""
        keywords_by_group = {
            "patient": ("PatientID", "StudyInstanceUID"),
            "study": ("StudyInstanceUID",),
        }
        with convert_errors(self.path), IgnoreWarnings():
            for keyword in keywords_by_group.get(self._options.group, ()):
                identity = str(self.header.get(keyword, "") or "").strip()
                if identity:
                    return self._options.hash_identity(keyword, identity)
        return None

    @property
    def color_bits(self) -> int | None:
        """Number of stored bits of a color image; None for gray images and palettes."""
        with convert_errors(self.path), IgnoreWarnings():
            is_color = str(self.header.get("PhotometricInterpretation", "")) in COLORS
            return int(self.header.get("BitsStored", 0)) if is_color else None

    def list_gray_ranges(self) -> list[GrayRange]:
        """Return the ranges of the gray values that the header allows.

        There is one range per frame with functional groups, else one for all frames.

        Raises:
            DataError: If the header is damaged.
        """
        with convert_errors(self.path), IgnoreWarnings():
            if str(self.header.get("PhotometricInterpretation", "")) not in MONOCHROME:
                return []
            ranges = []
            groups = self.header.get("PerFrameFunctionalGroupsSequence", None) or []
            for index in range(max(1, len(groups))):
                header = self._build_frame_header(index)
                repair_rescale(header)
                values = read_gray_range(header, self._options.values)
                if values is not None:
                    bits = int(header.get("BitsStored", 0))
                    ranges.append(GrayRange(values, bits, has_unit=self._has_unit(header)))
            return ranges

    def _has_unit(self, header: pydicom.Dataset) -> bool:
        """Return whether a repaired rescale gives the values of a frame a unit."""
        if "RescaleSlope" not in header:
            return False
        # Many radiographs state the identity, whose type is missing or `US` (unspecified).
        is_identity = (header.RescaleSlope, header.RescaleIntercept) == (1, 0)
        has_type = str(header.get("RescaleType", "") or "US") != "US"
        return not is_identity or has_type or self.header.get("Modality", "") == "CT"

    def iterate_frames(self) -> Iterator[DicomFrame]:
        """Yield the frames, decoded one at a time.

        Raises:
            DataError: If pixels are missing or damaged, are stored in a form that cannot be decoded
                here, or lack the information for the requested `values`.
        """
        with convert_errors(self.path), IgnoreWarnings():
            require_decoder(self.header, self.path)
            unused = count_unused_bits(self.header, self.path)
            # Read the whole file: pydicom reads deflated files and some fragments only this way.
            dataset = self._read(stop_before_pixels=False)
            require_decoder(dataset, self.path)
            if not any(keyword in dataset for keyword in _PIXELS):
                raise DataError(
                    f"{self.path} has the header of an image but no pixels; replace the file"
                )
            self._note_repair(repair_number_of_frames(dataset))
            self.num_frames = int(dataset.get("NumberOfFrames", None) or 1)
        for index in range(self.num_frames):
            # Not around the yield: the filter of warnings must not apply to the caller.
            with convert_errors(self.path), IgnoreWarnings():
                frame = self._read_frame(dataset, index, unused)
            yield frame

    def _read_frame(self, dataset: pydicom.Dataset, index: int, unused: int) -> DicomFrame:
        check_frame(dataset, index)
        stored_values = decode_frame(dataset, self.path, index, unused)
        header = self._build_frame_header(index)
        pixels = stored_values
        if stored_values.ndim == 2:
            self._note_repair(repair_rescale(header))
            stored_values = self._fill_padding(dataset, index, stored_values, header)
            pixels = convert_gray(
                stored_values, header, self._options.values, self.path, self.dtype
            )
        small = shrink(pixels, self._options.longest_side)
        scale = (small.shape[0] / pixels.shape[0], small.shape[1] / pixels.shape[1])
        attributes = self._read_metadata(header)
        pixel_size = read_pixel_size(header, self.path)
        self._note_repair(pixel_size.problem)
        spacing = pixel_size.spacing
        if spacing is not None:
            spacing = (spacing[0] / scale[0], spacing[1] / scale[1])
            if pixel_size.source != SPACINGS[0]:
                attributes["spacing_from"] = pixel_size.source
        elif pixel_size.aspect != 1:
            attributes["pixel_aspect"] = pixel_size.aspect
        if self.has_mixed_depths and header.PhotometricInterpretation != PALETTE:
            attributes["bits_stored"] = int(header.get("BitsStored", 0))
        number = None if self.num_frames == 1 else index
        if number is not None:
            attributes["frame"] = number
        return DicomFrame(
            small,
            stored_values.ndim == 3,
            scale,
            spacing,
            pixel_size.aspect,
            number,
            attributes,
        )

    def _fill_padding(
        self, dataset: pydicom.Dataset, index: int, stored_values: Array, header: pydicom.Dataset
    ) -> Array:
        if self._options.padding == "keep":
            return stored_values
        is_padding = find_padding(dataset, index, stored_values)
        if is_padding is None:
            return stored_values
        self._note_repair(PADDING_REPORT)
        is_inverted = header.PhotometricInterpretation == "MONOCHROME1"
        slope = 1.0 if self._options.values == "stored" else float(header.get("RescaleSlope", 1))
        is_dark_high = is_inverted != (slope < 0)
        fallback = (1 << int(header.get("BitsStored", 0))) - 1 if is_dark_high else 0
        return fill_padding(stored_values, is_padding, is_dark_high=is_dark_high, fallback=fallback)

    def _build_frame_header(self, index: int) -> pydicom.Dataset:
        """Return the elements of one frame; functional groups override those of the file."""
        header = pydicom.Dataset()
        header.file_meta = self.header.file_meta
        for keyword in _PER_FRAME_KEYWORDS:
            if keyword in self.header:
                header[keyword] = self.header[keyword]
        shared = self.header.get("SharedFunctionalGroupsSequence", None) or []
        frames = self.header.get("PerFrameFunctionalGroupsSequence", None) or []
        frame_groups = frames[index : index + 1] or self._find_common_group(frames, index)
        for group in (*shared[:1], *frame_groups):
            for keyword in _GROUPS:
                for item in (group.get(keyword, None) or [])[:1]:
                    for element in item:
                        if element.keyword in _PER_FRAME_KEYWORDS:
                            header[element.keyword] = element
        return header

    def _find_common_group(self, frames: Sequence[pydicom.Dataset], index: int) -> Any:
        """Return a list with the functional groups of all frames, for a frame that has none."""
        contents = [[frame.get(keyword, None) for keyword in _GROUPS] for frame in frames]
        if any(content != contents[0] for content in contents):
            raise DataError(
                f"{self.path} states different values, windows or spacings for "
                f"{Count(len(frames)):frame} and none for frame {index}; fix the file"
            )
        return frames[:1]

    def _read_metadata(self, header: pydicom.Dataset) -> dict[str, Any]:
        """Return the attributes of a frame that do not identify the patient."""
        sources = {
            "modality": (self.header, ("Modality",)),
            "view": (self.header, ("ViewPosition",)),
            "laterality": (header, ("FrameLaterality", "ImageLaterality", "Laterality")),
        }
        attributes: dict[str, Any] = {}
        for name, (source, keywords) in sources.items():
            texts = (str(source.get(keyword, "") or "").strip() for keyword in keywords)
            if text := next(filter(None, texts), ""):
                attributes[name] = text
        return attributes
