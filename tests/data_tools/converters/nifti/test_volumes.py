from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from data_tools.converters.nifti.layouts import Case
from data_tools.converters.nifti.orientation import require_orientation_code
from data_tools.converters.nifti.volumes import Volume
from resnet_tasks.errors import DataError

FILES = Path(nibabel.__file__).parent / "tests" / "data"
RAS = np.diag([2.0, 3.0, 5.0, 1.0])
"""Millimeters to the right, the front and the head by voxel."""


def save(file: Path, values: np.ndarray, affine: np.ndarray = RAS, **header: Any) -> Path:
    image = nibabel.Nifti1Image(values, affine)
    if "slope" in header:
        image.header.set_slope_inter(header["slope"], header.get("inter", 0))
    nibabel.save(image, file)
    return file


def volume(tmp_path: Path, values: np.ndarray, plane: Any = "axial", **header: Any) -> Volume:
    image = save(tmp_path / "v.nii.gz", values, **header)
    labels = save(tmp_path / "l.nii.gz", np.zeros(values.shape[:3], np.uint8),
                  header.get("affine", RAS))  # fmt: skip
    return Volume(Case("v", (image,), labels), plane)


def marked() -> np.ndarray:
    """`(R, A, S)` of size 2 x 3 x 4: a voxel's digits say how far right, front and up it lies."""
    right, front, up = np.meshgrid(range(2), range(3), range(4), indexing="ij")
    return (100 * right + 10 * front + up).astype(np.int16)


def test_planes_by_hand(tmp_path: Path) -> None:
    axial = volume(tmp_path, marked())
    assert (axial.num_slices, axial.spacing, axial.distance) == (4, (3, 2), 5)
    # Third slice from below; from front to back, from the patient's right to left.
    np.testing.assert_array_equal(axial.read_image(2), [[122, 22], [112, 12], [102, 2]])
    coronal = volume(tmp_path, marked(), "coronal")
    assert (coronal.num_slices, coronal.spacing, coronal.distance) == (3, (5, 2), 3)
    np.testing.assert_array_equal(coronal.read_image(0), [[103, 3], [102, 2], [101, 1], [100, 0]])
    sagittal = volume(tmp_path, marked(), "sagittal")
    assert (sagittal.num_slices, sagittal.spacing, sagittal.distance) == (2, (5, 3), 2)
    # From the right; from head to foot, from front to back.
    np.testing.assert_array_equal(
        sagittal.read_image(0), [[123, 113, 103], [122, 112, 102], [121, 111, 101], [120, 110, 100]]
    )


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("axes", ["LPS", "RAS", "ASL", "PIR", "SRA"])
def test_the_stored_orientation_does_not_matter(tmp_path: Path, plane: Any, axes: str) -> None:
    expected = volume(tmp_path, marked(), plane)
    slices = [expected.read_image(i) for i in range(expected.num_slices)]
    image = nibabel.Nifti1Image(marked(), RAS)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(RAS), nibabel.orientations.axcodes2ornt(axes)
    )
    turned = image.as_reoriented(turn)
    assert "".join(nibabel.aff2axcodes(turned.affine)) == axes
    made = volume(tmp_path, np.asarray(turned.dataobj), plane, affine=turned.affine)
    assert (made.spacing, made.distance) == (expected.spacing, expected.distance)
    np.testing.assert_array_equal([made.read_image(i) for i in range(made.num_slices)], slices)


def test_published_volumes_are_read_as_nibabel_reads_them(tmp_path: Path) -> None:
    for name in ("anatomical.nii", "functional.nii", "example4d.nii.gz", "example_nifti2.nii.gz"):
        image = nibabel.load(FILES / name)
        canonical = np.asarray(nibabel.as_closest_canonical(image).dataobj)
        blank = save(tmp_path / "l.nii", np.zeros(image.shape[:3], np.uint8), image.affine)
        made = Volume(Case("c", (FILES / name,), blank), "axial")
        assert made.num_slices == image.shape[2]
        assert made.spacing == pytest.approx(image.header.get_zooms()[:2])
        for index in (0, made.num_slices - 1):
            expected = canonical[::-1, ::-1, index].swapaxes(0, 1)
            np.testing.assert_allclose(made.read_image(index), expected, rtol=1e-6)


def test_values_are_scaled_and_typed(tmp_path: Path) -> None:
    values = marked()

    def kind(array: np.ndarray, **header: Any) -> np.dtype:
        return volume(tmp_path, array, **header).read_image(0).dtype

    assert kind(values) == np.int16
    assert kind(values.astype(np.uint8)) == np.uint8
    assert kind(values.astype(np.uint16)) == np.uint16  # although 123 is the largest
    assert kind(values.astype(np.float64)) == np.float32
    assert kind(values.astype(np.int32) * 1000) == np.int32
    made = volume(tmp_path, values, slope=0.25).read_image(2)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, [[30.5, 5.5], [28, 3], [25.5, 0.5]])


def test_hounsfield_units_of_a_header(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(marked().astype(np.uint16), RAS)
    nibabel.save(image, tmp_path / "v.nii")
    raw = bytearray((tmp_path / "v.nii").read_bytes())
    raw[112:120] = np.array([1, -1024], dtype="<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "v.nii").write_bytes(raw)
    labels = save(tmp_path / "l.nii", np.zeros((2, 3, 4), np.uint8))
    made = Volume(Case("v", (tmp_path / "v.nii",), labels), "axial").read_image(2)
    assert made.dtype == np.int16
    assert made[0].tolist() == [122 - 1024, 22 - 1024]


def test_channels(tmp_path: Path) -> None:
    values = marked()
    stacked = volume(tmp_path, np.stack([values, -values, values * 0], axis=3)).read_image(2)
    assert stacked.shape == (3, 2, 3)
    assert stacked[0, 0].tolist() == [122, -122, 0]
    files = [save(tmp_path / f"v{i}.nii.gz", a) for i, a in enumerate([values, values / 2])]
    labels = save(tmp_path / "l.nii.gz", np.zeros((2, 3, 4), np.uint8))
    apart = Volume(Case("v", tuple(files), labels), "axial").read_image(2)
    assert apart.dtype == np.float32
    assert apart[0, 0].tolist() == [122, 61]
    flat = volume(tmp_path, values[:, :, :, None, None]).read_image(2)
    assert flat.shape == (3, 2)


def test_units_are_millimeters(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(marked(), np.diag([0.002, 0.003, 0.005, 1]))
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "v.nii")
    blank = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.uint8), RAS)
    nibabel.save(blank, tmp_path / "l.nii")
    made = Volume(Case("v", (tmp_path / "v.nii",), tmp_path / "l.nii"), "axial")
    assert made.spacing == pytest.approx((3, 2))


def test_labels_by_hand(tmp_path: Path) -> None:
    values = np.zeros((2, 3, 4))
    values[0, 0, 2], values[1, 2, 2] = 7, 3
    image = save(tmp_path / "v.nii", marked())
    labels = save(tmp_path / "l.nii", values)  # stored as doubles, as many tools do
    made = Volume(Case("v", (image,), labels), "axial")
    ids = {0: 0, 3: 1, 7: 255}
    assert made.read_labels(2, ids).tolist() == [[1, 0], [0, 0], [0, 255]]
    assert not made.read_labels(0, ids).any()
    with pytest.raises(DataError, match=r"l\.nii has the unknown values 7 \(1 pixel\) in slice 2"):
        made.read_labels(2, {0: 0, 3: 1})
    values[0, 0, 2] = 6.5
    made = Volume(Case("v", (image,), save(tmp_path / "l.nii", values)), "axial")
    with pytest.raises(DataError, match=r"values 6\.5 \(1 pixel\) .*; allowed: 0, 3, 7"):
        made.read_labels(2, ids)


def test_labels_must_lie_where_their_volume_lies(tmp_path: Path) -> None:
    def run(values: np.ndarray, affine: np.ndarray = RAS, **options: Any) -> Volume:
        labels = save(tmp_path / "l.nii", values, affine)
        return Volume(Case("v", (image,), labels), "axial", **options)

    image = save(tmp_path / "v.nii", marked())
    blank = np.zeros((2, 3, 4), np.uint8)
    with pytest.raises(
        DataError, match=r"l\.nii has the size \(2, 4, 3\), .*v\.nii has \(2, 3, 4\);"
    ):
        run(np.zeros((2, 4, 3), np.uint8))
    with pytest.raises(DataError, match="labels have three axes"):
        run(np.zeros((2, 3, 4, 2), np.uint8))
    shifted = RAS.copy()
    shifted[0, 3] = 0.9  # less than half of the smallest voxel
    run(blank, shifted)
    shifted[0, 3] = 1.1
    with pytest.raises(DataError, match=r"\(corners up to 1\.1 mm apart by their affines\)"):
        run(blank, shifted)
    run(blank, shifted, check_affine=False)
    flipped = RAS * [[-1], [1], [1], [1]]
    with pytest.raises(DataError, match="lies elsewhere in the patient"):
        run(blank, flipped)


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    values = marked().astype(np.float32)
    values[0, 0, 2] = np.nan
    made = volume(tmp_path, values)
    assert np.isfinite(made.read_image(0)).all()
    with pytest.raises(
        DataError,
        match=r"1 value other than finite numbers in slice 2; choose their replacement",
    ):
        made.read_image(2)
    assert made.read_image(2, fill=-1)[2, 1] == -1


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (np.zeros((2, 3, 4), np.complex64), "holds complex64 values"),
        (np.zeros((2, 3, 4, 65), np.uint8), "up to 64 channels along a fourth"),
        (np.zeros((2, 3, 4, 2, 2), np.uint8), r"the size \(2, 3, 4, 2, 2\)"),
        (np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "holds .* values; a vol"),
        (np.zeros(5, np.uint8), r"the size \(5,\)"),
    ],
)
def test_what_is_no_volume(tmp_path: Path, values: np.ndarray, part: str) -> None:
    image = save(tmp_path / "v.nii", values)
    with pytest.raises(DataError, match=part):
        Volume(Case("v", (image,), image), "axial")


def test_damage_is_named(tmp_path: Path) -> None:
    whole = save(tmp_path / "v.nii.gz", marked()).read_bytes()
    labels = save(tmp_path / "l.nii.gz", np.zeros((2, 3, 4), np.uint8))
    case = Case("v", (tmp_path / "v.nii.gz",), labels)
    for content in (b"", b"no volume", whole[:40], whole[:-20]):
        (tmp_path / "v.nii.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"the volume .*v\.nii\.gz cannot be read: ."):
            Volume(case, "axial")
    (tmp_path / "v.nii.gz").unlink()
    with pytest.raises(DataError, match=r"v\.nii\.gz cannot be read: No such file"):
        Volume(case, "axial")
    with pytest.raises(DataError, match="is MGHImage, not NIfTI"):
        Volume(Case("v", (FILES / "test.mgz",), labels), "axial")


def save_without_orientation(file: Path, values: np.ndarray) -> Path:
    image = nibabel.Nifti1Image(values, None)
    image.header.set_zooms((2, 3, 5))
    nibabel.save(image, file)
    stored = nibabel.load(file).header
    assert (int(stored["qform_code"]), int(stored["sform_code"])) == (0, 0)
    return file


def test_volumes_without_orientation(tmp_path: Path) -> None:
    image = save_without_orientation(tmp_path / "v.nii", marked())
    labels = save_without_orientation(tmp_path / "l.nii", (marked() > 99).astype(np.uint8))
    case = Case("v", (image,), labels)
    with pytest.raises(DataError, match=r"v\.nii states no .*=LAS .*=RAS"):
        Volume(case, "axial")
    with pytest.raises(DataError, match=r"v\.nii states no orientation"):
        Volume(case, "axial", check_affine=False)
    right = Volume(case, "axial", orientation="RAS")
    assert (right.spacing, right.distance) == ((3, 2), 5)
    assert right.repairs == {
        "files without a unique orientation were read as RAS": {image: None, labels: None}
    }
    np.testing.assert_array_equal(right.read_image(2), [[122, 22], [112, 12], [102, 2]])
    np.testing.assert_array_equal(right.read_labels(2, {0: 0, 1: 1}), [[1, 0]] * 3)
    left = Volume(case, "axial", orientation="LAS")
    np.testing.assert_array_equal(left.read_image(2), [[22, 122], [12, 112], [2, 102]])
    # The first axis to the feet, the second to the left, the third to the back.
    turned = Volume(case, "axial", orientation="ILP")
    assert (turned.spacing, turned.distance) == ((5, 3), 2)
    np.testing.assert_array_equal(
        turned.read_image(0), [[100, 110, 120], [101, 111, 121], [102, 112, 122], [103, 113, 123]]
    )


def test_the_orientation_of_a_header_wins(tmp_path: Path) -> None:
    image = save(tmp_path / "v.nii", marked())
    case = Case("v", (image,), save_without_orientation(tmp_path / "l.nii", marked() * 0))
    with pytest.raises(DataError, match=r"l\.nii states no .*check_affine=false"):
        Volume(case, "axial")
    for volume_ in (
        Volume(case, "axial", check_affine=False),
        Volume(case, "axial", check_affine=False, orientation="LPI"),
    ):
        np.testing.assert_array_equal(volume_.read_image(2), [[122, 22], [112, 12], [102, 2]])


@pytest.mark.parametrize("orientation", ["RA", "RAX", "RLS", "ras", "RASS", ""])
def test_orientations_are_checked(orientation: str) -> None:
    with pytest.raises(DataError, match=f"orientation is '{orientation}'; it must have three"):
        require_orientation_code(orientation)


def test_labels_with_rounding_errors(tmp_path: Path) -> None:
    labels = np.array([0, 0.9999999, 1.0000001, 1.9999], np.float32).reshape(2, 2, 1)
    file = save(tmp_path / "l.nii", labels)
    case = Case("v", (save(tmp_path / "v.nii", labels),), file)
    read = Volume(case, "axial")
    # From front to back, from the patient's right to left.
    np.testing.assert_array_equal(read.read_labels(0, {0: 0, 1: 1, 2: 2}), [[2, 1], [1, 0]])
    assert [list(files) for files in read.repairs.values()] == [[file]]
    save(tmp_path / "l.nii", np.where(labels > 1.5, 1.99, labels).astype(np.float32))
    with pytest.raises(DataError, match=r"values 1\.99 \(1 pixel\)"):
        Volume(case, "axial").read_labels(0, {0: 0, 1: 1, 2: 2})


def save_two_orientations(file: Path, values: np.ndarray, qform: np.ndarray) -> Path:
    image = nibabel.Nifti1Image(values, RAS)
    image.header.set_sform(RAS, code=1)
    image.header.set_qform(qform, code=1)
    nibabel.save(image, file)
    return file


def test_qform_and_sform_that_contradict_each_other(tmp_path: Path) -> None:
    mirrored = RAS * [[-1], [1], [1], [1]]
    image = save_two_orientations(tmp_path / "v.nii", marked(), mirrored)
    labels = save_two_orientations(tmp_path / "l.nii", (marked() > 99).astype(np.uint8), mirrored)
    case = Case("v", (image,), labels)
    message = (
        r"v\.nii states two orientations: its axes increase to LAS by its qform, but to RAS by its "
        r"sform\. Choose orientation=LAS or orientation=RAS;"
    )
    with pytest.raises(DataError, match=message):
        Volume(case, "axial")
    left = Volume(case, "axial", orientation="LAS")
    assert (left.spacing, left.distance) == ((3, 2), 5)
    np.testing.assert_array_equal(left.read_image(2), [[22, 122], [12, 112], [2, 102]])
    assert len(left.repairs) == 1


def test_oblique_forms_that_nearly_agree_are_accepted(tmp_path: Path) -> None:
    # Rotated by 44 and 46 degrees, so that the nearest axes are others.
    sines = np.sin(np.deg2rad([44, 46]))
    forms = [np.diag([1.0, 1, 1, 1]) for _ in sines]
    for form, sine, cosine in zip(forms, sines, sines[::-1], strict=True):
        form[:2, :2] = [[cosine, -sine], [sine, cosine]]
    image = nibabel.Nifti1Image(marked(), forms[0])
    image.header.set_sform(forms[0], code=1)
    image.header.set_qform(forms[1], code=1)
    nibabel.save(image, tmp_path / "v.nii")
    labels = save(tmp_path / "l.nii", np.zeros((2, 3, 4), np.uint8), forms[0])
    assert Volume(Case("v", (tmp_path / "v.nii",), labels), "axial").repairs == {}


def test_voxel_sizes_of_0_are_rejected(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path / "v.nii", marked())
    image = nibabel.load(file)
    image.header.set_sform(None, code=0)
    image.header.set_qform(RAS, code=1)
    content = bytearray(image.header.binaryblock + bytes(4) + marked().tobytes(order="F"))
    content[84:88] = bytes(4)  # pixdim[2]
    file.write_bytes(content)
    case = Case("v", (file,), save(tmp_path / "l.nii", np.zeros((2, 3, 4), np.uint8)))
    with pytest.raises(DataError, match=r"states voxel sizes of 0 \(\[2.0, 0.0, 5.0\] in pixdim\)"):
        Volume(case, "axial")
    assert capfd.readouterr() == ("", "")  # nibabel would print a line
