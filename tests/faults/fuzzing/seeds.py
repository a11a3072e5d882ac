# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Small valid scans of every kind that a reader knows."""

from __future__ import annotations

import json
import locale
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import tifffile
import torch
from nibabel.testing import data_path
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, MRImageStorage, RLELossless
from scipy.io import savemat

from diffrecon_mri.noncartesian.trajectories import radial
from diffrecon_mri.simulate import Receiver, write_fastmri, write_ismrmrd
from diffrecon_mri.synthetic_maps import birdcage_maps
from monai_diffrecon import registry
from monai_diffrecon.io.measurement.file import write_measurement
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.protocols import Measurement, VolumeOrigin

from ...io.dicom_ct_pd.helical_files import write as write_helix

SHAPE = (9, 8, 5)
_GEOMETRY = geometry_of(SHAPE, np.diag([1.0, 1.0, 3.0, 1.0]))


def _ramp(*shape: int) -> torch.Tensor:
    return torch.arange(float(np.prod(shape))).reshape(shape) % 17 + 1


def _containers(folder: Path) -> None:
    ct = {"name": "parallel_ct", "views": 6, "detectors": 14, "arc": 180.0, "detector_spacing": 1.0}
    fan = {
        "name": "fan_ct",
        "source_distance": 50.0,
        "detector_distance": 80.0,
        "angles": [0, 60.0, 90],
        "detectors": 9,
    }
    maps = torch.ones(2, *SHAPE, dtype=torch.complex64) / 2**0.5
    mri = {
        "name": "cartesian_mri",
        "coil_maps": maps,
        "mask": torch.ones(9, 8, dtype=torch.bool),
        "complex_volume": True,
    }
    drawn = {"name": "cartesian_mri_3d", "mask_type": "poisson", "acceleration": 2.0, "readout": "sagittal"}
    rotation = {"name": "rotation_ct", "views": 4}
    thick = {"name": "slice_thickness", "thickness": 3.0, "gap": 0.0, "profile": "gaussian"}
    radials = {
        "name": "noncartesian_mri",
        "trajectory": radial((9, 8), 5, 9, golden=True).float(),
        "complex_volume": True,
    }
    cone = {
        "name": "cone_beam_ct",
        "views": 3,
        "source_distance": 90.0,
        "detector_distance": 120.0,
        "detectors": [9, 7],
    }
    square = geometry_of((8, 8, 5))
    thin = geometry_of((9, 8, 15))
    k = torch.complex(_ramp(1, *SHAPE), _ramp(1, *SHAPE))
    found = {
        "parallel": Measurement(
            _ramp(6, 14, 5), _GEOMETRY, ct, 0.1, _ramp(6, 14, 5), "HU", "0" * 64, {"Modality": "CT"}
        ),
        "fan": Measurement(_ramp(3, 9, 5), _GEOMETRY, fan),
        "coils": Measurement(k.expand(2, *SHAPE).contiguous(), _GEOMETRY, mri, 0.5),
        "drawn": Measurement(k, _GEOMETRY, drawn),
        "rotation": Measurement(_ramp(4, 12, 5), square, rotation),
        "thick": Measurement(_ramp(1, 9, 8, 5), thin, thick),
        "radial": Measurement(k.flatten()[: 45 * 5].reshape(1, 45, 5), _GEOMETRY, radials),
        "cone": Measurement(_ramp(3, 9, 7), _GEOMETRY, cone),
        "image": Measurement(_ramp(1, *SHAPE), _GEOMETRY, unit="HU"),
    }
    for name, measurement in found.items():
        write_measurement(folder / f"container_{name}.h5", measurement)


def _niftis(folder: Path) -> None:
    values, affine = _ramp(*SHAPE).numpy(), np.diag([-1.0, 1.0, 3.0, 1.0])
    for kind, dtype in (("f", np.float32), ("i", np.int16)):
        nib.save(nib.Nifti1Image(values.astype(dtype), affine), folder / f"nifti_{kind}.nii")
        nib.save(nib.Nifti1Image(values.astype(dtype), affine), folder / f"nifti_{kind}.nii.gz")
    nib.save(nib.Nifti2Image(values.astype(np.float32), affine), folder / "nifti_2.nii")


def _slice(k: int, frames: int = 0) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{k + 1}"
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = MRImageStorage, f"1.2.3.{k + 1}", "MR"
    ds.SeriesInstanceUID, ds.SeriesNumber, ds.ImageType = "1.2.3", 4, ["ORIGINAL", "PRIMARY"]
    ds.RescaleSlope, ds.RescaleIntercept, ds.FlipAngle, ds.EchoTime = 2, -3, 30, 4.5
    ds.Columns, ds.Rows, ds.SamplesPerPixel, ds.PhotometricInterpretation = 9, 8, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    if not frames:
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0.0, 0.0, 3.0 * k], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [1.0, 1.0], 3.0
    ds.PixelData = _ramp(max(frames, 1), 8, 9).numpy().astype("<i2").tobytes()
    return ds


def _enhanced() -> FileDataset:
    ds = _slice(0, frames=4)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    turn, size, shared, frames = Dataset(), Dataset(), Dataset(), []
    turn.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    size.PixelSpacing, size.SliceThickness, size.SpacingBetweenSlices = [1.0, 1.0], 3.0, 3.0
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [turn], [size]
    for k in range(4):
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = [0.0, 0.0, 3.0 * k]
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    ds.NumberOfFrames = 4
    return ds


def _dicoms(folder: Path) -> None:
    for kind in ("plain", "rle", "deflated"):
        (folder / f"dicom_{kind}").mkdir()
        for k in range(3):
            ds = _slice(k)
            if kind == "rle":
                ds.compress(RLELossless, generate_instance_uid=False)
            if kind == "deflated":
                ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
            ds.save_as(folder / f"dicom_{kind}" / f"IM{k}.dcm", enforce_file_format=True)
    _enhanced().save_as(folder / "dicom_enhanced.dcm", enforce_file_format=True)


def _packed_dicoms(folder: Path) -> None:
    """Compress the plain series by itk, whose decoder reads it again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from itk.itkGDCMImageIOPython import itkGDCMImageIO
        from itk.itkImageFileReaderPython import itkImageFileReaderISS2
        from itk.itkImageFileWriterPython import itkImageFileWriterISS2
    before = locale.setlocale(locale.LC_ALL)
    for kind, number in (("jpeg", 0), ("jpeg2000", 1)):
        (folder / f"dicom_{kind}").mkdir()
        for path in sorted((folder / "dicom_plain").iterdir()):
            reader, writer, io = itkImageFileReaderISS2.New(), itkImageFileWriterISS2.New(), itkGDCMImageIO.New()
            target = folder / f"dicom_{kind}" / path.name
            reader.SetFileName(str(path))
            reader.SetImageIO(itkGDCMImageIO.New())
            reader.Update()
            io.SetCompressionType(number)
            writer.SetImageIO(io)
            writer.SetUseCompression(True)
            writer.SetInput(reader.GetOutput())
            writer.SetFileName(str(target))
            writer.Update()
            packed, ds = dcmread(target), dcmread(path)
            ds.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
            ds["PixelData"] = packed["PixelData"]
            ds.save_as(target, enforce_file_format=True)
    locale.setlocale(locale.LC_ALL, before)  # itk's writer leaves it at C


def _raw_mri(folder: Path) -> None:
    shape = (16, 14, 3)
    volume = torch.complex(_ramp(*shape), _ramp(*shape).flip(0))
    maps, noise = birdcage_maps(2, shape), Receiver(std=0.1, scans=1)
    write_ismrmrd(folder / "mrd_lines.h5", volume, maps, receiver=noise)
    write_ismrmrd(folder / "mrd_volume.h5", volume, volumetric=True)
    write_ismrmrd(folder / "mrd_radial.h5", volume, trajectory=radial((16, 14), 7, 32, golden=False), shot=32)
    write_fastmri(folder / "fastmri_coils.h5", volume, maps)
    write_fastmri(folder / "fastmri_one.h5", volume, mask=torch.ones(14))


def _projections(folder: Path) -> None:
    degrees, at = np.arange(0.0, 181.0, 9.0), np.arange(24) - 10.0
    shadow = 30.0 - (at - 3.0 * np.cos(np.deg2rad(degrees))[:, None]) ** 2
    counts = 50 + 900 * np.exp(-0.1 * np.sqrt(np.maximum(shadow, 0.0)))[:, None].repeat(2, axis=1)
    for kind, options in (("plain", {}), ("packed", {"compression": "gzip"})):
        with h5py.File(folder / f"dxchange_{kind}.h5", "w") as file:
            file.create_dataset("exchange/data", data=counts.astype("<u2"), **options)
            file.create_dataset("exchange/data_white", data=np.full((3, 2, 24), 950, "<u2"), **options)
            file.create_dataset("exchange/data_dark", data=np.full((3, 2, 24), 50, "<u2"), **options)
            file["exchange/theta"] = degrees
            file["exchange/theta"].attrs["units"] = "degrees"  # of a variable length, in a heap
            file["measurement/instrument/detector/x_pixel_size"] = 0.5
            file["measurement/instrument/detector/x_pixel_size"].attrs["units"] = np.bytes_("mm")


def _other_images(folder: Path) -> None:
    values, affine = _ramp(*SHAPE).numpy(), np.diag([-1.0, 1.0, 3.0, 1.0])
    for name in ("metaimage", "nrrd"):
        writer = registry.create("writers", name)
        writer.write(folder / f"{name}{writer.suffix}", _ramp(1, *SHAPE), _GEOMETRY, VolumeOrigin("seed"))
    lines = "NRRD0004", "type: short", "dimension: 3", "sizes: 9 8 5", "space: LAS", "encoding: raw", "endian: little"
    axes = "space directions: (1,0,0) (0,1,0) (0,0,3)", "space origin: (0,0,0)", "", ""
    (folder / "nrrd_raw.nrrd").write_bytes("\n".join((*lines, *axes)).encode() + values.astype("<i2").tobytes("F"))
    for suffix in (".mgh", ".mgz"):
        nib.MGHImage(values.astype(np.float32), affine).to_filename(folder / f"freesurfer{suffix}")
    for name in ("minc1_1_scale.mnc", "minc2_1_scale.mnc"):
        shutil.copyfile(Path(data_path) / name, folder / name)


def _described_projections(folder: Path) -> None:
    """Write projections with a description, and a helix; copies damage one of the files of each folder."""
    counts = np.arange(6 * 2 * 8, dtype="<u2").reshape(6, 2, 8) + 200
    writers: dict[str, Callable[[Path], object]] = {
        "p.tif": lambda path: tifffile.imwrite(path, counts),
        "p.npy": lambda path: np.save(path, counts),
        "p.npz": lambda path: np.savez_compressed(path, p=counts),
        "p.mat": lambda path: savemat(path, {"p": counts}, do_compression=True),
    }
    for name, write in writers.items():
        place = folder / f"projections_{name[2:]}"
        place.mkdir()
        write(place / name)
        said = {"projections": name, "white": 400, "angles": {"first": 0, "last": 150}, "center": 3.5}
        (place / "scan.json").write_text(json.dumps(said), encoding="utf-8")
    write_helix(folder / "dicom_ct_pd", turn=4)


def write_seeds(folder: Path) -> list[Path]:
    """Write one scan of every kind and return them by name."""
    folder.mkdir()
    for write in (
        _containers,
        _niftis,
        _dicoms,
        _packed_dicoms,
        _raw_mri,
        _projections,
        _other_images,
        _described_projections,
    ):
        write(folder)
    return sorted(folder.iterdir())
