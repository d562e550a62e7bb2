"""DICOM files read frame by frame: pixels as their units ask, and what may be told of a patient.

The order of work on a grey frame is that of the standard (PS3.3, C.11 and C.12; PS3.4, N.2): stored
value -> modality LUT or rescale -> VOI LUT or window -> inversion where the file says MONOCHROME1.
Colours (RGB, YBR, palettes) become RGB and have no window.
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

from data_tools.deep_pictures import shrink, smallest_type
from data_tools.dicom_reading import DicomReading
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

DAMAGE = (
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
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
NO_PICTURES = {"SEG": "labels", "RTDOSE": "doses", "PR": "a presentation"}
"""Modalities whose pixels are no picture of a patient."""
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
"""What decodes a transfer syntax that Pillow does not; all under permissive licences."""

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_OF_FRAMES = (
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
    """One picture of a DICOM file.

    Attributes:
        pixels: `(height, width)`, or `(height, width, 3)` RGB; shrunk where that was asked for.
        is_colour: Whether it is RGB.
        scale: (y, x) by which it was shrunk, up to 1.
        spacing: (y, x) millimetres per pixel, after shrinking.
        index: Of the frame, from 0; None in files of one frame.
        attributes: Modality, view, side: what says nothing about who it is.
    """

    pixels: Array
    is_colour: bool
    scale: tuple[float, float]
    spacing: tuple[float, float] | None
    index: int | None
    attributes: dict[str, Any]


class _Range(NamedTuple):
    """Values that a frame can hold: its grey scale."""

    low: float
    high: float


class DicomFile:
    """The header of a DICOM file, and its frames when they are asked for.

    Args:
        path: The file.
        reading: How its pixels become pictures.

    Raises:
        DataError: If it is no DICOM file or its header is damaged.
    """

    def __init__(self, path: Path, reading: DicomReading) -> None:
        self.path, self._reading = path, reading
        with _damage(path), _Quiet():
            self.header = pydicom.dcmread(path, stop_before_pixels=True)
            self.instance = str(self.header.get("SOPInstanceUID", "") or "")
            self.num_frames = int(self.header.get("NumberOfFrames", None) or 1)

    def lacks_picture(self) -> str | None:
        """Why the file holds no picture (a report, a plan, a segmentation); None where it does."""
        with _damage(self.path), _Quiet():
            modality = str(self.header.get("Modality", "") or "")
            if modality in NO_PICTURES:
                return f"it holds {NO_PICTURES[modality]} ({modality}), no picture"
            if "Rows" in self.header and "Columns" in self.header:
                return None
            kind = self.header.get("SOPClassUID", None) or self.header.file_meta.get(
                "MediaStorageSOPClassUID", None
            )
            return f"it holds no picture ({_named(UID(str(kind))) if kind else 'no SOP class'})"

    @property
    def group(self) -> str | None:
        """Hash of the patient's or the study's id; None where the file names neither."""
        wanted = {"patient": ("PatientID", "StudyInstanceUID"), "study": ("StudyInstanceUID",)}
        with _damage(self.path), _Quiet():
            for keyword in wanted.get(self._reading.group, ()):
                found = str(self.header.get(keyword, "") or "").strip()
                if found:
                    return self._reading.hashed(keyword, found)
        return None

    def frames(self) -> Iterator[DicomFrame]:
        """Its frames, one decoded at a time.

        Raises:
            DataError: If pixels are missing or damaged, are stored in a way that cannot be decoded
                here, or lack what `values` asks for.
        """
        with _damage(self.path), _Quiet():
            self._require_decoder()
            unused = self._unused_bits()
            # The file as a whole: pydicom reads deflated files, and some fragments, only so.
            data = pydicom.dcmread(self.path)
            if not any(keyword in data for keyword in _PIXELS):
                raise DataError(f"{self.path} has a picture's header but no pixels; replace it")
        for index in range(self.num_frames):
            # Not around the yield: a filter of warnings must not hold for whoever asks for frames.
            with _damage(self.path), _Quiet():
                frame = self._frame(data, index, unused)
            yield frame

    def _frame(self, data: pydicom.Dataset, index: int, unused: int) -> DicomFrame:
        stored = self._decoded(data, index, unused)
        header = self._frame_header(index)
        pixels = self._grey(stored, header) if stored.ndim == 2 else stored
        small = shrink(pixels, self._reading.longest_side)
        scale = (small.shape[0] / pixels.shape[0], small.shape[1] / pixels.shape[1])
        spacing, attributes = self._described(header)
        if spacing is not None:
            spacing = (spacing[0] / scale[0], spacing[1] / scale[1])
        number = None if self.num_frames == 1 else index
        if number is not None:
            attributes["frame"] = number
        return DicomFrame(small, stored.ndim == 3, scale, spacing, number, attributes)

    def _require_decoder(self) -> None:
        syntax = self.header.file_meta.get("TransferSyntaxUID", None)
        if syntax is None:
            raise DataError(f"{self.path} does not state its transfer syntax; repair the file")
        try:
            is_decodable = get_decoder(syntax).is_available
        except NotImplementedError:
            is_decodable = False
        if not is_decodable:
            raise DataError(f"{self.path} is stored as {_named(syntax)}; {_remedy(syntax)}")

    def _unused_bits(self) -> int:
        """How many bits below the stored ones mean nothing."""
        interpretation = str(self.header.get("PhotometricInterpretation", ""))
        if interpretation not in (*MONOCHROME, *COLOURS, PALETTE):
            raise DataError(
                f"{self.path} has the photometric interpretation {interpretation!r}; read are "
                f"{', '.join((*MONOCHROME, *COLOURS, PALETTE))}"
            )
        allocated = int(self.header.get("BitsAllocated", 0))
        stored = int(self.header.get("BitsStored", allocated))  # floats have allocated ones only
        unused = int(self.header.get("HighBit", stored - 1)) - (stored - 1)
        is_encapsulated = self.header.file_meta.TransferSyntaxUID.is_encapsulated
        if not 0 < stored <= unused + stored <= allocated or (unused and is_encapsulated):
            raise DataError(
                f"{self.path} states {allocated} bits allocated, {stored} stored and the high bit "
                f"{stored - 1 + unused}, which contradict one another; repair the file"
            )
        return unused

    def _decoded(self, data: pydicom.Dataset, index: int, unused: int) -> Array:
        """`(h, w)` grey or `(h, w, 3)` RGB, as stored, in the machine's byte order."""
        # pydicom cuts off what lies above the stored bits, and takes them to begin at bit 0.
        options: dict[str, Any] = {"bits_stored": unused + int(data.BitsStored)} if unused else {}
        try:
            frame = pixel_array(data, index=index, **options)
        except RuntimeError as error:
            syntax = data.file_meta.TransferSyntaxUID
            if not syntax.is_encapsulated:
                raise
            raise DataError(
                f"{self.path}: the pixels, stored as {_named(syntax)}, cannot be decoded "
                f"({_sentence(error)}); if the file is sound, {_remedy(syntax)}"
            ) from None
        native = frame.astype(frame.dtype.newbyteorder("="), copy=False)
        native = native >> unused if unused else native  # floats cannot be shifted
        if data.PhotometricInterpretation == PALETTE:
            return apply_color_lut(native, data)
        return native

    def _frame_header(self, index: int) -> pydicom.Dataset:
        """The elements that hold for one frame: functional groups before the file's own."""
        header = pydicom.Dataset()
        header.file_meta = self.header.file_meta
        for keyword in _OF_FRAMES:
            if keyword in self.header:
                header[keyword] = self.header[keyword]
        shared = self.header.get("SharedFunctionalGroupsSequence", None) or []
        frames = self.header.get("PerFrameFunctionalGroupsSequence", None) or []
        for group in (*shared[:1], *frames[index : index + 1]):
            for keyword in _GROUPS:
                for item in (group.get(keyword, None) or [])[:1]:
                    for element in item:
                        if element.keyword in _OF_FRAMES:
                            header[element.keyword] = element
        return header

    def _grey(self, stored: Array, header: pydicom.Dataset) -> Array:
        """A grey frame with the values that are wanted, white high."""
        wanted = self._reading.values
        is_inverted = header.PhotometricInterpretation == "MONOCHROME1"
        limits = _stored_range(stored, header)
        if wanted == "stored":
            return _narrowed(stored, limits, is_inverted=is_inverted)
        values = apply_modality_lut(stored, header)
        limits = _modality_range(limits, header)
        if wanted == "modality":
            return _narrowed(values, limits, is_inverted=is_inverted)
        if wanted == "voi":
            share = self._voi(values, limits, header)
        else:
            level, width = wanted
            share = (values.astype(np.float64) - (level - width / 2)) / width
        share = np.clip(share, 0, 1)
        return np.rint(65535 * (1 - share if is_inverted else share)).astype(np.uint16)

    def _voi(self, values: Array, limits: _Range, header: pydicom.Dataset) -> NDArray[np.float64]:
        """0..1 through the first VOI LUT, else the first window."""
        if header.get("VOILUTSequence", None):
            bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
            whole = np.rint(values).astype(np.int64)
            return np.asarray(apply_voi_lut(whole, header) / (2**bits - 1))
        if header.get("WindowCenter", None) is None or header.get("WindowWidth", None) is None:
            raise DataError(
                f"{self.path} states no window and no VOI LUT; choose values=modality, or a window "
                "of your own such as values=[40,400]"
            )
        windowed = apply_voi_lut(values, header)  # from the lowest to the highest of `limits`
        return np.asarray((windowed - limits.low) / (limits.high - limits.low))

    def _described(
        self, header: pydicom.Dataset
    ) -> tuple[tuple[float, float] | None, dict[str, Any]]:
        """(y, x) spacing in millimetres, and the attributes."""
        sources = {
            "modality": (self.header, ("Modality",)),
            "view": (self.header, ("ViewPosition",)),
            "laterality": (header, ("FrameLaterality", "ImageLaterality", "Laterality")),
        }
        attributes: dict[str, Any] = {}
        for name, (source, keywords) in sources.items():
            texts = (str(source.get(keyword, "") or "").strip() for keyword in keywords)
            if found := next(filter(None, texts), ""):
                attributes[name] = found
        for keyword in SPACINGS:
            if header.get(keyword, None):
                spacing = tuple(float(value) for value in header[keyword].value)
                if len(spacing) != 2 or not all(0 < each < math.inf for each in spacing):
                    raise DataError(
                        f"{self.path} has the {keyword} {list(spacing)}; it must be two numbers "
                        "above 0 (rows, columns): mend or remove it"
                    )
                if keyword != "PixelSpacing":
                    attributes["spacing_from"] = keyword
                return (spacing[0], spacing[1]), attributes
        return None, attributes


class _Quiet(warnings.catch_warnings):
    """Keeps pydicom's remarks on slightly invalid elements to itself: they are common."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turns what readers raise into one sentence that names the file."""
    try:
        yield
    except DataError:
        raise
    except DAMAGE as error:
        raise DataError(f"the DICOM file {path} cannot be read: {_sentence(error)}") from None


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _named(uid: UID) -> str:
    """The name of a UID on one line, whatever a damaged file has there."""
    return " ".join(uid.name.split())


def _remedy(syntax: UID) -> str:
    packages = [name for name, syntaxes in PACKAGES.items() if syntax in syntaxes]
    if packages:
        return f"`pip install {packages[0]}` lets pydicom decode it"
    return "store it uncompressed"


def _stored_range(stored: Array, header: pydicom.Dataset) -> _Range:
    if stored.dtype.kind == "f":
        return _Range(float(stored.min()), float(stored.max()))
    bits = int(header.BitsStored)
    if stored.dtype.kind == "i":
        return _Range(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
    return _Range(0, 2.0**bits - 1)


def _modality_range(stored: _Range, header: pydicom.Dataset) -> _Range:
    """What the modality LUT, or the rescale, makes of the range of stored values."""
    if header.get("ModalityLUTSequence", None):
        return _Range(0, 2.0 ** int(header.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
    slope, intercept = header.get("RescaleSlope", None), header.get("RescaleIntercept", None)
    if slope is None or intercept is None:
        return stored
    if not float(slope):
        raise ValueError("the rescale slope is 0, which makes all pixels equal")
    return _Range(*(float(slope) * value + float(intercept) for value in stored))


def _narrowed(values: Array, limits: _Range, *, is_inverted: bool) -> Array:
    """Values in the smallest type that holds all that the file can hold, inverted or not."""
    low, high = min(limits), max(limits)
    if is_inverted:
        # In doubles: a sum of the type's ends does not fit the type.
        values = (low + high) - values.astype(np.float64)
    is_whole = values.dtype.kind in "iu" or bool((values == np.rint(values)).all())
    kind = smallest_type(low, high, is_whole=is_whole)
    if is_whole and np.dtype(kind).itemsize > 2:
        # 16 stored bits and a shift leave 16 bits by little, and next to never in fact.
        lowest = float(values.min())
        lowest = min(lowest, -1.0) if low < 0 else lowest  # signed in one file, signed in all
        kind = smallest_type(lowest, float(values.max()), is_whole=True)
    return values.astype(kind)
