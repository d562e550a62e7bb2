"""DICOM files read frame by frame: pixels as their units ask, and what may be told of a patient.

The order of work on a gray frame is that of the standard (PS3.3, C.11 and C.12; PS3.4, N.2): stored
value -> modality LUT or rescale -> VOI LUT or window -> inversion where the file says MONOCHROME1.
Colors (RGB, YBR, palettes) become RGB and have no window.
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_tools.converters.dicom.options import DicomOptions
from data_tools.writing.lossless_images import choose_smallest_dtype, shrink
from resnet_tasks.errors import DataError

try:
    import pydicom
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import UID
except ModuleNotFoundError:
    raise DataError(
        "DICOM files are read by pydicom, which is not installed: "
        "`pip install 'resnet-tasks[medical]'`"
    ) from None

Array = NDArray[Any]

DECODER_ERRORS = (
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    ArithmeticError,
    AssertionError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    pydicom.errors.InvalidDicomError,
    pydicom.errors.BytesLengthException,
)
"""What pydicom and its decoders raise on files that are damaged."""

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
NO_IMAGES = {"SEG": "labels", "RTDOSE": "doses", "PR": "a presentation"}
"""Modalities whose pixels are no image of a patient."""
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
"""By preference; the second is measured at the detector, not in the patient."""
PACKAGES = {
    "pyjpegls": ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"),
    "pylibjpeg pylibjpeg-openjpeg": (
        *("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"),
        *("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"),
    ),
    "python-gdcm": (
        *("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"),
        *("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"),
    ),
}
"""What decodes a transfer syntax that Pillow does not; all under permissive licenses."""

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PER_FRAME_KEYWORDS = (
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
    *("PhotometricInterpretation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("ImageLaterality", "Laterality", "FrameLaterality", *SPACINGS),
)
"""Elements that functional groups may state anew for each frame."""
_GROUPS = (
    *("PixelValueTransformationSequence", "FrameVOILUTSequence", "PixelMeasuresSequence"),
    "FrameAnatomySequence",
)


@dataclass(frozen=True)
class DicomFrame:
    """One image of a DICOM file.

    Attributes:
        pixels: `(height, width)`, or `(height, width, 3)` RGB; shrunk where that was asked for.
        is_color: Whether it is RGB.
        scale: (y, x) by which it was shrunk, up to 1.
        spacing: (y, x) millimeters per pixel, after shrinking.
        index: Of the frame, from 0; None in files of one frame.
        attributes: Modality, view, side: what says nothing about who it is.
    """

    pixels: Array
    is_color: bool
    scale: tuple[float, float]
    spacing: tuple[float, float] | None
    index: int | None
    attributes: dict[str, Any]


class _Range(NamedTuple):
    """Values that a frame can hold: its gray scale."""

    low: float
    high: float


class DicomFile:
    """The header of a DICOM file, and its frames when they are asked for.

    Args:
        path: The file.
        options: How its pixels become images.

    Raises:
        DataError: If it is no DICOM file or its header is damaged.
    """

    def __init__(self, path: Path, options: DicomOptions) -> None:
        self.path, self._options = path, options
        with _convert_errors(path), _IgnoreWarnings():
            self.header = pydicom.dcmread(path, stop_before_pixels=True)
            self.instance = str(self.header.get("SOPInstanceUID", "") or "")
            self.num_frames = int(self.header.get("NumberOfFrames", None) or 1)

    def explain_missing_image(self) -> str | None:
        """Why the file holds no image (a report, a plan, a segmentation); None where it does."""
        with _convert_errors(self.path), _IgnoreWarnings():
            modality = str(self.header.get("Modality", "") or "")
            if modality in NO_IMAGES:
                return f"it holds {NO_IMAGES[modality]} ({modality}), no image"
            if "Rows" in self.header and "Columns" in self.header:
                return None
            kind = self.header.get("SOPClassUID", None) or self.header.file_meta.get(
                "MediaStorageSOPClassUID", None
            )
            return f"it holds no image ({_format_uid(UID(str(kind))) if kind else 'no SOP class'})"

    @property
    def group(self) -> str | None:
        """Hash of the patient's or the study's id; None where the file names neither."""
        keywords_by_group = {
            "patient": ("PatientID", "StudyInstanceUID"),
            "study": ("StudyInstanceUID",),
        }
        with _convert_errors(self.path), _IgnoreWarnings():
            for keyword in keywords_by_group.get(self._options.group, ()):
                identity = str(self.header.get(keyword, "") or "").strip()
                if identity:
                    return self._options.hash_identity(keyword, identity)
        return None

    def iterate_frames(self) -> Iterator[DicomFrame]:
        """Its frames, one decoded at a time.

        Raises:
            DataError: If pixels are missing or damaged, are stored in a way that cannot be decoded
                here, or lack what `values` asks for.
        """
        with _convert_errors(self.path), _IgnoreWarnings():
            self._require_decoder()
            unused = self._count_unused_bits()
            # The file as a whole: pydicom reads deflated files, and some fragments, only so.
            dataset = pydicom.dcmread(self.path)
            if not any(keyword in dataset for keyword in _PIXELS):
                raise DataError(f"{self.path} has an image's header but no pixels; replace it")
        for index in range(self.num_frames):
            # Not around the yield: a filter of warnings must not hold for whoever asks for frames.
            with _convert_errors(self.path), _IgnoreWarnings():
                frame = self._read_frame(dataset, index, unused)
            yield frame

    def _read_frame(self, dataset: pydicom.Dataset, index: int, unused: int) -> DicomFrame:
        stored_values = self._decode_frame(dataset, index, unused)
        header = self._build_frame_header(index)
        pixels = (
            self._convert_gray(stored_values, header) if stored_values.ndim == 2 else stored_values
        )
        small = shrink(pixels, self._options.longest_side)
        scale = (small.shape[0] / pixels.shape[0], small.shape[1] / pixels.shape[1])
        spacing, attributes = self._read_metadata(header)
        if spacing is not None:
            spacing = (spacing[0] / scale[0], spacing[1] / scale[1])
        number = None if self.num_frames == 1 else index
        if number is not None:
            attributes["frame"] = number
        return DicomFrame(small, stored_values.ndim == 3, scale, spacing, number, attributes)

    def _require_decoder(self) -> None:
        syntax = self.header.file_meta.get("TransferSyntaxUID", None)
        if syntax is None:
            raise DataError(f"{self.path} does not state its transfer syntax; repair the file")
        try:
            is_decodable = get_decoder(syntax).is_available
        except NotImplementedError:
            is_decodable = False
        if not is_decodable:
            raise DataError(
                f"{self.path} is stored as {_format_uid(syntax)}; {_suggest_remedy(syntax)}"
            )

    def _count_unused_bits(self) -> int:
        """How many bits below the stored ones mean nothing."""
        interpretation = str(self.header.get("PhotometricInterpretation", ""))
        if interpretation not in (*MONOCHROME, *COLORS, PALETTE):
            raise DataError(
                f"{self.path} has the photometric interpretation {interpretation!r}; read are "
                f"{', '.join((*MONOCHROME, *COLORS, PALETTE))}"
            )
        bits_allocated = int(self.header.get("BitsAllocated", 0))
        bits_stored = int(
            self.header.get("BitsStored", bits_allocated)
        )  # floats have allocated ones only
        unused = int(self.header.get("HighBit", bits_stored - 1)) - (bits_stored - 1)
        is_encapsulated = self.header.file_meta.TransferSyntaxUID.is_encapsulated
        if not 0 < bits_stored <= unused + bits_stored <= bits_allocated or (
            unused and is_encapsulated
        ):
            raise DataError(
                f"{self.path} states {bits_allocated} bits allocated, {bits_stored} stored and the "
                "high bit "
                f"{bits_stored - 1 + unused}, which contradict one another; repair the file"
            )
        return unused

    def _decode_frame(self, dataset: pydicom.Dataset, index: int, unused: int) -> Array:
        """`(h, w)` gray or `(h, w, 3)` RGB, as stored, in the machine's byte order."""
        # pydicom cuts off what lies above the stored bits, and takes them to begin at bit 0.
        options: dict[str, Any] = (
            {"bits_stored": unused + int(dataset.BitsStored)} if unused else {}
        )
        try:
            frame = pixel_array(dataset, index=index, **options)
        except RuntimeError as error:
            syntax = dataset.file_meta.TransferSyntaxUID
            if not syntax.is_encapsulated:
                raise
            raise DataError(
                f"{self.path}: the pixels, stored as {_format_uid(syntax)}, cannot be decoded "
                f"({_format_error(error)}); if the file is sound, {_suggest_remedy(syntax)}"
            ) from None
        native = frame.astype(frame.dtype.newbyteorder("="), copy=False)
        native = native >> unused if unused else native  # floats cannot be shifted
        if dataset.PhotometricInterpretation == PALETTE:
            return apply_color_lut(native, dataset)
        return native

    def _build_frame_header(self, index: int) -> pydicom.Dataset:
        """The elements that hold for one frame: functional groups before the file's own."""
        header = pydicom.Dataset()
        header.file_meta = self.header.file_meta
        for keyword in _PER_FRAME_KEYWORDS:
            if keyword in self.header:
                header[keyword] = self.header[keyword]
        shared = self.header.get("SharedFunctionalGroupsSequence", None) or []
        frames = self.header.get("PerFrameFunctionalGroupsSequence", None) or []
        for group in (*shared[:1], *frames[index : index + 1]):
            for keyword in _GROUPS:
                for item in (group.get(keyword, None) or [])[:1]:
                    for element in item:
                        if element.keyword in _PER_FRAME_KEYWORDS:
                            header[element.keyword] = element
        return header

    def _convert_gray(self, stored_values: Array, header: pydicom.Dataset) -> Array:
        """A gray frame with the values that are wanted, white high."""
        value_kind = self._options.values
        is_inverted = header.PhotometricInterpretation == "MONOCHROME1"
        limits = _compute_stored_range(stored_values, header)
        if value_kind == "stored":
            return _narrow(stored_values, limits, is_inverted=is_inverted)
        values = apply_modality_lut(stored_values, header)
        limits = _compute_modality_range(limits, header)
        if value_kind == "modality":
            return _narrow(values, limits, is_inverted=is_inverted)
        if value_kind == "voi":
            fraction = self._apply_voi(values, limits, header)
        else:
            level, width = value_kind
            fraction = (values.astype(np.float64) - (level - width / 2)) / width
        fraction = np.clip(fraction, 0, 1)
        return np.rint(65535 * (1 - fraction if is_inverted else fraction)).astype(np.uint16)

    def _apply_voi(
        self, values: Array, limits: _Range, header: pydicom.Dataset
    ) -> NDArray[np.float64]:
        """0..1 through the first VOI LUT, else the first window."""
        if header.get("VOILUTSequence", None):
            bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
            integer_values = np.rint(values).astype(np.int64)
            return np.asarray(apply_voi_lut(integer_values, header) / (2**bits - 1))
        if header.get("WindowCenter", None) is None or header.get("WindowWidth", None) is None:
            raise DataError(
                f"{self.path} states no window and no VOI LUT; choose values=modality, or a window "
                "of your own such as values=[40,400]"
            )
        windowed = apply_voi_lut(values, header)  # from the lowest to the highest of `limits`
        return np.asarray((windowed - limits.low) / (limits.high - limits.low))

    def _read_metadata(
        self, header: pydicom.Dataset
    ) -> tuple[tuple[float, float] | None, dict[str, Any]]:
        """(y, x) spacing in millimeters, and the attributes."""
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
        for keyword in SPACINGS:
            if header.get(keyword, None):
                spacing = tuple(float(value) for value in header[keyword].value)
                if len(spacing) != 2 or not all(0 < distance < math.inf for distance in spacing):
                    raise DataError(
                        f"{self.path} has the {keyword} {list(spacing)}; it must be two numbers "
                        "above 0 (rows, columns): mend or remove it"
                    )
                if keyword != "PixelSpacing":
                    attributes["spacing_from"] = keyword
                return (spacing[0], spacing[1]), attributes
        return None, attributes


class _IgnoreWarnings(warnings.catch_warnings):
    """Keeps pydicom's remarks on slightly invalid elements to itself: they are common."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")


@contextmanager
def _convert_errors(path: Path) -> Iterator[None]:
    """Turns what readers raise into one sentence that names the file."""
    try:
        yield
    except DataError:
        raise
    except DECODER_ERRORS as error:
        raise DataError(f"the DICOM file {path} cannot be read: {_format_error(error)}") from None


def _format_error(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _format_uid(uid: UID) -> str:
    """The name of a UID on one line, whatever a damaged file has there."""
    return " ".join(uid.name.split())


def _suggest_remedy(syntax: UID) -> str:
    packages = [name for name, syntaxes in PACKAGES.items() if syntax in syntaxes]
    if packages:
        return f"`pip install {packages[0]}` lets pydicom decode it"
    return "store it uncompressed"


def _compute_stored_range(stored_values: Array, header: pydicom.Dataset) -> _Range:
    if stored_values.dtype.kind == "f":
        return _Range(float(stored_values.min()), float(stored_values.max()))
    bits = int(header.BitsStored)
    if stored_values.dtype.kind == "i":
        return _Range(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
    return _Range(0, 2.0**bits - 1)


def _compute_modality_range(stored_range: _Range, header: pydicom.Dataset) -> _Range:
    """What the modality LUT, or the rescale, makes of the range of stored values."""
    if header.get("ModalityLUTSequence", None):
        return _Range(0, 2.0 ** int(header.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
    slope, intercept = header.get("RescaleSlope", None), header.get("RescaleIntercept", None)
    if slope is None or intercept is None:
        return stored_range
    if not float(slope):
        raise ValueError("the rescale slope is 0, which makes all pixels equal")
    return _Range(*(float(slope) * value + float(intercept) for value in stored_range))


def _narrow(values: Array, limits: _Range, *, is_inverted: bool) -> Array:
    """Values in the smallest type that holds all that the file can hold, inverted or not."""
    low, high = min(limits), max(limits)
    if is_inverted:
        # In doubles: a sum of the type's ends does not fit the type.
        values = (low + high) - values.astype(np.float64)
    is_whole = values.dtype.kind in "iu" or bool((values == np.rint(values)).all())
    kind = choose_smallest_dtype(low, high, is_whole=is_whole)
    if is_whole and np.dtype(kind).itemsize > 2:
        # 16 stored bits and a shift leave 16 bits by little, and next to never in fact.
        lowest = float(values.min())
        lowest = min(lowest, -1.0) if low < 0 else lowest  # signed in one file, signed in all
        kind = choose_smallest_dtype(lowest, float(values.max()), is_whole=True)
    return values.astype(kind)
