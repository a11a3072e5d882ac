# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Give files of other software to the readers, and files of the writers to other software; compare voxels and places.

    pip install SimpleITK pynrrd surfa ome-zarr pylibjpeg pylibjpeg-openjpeg pyjpegls
    python scripts/formats/check_formats.py --twix gre.dat --output docs/results/formats.md

Each row has a volume of random integers that lies askew, or a file that comes with another package. What software is
not installed is left out. Ends with 1 when voxels differ, or a corner lies more than 1e-3 mm from its place.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.testing import data_path
from other_software import (
    AFFINE,
    LPS,
    SHAPE,
    VALUES,
    Volume,
    apart,
    in_ras,
    ome_zarr_read,
    ours,
    pynrrd_read,
    sitk_read,
    sitk_write,
    surfa_read,
)

from monai_diffrecon import registry
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.find_reader import read_scan
from monai_diffrecon.protocols import VolumeGeometry, VolumeOrigin

LIMIT = 1e-3
MODULES = {"pynrrd": "nrrd", "pyjpegls": "jpeg_ls", "pylibjpeg-openjpeg": "openjpeg"}
#: A row: format, software, and what makes it: voxels and affine as read here, and by the other software.
Row = tuple[str, str, Callable[[Path], tuple[Volume, Volume]]]


def of_sitk(name: str, compress: bool) -> Callable[[Path], tuple[Volume, Volume]]:
    """Return what writes by SimpleITK and reads by both."""

    def make(folder: Path) -> tuple[Volume, Volume]:
        path = sitk_write(folder / name, compress)
        return ours(path), sitk_read(path)

    return make


def of_pynrrd(name: str, encoding: str) -> Callable[[Path], tuple[Volume, Volume]]:
    """Return what writes by pynrrd, in RAS, and reads by both."""

    def make(folder: Path) -> tuple[Volume, Volume]:
        import nrrd

        header = {"space": "right-anterior-superior", "space directions": AFFINE[:3, :3].T, "encoding": encoding}
        nrrd.write(str(folder / name), VALUES, header | {"space origin": AFFINE[:3, 3]})
        return ours(folder / name), pynrrd_read(folder / name)

    return make


def freesurfer(folder: Path) -> tuple[Volume, Volume]:
    """A file by surfa."""
    import surfa

    geometry = surfa.ImageGeometry(shape=SHAPE, vox2world=AFFINE)
    surfa.Volume(VALUES.astype(np.float32), geometry=geometry).save(str(folder / "scan.mgz"))
    return ours(folder / "scan.mgz"), surfa_read(folder / "scan.mgz")


def analyze(folder: Path) -> tuple[Volume, Volume]:
    """A pair by nibabel; no directions, so that only sizes are compared."""
    nib.AnalyzeImage(VALUES, AFFINE).to_filename(folder / "scan.img")
    measured = read_scan(folder / "scan.hdr")[1]
    _, affine = sitk_read(folder / "scan.hdr")
    assert measured.geometry.affine is None
    assert affine is not None
    sizes = np.sort(np.linalg.norm(affine[:3, :3], axis=0))
    found = np.sort(np.array(measured.geometry.spacing))
    return (measured.data[0].numpy(), np.diag([*found, 1.0])), (VALUES, np.diag([*sizes, 1.0]))


def minc1(folder: Path) -> tuple[Volume, Volume]:
    """A file of the MINC tools, by its numbers: scipy reads it, without directions of its own."""
    from scipy.io import netcdf_file

    path = Path(data_path) / "tiny.mnc"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = netcdf_file(str(path), mmap=False)
    image = file.variables["image"]
    low, high = np.float64(image.valid_range)
    lowest, highest = (np.array(file.variables[f"image-{end}"][:]) for end in ("min", "max"))
    scale = ((highest - lowest) / (high - low)).reshape(-1, 1, 1)
    stored = np.array(image[:])
    stored = stored.view(f"u{stored.itemsize}") if image.signtype == b"unsigned" else stored
    array = (stored.astype(np.float64) - low) * scale + lowest.reshape(-1, 1, 1)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1.0
    for axis, name in enumerate(image.dimensions):
        variable, row = file.variables[name.decode() if isinstance(name, bytes) else name], "xyz".index(str(name)[0])
        direction = np.array(getattr(variable, "direction_cosines", np.eye(3)[row]))
        affine[:3, axis] = variable.step * direction
        affine[:3, 3] += variable.start * direction
    return ours(path), in_ras(array, affine)


def dicom(syntax: str) -> Callable[[Path], tuple[Volume, Volume]]:
    """Return what compresses an enhanced MR file by pydicom's encoders, and decodes it by pydicom's and by ours."""

    def make(folder: Path) -> tuple[Volume, Volume]:
        from pydicom import dcmread
        from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian

        lps, meta = LPS @ AFFINE, FileMetaDataset()
        sizes = np.linalg.norm(lps[:3, :3], axis=0)
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = "1.2.840.10008.5.1.4.1.1.4.1", ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = "1.2.3"
        ds = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = meta.MediaStorageSOPClassUID, "1.2.3", "MR"
        ds.SeriesInstanceUID, ds.ImageType = "1.2.4", ["ORIGINAL", "PRIMARY"]
        ds.Columns, ds.Rows, ds.NumberOfFrames = SHAPE
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        shared, turn, size = Dataset(), Dataset(), Dataset()
        turn.ImageOrientationPatient = [round(float(v), 9) for v in (lps[:3, :2] / sizes[:2]).T.ravel()]
        size.PixelSpacing, size.SliceThickness = [float(sizes[1]), float(sizes[0])], float(sizes[2])
        shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [turn], [size]
        ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], []
        for k in range(SHAPE[2]):
            frame, place = Dataset(), Dataset()
            place.ImagePositionPatient = [round(float(v), 9) for v in lps[:3, 3] + k * lps[:3, 2]]
            frame.PlanePositionSequence = [place]
            ds.PerFrameFunctionalGroupsSequence.append(frame)
        ds.PixelData = VALUES.transpose(2, 1, 0).tobytes()
        packed = copy.deepcopy(ds)
        packed.compress(syntax, generate_instance_uid=False)
        packed.save_as(folder / "enhanced.dcm", enforce_file_format=True)
        array = dcmread(folder / "enhanced.dcm").pixel_array.transpose(2, 1, 0)
        return ours(folder / "enhanced.dcm"), in_ras(array, AFFINE)

    return make


def bart(folder: Path) -> tuple[Volume, Volume]:
    """K-space by numpy's transform, in the layout that BART documents; the image is compared."""
    axes = (0, 1, 2)
    k = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(VALUES.astype(complex), axes), norm="ortho"), axes)
    (folder / "k.hdr").write_text("# Dimensions\n" + " ".join(map(str, (*SHAPE, *[1] * 13))) + "\n")
    k.astype("<c8").ravel(order="F").tofile(folder / "k.cfl")
    spec = {"name": "bart", "voxel_size": [0.7, 0.9, 2.0], "axes": "LIA", "noise_std": 0.0}
    measured = read_scan(folder / "k.cfl", spec)[1]
    assert measured.operator is not None
    operator = registry.build("operators", measured.operator, geometry=measured.geometry)
    affine = np.diag([-0.7, 1.0, 1.0, 1.0])
    affine[1:3, 1:3] = [[0.0, 2.0], [-0.9, 0.0]]
    affine[:3, 3] = -affine[:3, :3] @ (np.array(SHAPE) // 2)
    found = np.round(operator.adjoint(measured.data)[0].real.numpy())
    return (found, np.array(measured.geometry.affine)), in_ras(VALUES, affine)


def twix(path: Path) -> Callable[[Path], tuple[Volume, Volume]]:
    """Return what makes the images of Siemens raw data and of the same scan as ISMRMRD."""

    def image_of(scan: Path) -> Volume:
        measured = read_scan(scan)[1]
        assert measured.operator is not None
        operator = registry.build("operators", measured.operator, geometry=measured.geometry)
        return operator.adjoint(measured.data)[0].abs().numpy(), np.array(measured.geometry.affine)

    def make(folder: Path) -> tuple[Volume, Volume]:
        from twix_as_ismrmrd import convert

        convert(path, folder / "scan.h5")
        return image_of(path), image_of(folder / "scan.h5")

    return make


def written(name: str, read: Callable[[Path], Volume]) -> Callable[[Path], tuple[Volume, Volume]]:
    """Return what writes by one of our writers and reads by another software."""

    def make(folder: Path) -> tuple[Volume, Volume]:
        voxels, affine = in_ras(VALUES, AFFINE)
        sizes = tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())
        geometry = VolumeGeometry(voxels.shape, sizes, tuple(map(tuple, affine.tolist())))  # type: ignore[arg-type]
        writer = registry.create("writers", name)
        path = folder / f"scan{writer.suffix}"
        writer.write(path, torch.from_numpy(voxels[None].copy()).float(), geometry, VolumeOrigin("case"))
        return (voxels, affine), read(path)

    return make


def rows(raw: Path | None) -> Iterator[tuple[str, Row]]:
    """Yield package and row; one of them for Siemens raw data, if there are some."""
    for name in ("scan.mha", "scan.mhd", "scan.nrrd", "scan.nhdr"):
        for compress in (False, True):
            kind = f"read {name[4:]}{', compressed' if compress else ''}"
            yield "SimpleITK", (kind, "SimpleITK", of_sitk(name, compress))
    for encoding in ("raw", "gzip", "bzip2", "ascii"):
        yield "pynrrd", (f"read .nrrd, RAS, {encoding}", "pynrrd", of_pynrrd("scan.nrrd", encoding))
    yield "pynrrd", ("read .nhdr, RAS, gzip", "pynrrd", of_pynrrd("scan.nhdr", "gzip"))
    yield "surfa", ("read .mgz", "surfa", freesurfer)
    yield "SimpleITK", ("read .mnc (MINC 2)", "SimpleITK", of_sitk("scan.mnc", False))
    yield "scipy", ("read .mnc (MINC 1), of the MINC tools", "scipy", minc1)
    yield "SimpleITK", ("read Analyze .hdr (sizes only)", "SimpleITK", analyze)
    yield "pydicom", ("read enhanced DICOM, RLE", "pydicom", dicom("1.2.840.10008.1.2.5"))
    yield "pyjpegls", ("read enhanced DICOM, JPEG-LS", "pyjpegls", dicom("1.2.840.10008.1.2.4.80"))
    yield (
        "pylibjpeg-openjpeg",
        ("read enhanced DICOM, JPEG 2000", "pylibjpeg-openjpeg", dicom("1.2.840.10008.1.2.4.90")),
    )
    yield "diffrecon-mri", ("read BART .cfl (image of its k-space)", "numpy", bart)
    if raw is not None:
        yield "diffrecon-twix", ("read Siemens .dat, and the same scan as ISMRMRD .h5", "ismrmrd", twix(raw))
    yield "SimpleITK", ("write .mha", "SimpleITK", written("metaimage", sitk_read))
    yield "SimpleITK", ("write .nrrd", "SimpleITK", written("nrrd", sitk_read))
    yield "pynrrd", ("write .nrrd", "pynrrd", written("nrrd", pynrrd_read))
    yield "ome-zarr", ("write OME-Zarr", "ome-zarr", written("ome_zarr", ome_zarr_read))


def broken(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a file, and the line that refuses it."""
    sitk_write(folder / "scan.mha")
    content = (folder / "scan.mha").read_bytes()
    head, _, voxels = content.partition(b"ElementDataFile = LOCAL\n")
    files = {
        "truncated": content[:-1000],
        "declares 200 GB": content.replace(b"DimSize = 37 34 33", b"DimSize = 60000 60000 30"),
        "voxels in another folder": head + b"ElementDataFile = ../../etc/passwd\n",
        "three channels": head + b"ElementNumberOfChannels = 3\nElementDataFile = LOCAL\n" + voxels,
        "random bytes": np.random.default_rng(1).bytes(5000),
    }
    for what, data in files.items():
        (folder / "bad.mha").write_bytes(data)
        try:
            read_scan(folder / "bad.mha")
            yield what, "READ"
        except InputError as error:
            yield what, str(error)


#: What stands above the table.
NOTES = """# Formats

Files of other software given to the readers, and files of the writers given to other software, by
[`check_formats.py`](../../scripts/formats/check_formats.py).

Each volume of 37 x 34 x 33 random integers lies askew; its axes point to the left, upwards and to the front. The other
software reads the same file; voxels and the places of the corners are compared in RAS+ order. MINC files are scaled
slice by slice, so their values are rounded. ITK takes the coordinates of MINC (RAS) for its own (LPS): here they are
taken as they are stored. Of Analyze only voxels and voxel sizes are compared, since it states no directions. The affine
of OME-Zarr is the attribute of its writer; scale and translation agree with it. The file of the MINC tools comes with
nibabel.

Siemens raw data are a gradient echo of a tilted slice, from the examples of twixtools (VE11C). The ISMRMRD file of the
same scan is written by [`twix_as_ismrmrd.py`](../../scripts/formats/twix_as_ismrmrd.py), which fills it as
siemens_to_ismrmrd does and uses nothing of the reader of raw data; the images of both are compared. siemens_to_ismrmrd
copies its directions from the scanner, whose images are forward transforms of k-space: taken for those of an inverse
transform, they would show this image turned by 180 degrees.
"""


def main() -> int:
    """Run all rows and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument(
        "--twix", type=Path, help="Siemens raw data (.dat) of one image, such as twixtools' example gre.dat"
    )
    arguments = parser.parse_args()
    output = arguments.output
    lines = ["| format | other software | largest voxel error / range | farthest corner, mm |", "|---|---|---|---|"]
    failed = False
    for package, (kind, software, make) in rows(arguments.twix):
        if find_spec(MODULES.get(package, package.replace("-", "_"))) is None:
            print("left out:", kind, file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            voxels, place = apart(*make(Path(folder)))
        limit = 2e-5 if "MINC" in kind else 0.0
        failed |= not (voxels <= limit and place <= LIMIT)
        lines.append(f"| {kind} | {software} {version(software)} | {voxels:.1g} | {place:.1g} |")
        print(lines[-1])
    lines += ["", "| bad MetaImage file | refusal |", "|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for what, line in broken(Path(folder)):
            failed |= line == "READ" or "\n" in line or folder in line
            lines.append(f"| {what} | {line} |")
            print(lines[-1])
    if output is not None:
        output.write_text(NOTES + "\n" + "\n".join(lines) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
