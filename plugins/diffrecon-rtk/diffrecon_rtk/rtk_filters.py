# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""RTK's filters on NumPy arrays.

RTK turns about its y axis, and at gantry angle 0 its source is on z. The volume's axes are laid on RTK's as
``X -> x, Y -> -z, Z -> y`` by the direction of the ITK image, so that an array (X, Y, Z) is handed over as it lies in
memory; so are projections (views, nu, nv) to the projectors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from diffrecon_rtk.trajectory import Detector, Trajectory
from monai_diffrecon.errors import ConfigError, NumericalError

#: Columns: where the image's axes, the last of the array first, point to in RTK's space.
_VOLUME_DIRECTION = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
_PROJECTIONS_DIRECTION = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
_USED = (
    "DisplacedDetectorImageFilter",
    "ElektaXVI5GeometryXMLFileReader",
    "FDKConeBeamReconstructionFilter",
    "JosephBackProjectionImageFilter",
    "JosephForwardProjectionImageFilter",
    "ParkerShortScanImageFilter",
    "ProjectionsReader",
    "ThreeDCircularProjectionGeometry",
    "VarianObiGeometryReader",
    "VarianProBeamGeometryReader",
)


@lru_cache(maxsize=1)
def load_rtk() -> tuple[Any, Any]:
    """Return the modules itk and itk.RTK, which take seconds to import.

    Raises:
        ConfigError: they are not installed.
    """
    with warnings.catch_warnings():
        # The wrappers' types have no __module__; where warnings are errors, that ends the interpreter.
        warnings.simplefilter("ignore")
        try:
            import itk
            from itk import RTK as rtk  # noqa: N811 (the module's own name)
        except ImportError:
            raise ConfigError("RTK is not installed", where="operator", mend="pip install itk-rtk") from None
        for name in _USED:
            getattr(rtk, name)  # loads it now, while warnings are ignored
    return itk, rtk


@lru_cache(maxsize=8)
def rtk_geometry(trajectory: Trajectory) -> Any:
    """Return RTK's geometry of a scan; shared, so not to be changed."""
    _, rtk = load_rtk()
    made = rtk.ThreeDCircularProjectionGeometry.New()
    for view in trajectory.views:
        made.AddProjection(*view)
    if trajectory.detector_radius > 0.0:
        made.SetRadiusCylindricalDetector(trajectory.detector_radius)
    return made


def source_positions(trajectory: Trajectory) -> np.ndarray:
    """Return the positions of the source (views, 3) along the volume's X, Y and Z in mm, from the isocentre."""
    geometry = rtk_geometry(trajectory)
    positions = np.array([list(geometry.GetSourcePosition(k))[:3] for k in range(len(trajectory.views))])
    return np.stack([positions[:, 0], -positions[:, 2], positions[:, 1]], axis=1)


def detector_frames(trajectory: Trajectory, detector: Detector) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centres (views, 3) of a flat detector's pixels in mm, and its unit vectors u and v, along X, Y and Z."""
    itk, _ = load_rtk()
    geometry = rtk_geometry(trajectory)
    matrices = (geometry.GetProjectionCoordinatesToFixedSystemMatrix(k) for k in range(len(trajectory.views)))
    table = np.array([itk.array_from_matrix(matrix) for matrix in matrices])[:, [0, 2, 1]] * [[1.0], [-1.0], [1.0]]
    return table @ [*detector.offset, 0.0, 1.0], table[..., 0], table[..., 1]


def projection_matrices(trajectory: Trajectory) -> np.ndarray:
    """Return RTK's matrices (views, 3, 4) from homogeneous RTK coordinates to the detector, in mm."""
    itk, _ = load_rtk()
    geometry = rtk_geometry(trajectory)
    return np.array([itk.array_from_matrix(geometry.GetMatrix(k)) for k in range(len(trajectory.views))])


def project(
    x: np.ndarray,
    spacing: Sequence[float],
    trajectory: Trajectory,
    detector: Detector,
    threads: int,
    height: float = 0.0,
) -> np.ndarray:
    """Return the line integrals (views, nu, nv) in mm of a volume (X, Y, Z) by Joseph's method (1982).

    The volume is linear between the centres of its voxels and nothing beyond the outermost centres.

    Args:
        x: C-contiguous, float32 or float64; RTK computes in the same type.
        spacing: voxel size along (X, Y, Z) in mm.
        trajectory: the scan.
        detector: its detector.
        threads: threads to use.
        height: of the volume's centre above the isocentre in mm.
    """
    _, rtk = load_rtk()
    y = np.zeros((len(trajectory.views), *detector.pixels), x.dtype)
    volume, projections = _volume(x, spacing, height), _projections(y, detector)
    joseph = rtk.JosephForwardProjectionImageFilter[type(projections), type(volume)].New()
    joseph.SetInput(0, projections)
    joseph.SetInput(1, volume)
    return _run(joseph, y, trajectory, threads)


def back_project(
    y: np.ndarray,
    shape: tuple[int, ...],
    spacing: Sequence[float],
    trajectory: Trajectory,
    detector: Detector,
    threads: int,
    height: float = 0.0,
) -> np.ndarray:
    """Return the volume (X, Y, Z) that is the exact adjoint of :func:`project` of projections (views, nu, nv)."""
    _, rtk = load_rtk()
    x = np.zeros(shape, y.dtype)
    volume, projections = _volume(x, spacing, height), _projections(y, detector)
    joseph = rtk.JosephBackProjectionImageFilter[type(volume), type(projections)].New()
    joseph.SetInput(0, volume)
    joseph.SetInput(1, projections)
    return _run(joseph, x, trajectory, threads)


def fdk(
    y: np.ndarray,
    shape: tuple[int, ...],
    spacing: Sequence[float],
    trajectory: Trajectory,
    detector: Detector,
    threads: int,
    height: float = 0.0,
    *,
    weighting: str = "full",
    hann: bool = False,
    truncation: float = 0.0,
) -> np.ndarray:
    """Return the volume (X, Y, Z) by Feldkamp's method from projections (views, nu, nv).

    Args:
        y: C-contiguous, float32 or float64.
        shape: shape of the volume.
        spacing: voxel size along (X, Y, Z) in mm.
        trajectory: a circular scan.
        detector: its detector.
        threads: threads to use.
        height: of the volume's centre above the isocentre in mm.
        weighting: ``full``; ``short`` weights after Parker, ``displaced`` after Wang (2002).
        hann: apodize the ramp filter by a Hann window that ends at the Nyquist frequency.
        truncation: part of the detector's width by which rows are continued beyond it before they are filtered; 0 for
            not at all.
    """
    itk, rtk = load_rtk()
    geometry = rtk_geometry(trajectory)
    # The ramp filter takes the first axis of the image for u. A copy, since the weights are applied in place.
    projections = itk.image_view_from_array(y.transpose(0, 2, 1).copy())
    projections.SetSpacing([*detector.spacing, 1.0])
    projections.SetOrigin([detector.edges(0)[0], detector.edges(1)[0], 0.0])
    kind = type(projections)
    source = projections
    if weighting != "full":
        name = {"short": "ParkerShortScanImageFilter", "displaced": "DisplacedDetectorImageFilter"}[weighting]
        weights = getattr(rtk, name)[kind].New()
        weights.SetInput(projections)
        weights.SetGeometry(geometry)
        weights.SetNumberOfWorkUnits(threads)
        source = weights.GetOutput()
    if truncation > 0.0:
        source = _continued(source, math.ceil(truncation * detector.pixels[0]))
    x = np.zeros(shape, y.dtype)
    filter_ = rtk.FDKConeBeamReconstructionFilter[kind].New()
    filter_.SetInput(0, _volume(x, spacing, height))
    filter_.SetInput(1, source)
    filter_.GetRampFilter().SetHannCutFrequency(1.0 if hann else 0.0)
    for part in (filter_.GetWeightFilter(), filter_.GetRampFilter(), filter_.GetBackProjectionFilter()):
        part.SetNumberOfWorkUnits(threads)
    return _run(filter_, x, trajectory, threads)


def _continued(projections: Any, count: int) -> Any:
    """Return weighted projections with ``count`` more pixels at either end of u, from the value there down to 0.

    Like the extrapolation of Ohnesorge et al. (2000, doi 10.1118/1.598855), but an end in the air, or with weight 0,
    stays as it is, so that both ends may be continued.
    """
    itk, _ = load_rtk()
    projections.Update()
    rows = itk.array_view_from_image(projections)
    first = projections.TransformIndexToPhysicalPoint(projections.GetLargestPossibleRegion().GetIndex())
    falling = np.cos(np.linspace(0.0, np.pi / 2, count + 1)[1:]).astype(rows.dtype) ** 2
    wider = itk.image_from_array(
        np.concatenate([rows[..., :1] * falling[::-1], rows, rows[..., -1:] * falling], axis=2)
    )
    spacing = list(projections.GetSpacing())
    wider.SetSpacing(spacing)
    wider.SetOrigin([first[0] - count * spacing[0], first[1], first[2]])
    return wider


def _volume(x: np.ndarray, spacing: Sequence[float], height: float) -> Any:
    """Return an ITK image on the memory of a volume (X, Y, Z), centred on the axis at a height in mm."""
    steps = np.array([spacing[2], spacing[1], spacing[0]])
    centre = (np.array(x.shape[::-1]) - 1) / 2 * steps - np.array([height, 0.0, 0.0])
    return _image(x, steps, -_VOLUME_DIRECTION @ centre, _VOLUME_DIRECTION)


def _projections(y: np.ndarray, detector: Detector) -> Any:
    """Return an ITK image on the memory of projections (views, nu, nv)."""
    steps = np.array([detector.spacing[1], detector.spacing[0], 1.0])
    first = np.array([detector.edges(0)[0], detector.edges(1)[0], 0.0])
    return _image(y, steps, first, _PROJECTIONS_DIRECTION)


def _image(array: np.ndarray, spacing: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> Any:
    itk, _ = load_rtk()
    image = itk.image_view_from_array(array)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    image.SetDirection(itk.matrix_from_array(direction))
    return image


def reason_of(error: RuntimeError) -> str:
    """Return the line of an ITK error that says what is wrong."""
    return str(error).strip().splitlines()[-1].removeprefix("ITK ERROR: ")


def _run(filter_: Any, target: np.ndarray, trajectory: Trajectory, threads: int) -> np.ndarray:
    """Run a filter whose first input lies on the memory of ``target``, and return its output there.

    Raises:
        NumericalError: RTK refused.
    """
    itk, _ = load_rtk()
    filter_.SetGeometry(rtk_geometry(trajectory))
    filter_.SetNumberOfWorkUnits(threads)
    if hasattr(filter_, "InPlaceOn"):
        filter_.InPlaceOn()
    try:
        filter_.Update()
    except RuntimeError as error:
        raise NumericalError("RTK failed", where="operator cone_beam_ct", got=reason_of(error)) from None
    output = itk.array_view_from_image(filter_.GetOutput())
    if not np.shares_memory(output, target):
        np.copyto(target, output)
    return target
