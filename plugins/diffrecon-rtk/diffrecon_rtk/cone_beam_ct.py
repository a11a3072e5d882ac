# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Cone-beam CT by RTK's matched pair of Joseph projectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffrecon_rtk.diffct_projector import back_projected, check_diffct, projected
from diffrecon_rtk.geometry_xml import read_geometry
from diffrecon_rtk.rtk_filters import back_project, fdk, load_rtk, project
from diffrecon_rtk.scan_checks import check_detector, check_source
from diffrecon_rtk.scan_options import detector_of, radius_of, view_angles, view_deviations
from diffrecon_rtk.trajectory import Detector, Trajectory, deviating, fdk_weighting, helix, moved_back
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_choice, check_integer, check_number
from monai_diffrecon.numerics.conjugate_gradient import conjugate_gradient
from monai_diffrecon.numerics.ct.scan_angles import scan_distances
from monai_diffrecon.protocols import Operator, VolumeGeometry
from monai_diffrecon.slabs import sum_of_measurements

#: Zeros around the volume: RTK's volume ends at the centres of its outermost voxels, and a ray's first step in it has
#: less weight.
_MARGIN = 2


class ConeBeamCT(Operator):
    """Line integrals along a cone beam: intensity times mm, measurement (views, nu, nv).

    The volume is centred on the isocentre and Z is the axis of rotation. At angle theta the detector's u points along
    ``(cos theta, sin theta, 0)`` and v along Z, and the source is at ``source_distance (sin theta, -cos theta, 0)``:
    with a far source and pixels of the voxels' height this is ``parallel_ct``. Joseph's method (1982) and its exact
    adjoint, computed by RTK (Rit et al. 2014, doi 10.1088/1742-6596/489/1/012079) on the CPU, in single precision or,
    for float64 tensors, in double.

    Args:
        geometry: the volume.
        views: number of views, equally spaced over ``arc``.
        angles: angles; win over ``views``. Of a helix they go on beyond a turn.
        arc: degrees the views cover, end excluded; of a helix as many turns as you like.
        first_angle: angle of the first view in degrees.
        angles_unit: ``degrees`` or ``radians``, of all three. None is degrees, but numbers that look like radians are
            refused.
        source_distance: from the source to the isocentre in mm.
        detector_distance: from the source (not the isocentre) to the detector in mm, ``source_distance`` or more.
        detectors: pixels [nu, nv]; None sees all of the volume.
        detector_spacing: distance of the pixels [du, dv] in mm; None is the smallest voxel size, magnified.
        detector_offset: centre of the detector [u, v] in mm.
        detector_radius: radius in mm of a cylindrical detector about an axis along v, ``detector_distance`` when it is
            focused on the source; u is then measured along the arc. None for a flat detector.
        pitch: travel of source and detector along Z in mm, a turn of growing angle; the middle of the scan is at the
            isocentre. 0 for a circle.
        deviations: what is added to RTK's numbers of the views (fields of ``diffrecon_rtk.trajectory.ConeView``; mm and
            degrees): a number for all of them, or a list with one per view. ``{"in_plane_angle": 0.4}`` is a detector
            that is turned in its plane, ``{"projection_offset_x": [...]}`` one that sags while the gantry turns.
        geometry_file: an XML geometry of RTK instead of all of the above but the detector's pixels.
        filter: ramp filter of FDK, ``ramp`` or ``hann``.
        truncation: part of the detector's width by which FDK continues projections of an object that is wider than the
            detector; 0 takes the air to begin there.
        initial_iterations: conjugate gradients of :meth:`initial` where FDK does not apply.
        projector: ``rtk``, or ``diffct`` for forward projection and adjoint by that package: on the GPU for tensors
            that are there, of flat detectors, with intersection lengths instead of Joseph's interpolation.

    Raises:
        ConfigError: a wrong option, or RTK is not installed.
        InputError: a geometry file that is missing or damaged.
    """

    family = "ct"
    slabs_add_up = True

    def __init__(
        self,
        geometry: VolumeGeometry,
        views: int | None = None,
        angles: Sequence[float] | None = None,
        arc: float = 360.0,
        first_angle: float = 0.0,
        angles_unit: str | None = None,
        source_distance: float | None = None,
        detector_distance: float | None = None,
        detectors: Sequence[int] | None = None,
        detector_spacing: Sequence[float] | None = None,
        detector_offset: Sequence[float] = (0.0, 0.0),
        detector_radius: float | None = None,
        pitch: float = 0.0,
        deviations: Mapping[str, float | Sequence[float]] | None = None,
        geometry_file: str | None = None,
        filter: str = "ramp",
        truncation: float = 0.0,
        initial_iterations: int = 10,
        projector: str = "rtk",
    ) -> None:
        window = check_choice(filter, "operator#filter", ("ramp", "hann"))
        iterations = check_integer(initial_iterations, "operator#initial_iterations", low=1)
        width = check_number(truncation, "operator#truncation", low=0.0, high=1.0)
        self.projector = check_choice(projector, "operator#projector", ("rtk", "diffct"))
        load_rtk()
        if geometry_file is not None:
            given = {
                "views": views is not None,
                "angles": angles is not None,
                "arc": arc != 360.0,
                "first_angle": first_angle != 0.0,
                "angles_unit": angles_unit is not None,
                "source_distance": source_distance is not None,
                "detector_distance": detector_distance is not None,
                "detector_radius": detector_radius is not None,
                "pitch": pitch != 0.0,
                "deviations": deviations is not None,
            }
            if twice := [name for name, value in given.items() if value]:
                raise ConfigError("the geometry is given twice", where="operator#geometry_file", got=", ".join(twice))
            scan = read_geometry(geometry_file)
            guess = False
        else:
            travel = check_number(pitch, "operator#pitch")
            to_axis, to_detector = scan_distances(source_distance, detector_distance, radius_of(geometry))
            bend = 0.0
            if detector_radius is not None:
                bend = check_number(detector_radius, "operator#detector_radius", low=0.0, open_low=True)
            degrees = view_angles(views, angles, arc, first_angle, angles_unit, turns=travel != 0.0)
            ideal = helix(degrees, to_axis, to_detector, travel, bend)
            scan = deviating(ideal, view_deviations(deviations, len(degrees)))
            guess = travel == 0.0 and bend == 0.0 and scan == ideal
        check_source(scan, geometry)
        first = scan.views[0]
        distances = (first.source_to_isocenter, first.source_to_detector)
        panel = detector_of(detectors, detector_spacing, detector_offset, geometry, distances, may_guess=guess)
        if (
            geometry_file is None
            and not (scan.detector_radius or deviations)
            and distances[1] <= distances[0] + radius_of(geometry)
        ):
            scan, panel = moved_back(scan, panel, 2.0 * distances[0])  # RTK's rays end at the detector.
        check_detector(scan, panel, geometry)
        if self.projector == "diffct":
            check_diffct(scan)
        super().__init__(geometry, (len(scan.views), *panel.pixels))
        self.trajectory, self.detector = scan, panel
        self.filter, self.truncation, self.initial_iterations = window, width, iterations
        self.fdk_weighting = fdk_weighting(scan, panel, radius_of(geometry))
        self.initial_kind = None if self.fdk_weighting is None else "fdk"
        self._height = 0.0

    def restricted(self, plane: str, first: int, end: int) -> ConeBeamCT:
        """Return the operator of some axial slices, where they are.

        Raises:
            ConfigError: slices of another plane.
        """
        if plane != "axial":
            super().restricted(plane, first, end)
        part = self.cut(plane, first, end)
        part._height = self._height + (first + end - self.geometry.shape[2]) / 2 * self.geometry.spacing[2]
        return part

    def _forward(self, x: Tensor) -> Tensor:
        if self.projector == "diffct":
            return sum_of_measurements(
                projected(x[0], self.geometry.spacing, self.trajectory, self.detector, self._height)
            )
        padded = F.pad(x[0], (_MARGIN,) * 6)
        return sum_of_measurements(_on_arrays(lambda a: project(a, self.geometry.spacing, *self._setting), padded))

    def _adjoint(self, y: Tensor) -> Tensor:
        if self.projector == "diffct":
            shape, spacing = self.geometry.shape, self.geometry.spacing
            return back_projected(y, shape, spacing, self.trajectory, self.detector, self._height)[None]
        nx, ny, nz = (n + 2 * _MARGIN for n in self.geometry.shape)
        padded = _on_arrays(lambda a: back_project(a, (nx, ny, nz), self.geometry.spacing, *self._setting), y)
        kept = slice(_MARGIN, -_MARGIN)
        return padded[None, kept, kept, kept].contiguous()

    @property
    def _setting(self) -> tuple[Trajectory, Detector, int, float]:
        """Scan, detector, threads, and the height of the volume's centre."""
        return self.trajectory, self.detector, torch.get_num_threads(), self._height

    def initial(self, y: Tensor) -> Tensor:
        """Return the classical estimate (1, X, Y, Z).

        FDK of a circular scan with a flat detector: with Parker's weights when it covers less than the circle, with
        those of a displaced detector when its sides are unequal. Of any other scan (helix, cylindrical detector, tilted
        orbit, an arc of less than 180 degrees and the fan) ``initial_iterations`` of conjugate gradients for the
        least squares, from 0.
        """
        weighting = self.fdk_weighting
        if weighting is None:
            y = y.detach()
            rhs = self.adjoint(y)
            start = torch.zeros_like(rhs)
            return conjugate_gradient(self.normal, rhs, start, iterations=self.initial_iterations, tolerance=1e-6)
        volume = _on_arrays(
            lambda a: fdk(
                a,
                self.geometry.shape,
                self.geometry.spacing,
                *self._setting,
                weighting=weighting,
                hann=self.filter == "hann",
                truncation=self.truncation,
            ),
            y,
        )
        return volume[None]


def _on_arrays(apply: Callable[[np.ndarray], np.ndarray], x: Tensor) -> Tensor:
    """Apply a map of arrays on the CPU in x's precision, or in float32 when that is lower."""
    wide = x.dtype if x.dtype == torch.float64 else torch.float32
    array = x.detach().to("cpu", wide).contiguous().numpy()
    return torch.from_numpy(apply(array)).to(x.device, x.dtype)
