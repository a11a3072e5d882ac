# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A bundle with a task and a method, ready to reconstruct scans and arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import Tensor

from monai_diffrecon import registry
from monai_diffrecon.api.files import as_tensor, geometry_from
from monai_diffrecon.api.result import Origin, ReconstructionResult
from monai_diffrecon.bundle.config import content_of, merged_config, unwrapped
from monai_diffrecon.bundle.places import find_bundle
from monai_diffrecon.engine.cases.postprocessing import Postprocessing
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_choice, check_number, path_option
from monai_diffrecon.io.measurement.checks import UNITS, check_measurement
from monai_diffrecon.io.measurement.metatensor import from_tensor, to_tensor
from monai_diffrecon.protocols import Measurement, Operator, VolumeGeometry

#: Ids that the caller sets otherwise: id -> what to do instead.
_NOT_HERE = {
    **dict.fromkeys(("image", "reference", "dataset_dir", "case_name"), "give the scan, and `case`, to reconstruct()"),
    **dict.fromkeys(("output_dir", "output_format"), "call save() of the result"),
    "bundle_root": "name the bundle first",
    **dict.fromkeys(
        (
            *("dataset", "datalist", "dataloader", "evaluator", "handlers", "imports", "initialize"),
            *("run", "network", "resume", "checkpoint_every", "tracking_required", "resample_reference"),
            *("calibration", "region"),
        ),
        "omit it, only `bundle run` uses it",
    ),
}


class Reconstructor:
    """A bundle with its networks loaded; :func:`load` makes one.

    Attributes:
        inferer: the MONAI inferer with the configured operator.
    """

    def __init__(self, bundle: Path, task: str | None, method: str | None, overrides: Mapping[str, Any]) -> None:
        config = merged_config(bundle, task=task, method=method, overrides=overrides, refused=_NOT_HERE)
        # The networks are kept while operators, seeds and noise levels change.
        networks = {name: content_of(config, name) for name in ("score", "auxiliaries")}
        self._config: dict[str, Any] = {**config.get(), **networks}
        self.inferer: DiffReconInferer = content_of(ConfigParser(self._config), "inferer")

    def reconstruct(
        self,
        y: Any,
        *,
        operator: Any = None,
        geometry: VolumeGeometry | None = None,
        affine: Any = None,
        noise_std: float | None = None,
        unit: str | None = None,
        seed: int | None = None,
        case: str = "",
        reader: Any = None,
    ) -> ReconstructionResult:
        """Reconstruct a volume.

        Args:
            y: path of a scan; a :class:`~monai_diffrecon.Measurement`; or an array or tensor: a measurement if
                ``operator`` is given, else an image (X, Y, Z) or (1, X, Y, Z). A simulating task measures it first.
            operator: forward operator of an array, tensor or image: an operator, its class, its name, or
                ``{"name": ..., options}``. None takes the task's, unless ``y`` has its own.
            geometry: geometry of the volume, if ``operator`` is not an instance and ``y`` is not an image.
            affine: voxel-to-world matrix (4, 4) of an image, in mm, RAS+. None takes that of a ``MetaTensor``, or
                voxels of 1 mm.
            noise_std: standard deviation of the noise, in the units of ``y``; None takes that of ``y``, or 0.
            unit: unit of the volume, ``HU``, ``1/mm`` or ``arbitrary``; None takes that of ``y``.
            seed: seed of the noise source; None takes the configuration's.
            case: name of the case, part of the noise seed.
            reader: reader of a path, as of :func:`~monai_diffrecon.read_scan`; None takes the configuration's.

        Raises:
            InputError: an unusable scan, array or affine.
            ConfigError: options that contradict each other or the data.
            PluginError: an operator that is unknown or broken.
        """
        changes: dict[str, Any] = {} if seed is None else {"seed": seed}
        if noise_std is not None:
            level = check_number(noise_std, "noise_std", low=0.0)
            changes["inferer"] = {**self._config["inferer"], "noise_std": level}
        source = path_option(y, "y") if isinstance(y, str | Path) else None
        whole = source is not None or isinstance(y, Measurement)
        if whole:
            named = {"geometry": geometry, "affine": affine, "unit": unit}
            changes |= {} if operator is None else {"operator": operator}
            if given := [name for name, value in named.items() if value is not None]:
                raise ConfigError("says this itself", where="y", got=", ".join(given), mend="give them with an array")
        if reader is not None:
            if source is None:
                raise ConfigError("only files are read", where="reader", mend="give the path of a scan, or omit it")
            changes["reader"] = reader
        if isinstance(y, Measurement):
            check_measurement(y, "y")
            data: Any = to_tensor(y)
        elif source is not None:
            data = str(source)
        elif operator is None:
            if geometry is not None:
                raise ConfigError("needs an operator", where="geometry", mend="give the operator or affine")
            data = _image(as_tensor(y, "y"), affine, unit)
        else:
            data, changes["operator"] = _measured(as_tensor(y, "y"), operator, geometry, affine, unit)
            changes["simulate"] = False
        config = ConfigParser({**self._config, **changes})
        inferer: DiffReconInferer = content_of(config, "inferer") if changes else self.inferer
        loaded: dict[str, Any] = {"image": data}
        if self._config.get("preprocessing") is None:  # a bundle that only generates
            if source is not None:
                raise ConfigError("the bundle reads no scan", where="preprocessing", mend="use a bundle that has it")
        else:
            prepare = content_of(config, "preprocessing")
            loaded = unwrapped(lambda: prepare({"image": data, **({"case": case} if case else {})}))
        image = loaded["image"]
        said = from_tensor(image)
        if whole and operator is not None and said.operator is not None and not said.simulated:
            raise ConfigError("the measurement names its own", where="operator", mend="leave operator out")
        changes_volume = self._config.get("postprocessing") is not None
        changed = Postprocessing(content_of(config, "postprocessing") if changes_volume else None)
        posed = inferer.pose(image, case=case)
        done = inferer.reconstruct(posed)
        done.report.options |= {"postprocessing": changed.steps} if changed.steps else {}
        volume = changed(done.volume.as_subclass(Tensor), done.geometry, posed)
        steps = json.loads(loaded.get("image_preparation", "[]"))
        made_from = Origin(posed, changed, loaded.get("image_reader"), steps)
        return ReconstructionResult(volume, done.geometry, done.report, done.spread, source, made_from)


def load(
    bundle: str | Path,
    *,
    task: str | None = None,
    method: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    **options: Any,
) -> Reconstructor:
    """Load the networks of a bundle with the settings of a task and a method.

    Args:
        bundle: path of a bundle, its name, or the name of its family: ``knee`` loads ``knee_axial`` and the
            planes beside it. Names are searched in ``bundles``, in installed packages, in the folders of
            ``DIFFRECON_BUNDLES`` and among the downloads.
        task: a task of the bundle, such as ``accelerated_mri``; None for the bundle's own settings.
        method: a preset (``diffrecon methods`` lists them), such as ``dds``.
        overrides: config id -> value, for ids such as ``sampler#steps``.
        options: the same as keywords: ``sampler="ddim"``, ``device="cuda"``. An id that takes the name of a plugin also
            takes the plugin itself or its class.

    Raises:
        ConfigError: no such bundle, task, method or id.
        IntegrityError: weights that were changed, or a configuration that runs untrusted code.
    """
    if twice := sorted({*(overrides or {})} & {*options}):
        raise ConfigError("given twice", where=twice[0], mend="omit it from overrides")
    return Reconstructor(find_bundle(bundle), task, method, {**(overrides or {}), **options})


def reconstruct(
    y: Any,
    *,
    bundle: str | Path,
    task: str | None = None,
    method: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    **measurement: Any,
) -> ReconstructionResult:
    """Reconstruct once: :func:`load` and :meth:`Reconstructor.reconstruct`.

    Args:
        y: see :meth:`Reconstructor.reconstruct`.
        bundle: see :func:`load`.
        task: see :func:`load`.
        method: see :func:`load`.
        overrides: see :func:`load`.
        measurement: keyword arguments of :meth:`Reconstructor.reconstruct`.
    """
    return load(bundle, task=task, method=method, overrides=overrides).reconstruct(y, **measurement)


def _image(y: Tensor, affine: Any, unit: str | None) -> MetaTensor:
    """Return an image or a measurement with the caller's metadata added."""
    y = y[None] if y.ndim == 3 and not isinstance(y, MetaTensor) else y
    measured = from_tensor(y)
    if affine is not None or not isinstance(y, MetaTensor):
        if measured.operator is not None:
            raise ConfigError("carries its own geometry", where="y", got="affine", mend="leave affine out")
        measured = replace(measured, geometry=geometry_from(measured.data.shape[1:], affine))
    return _tensor(measured, unit)


def _measured(
    y: Tensor, operator: Any, geometry: VolumeGeometry | None, affine: Any, unit: str | None
) -> tuple[MetaTensor, Any]:
    """Return the measurement of an operator, and the operator in the form that the configuration takes."""
    if affine is not None and geometry is not None:
        raise ConfigError("says it too", where="geometry", got="affine", mend="leave affine out")
    if not isinstance(operator, Operator):
        spec = dict(operator) if isinstance(operator, Mapping) else {"name": operator}
        if isinstance(cls := spec.get("name"), type):
            spec["name"] = registry.name_of("operators", cls) or cls
        registry.check_options("operators", spec, where="operator", context=("geometry",))
        if geometry is None:
            cls = registry.load("operators", spec["name"]) if isinstance(spec["name"], str) else spec["name"]
            if cls.volume_geometry.__func__ is Operator.volume_geometry.__func__:  # type: ignore[attr-defined]
                raise ConfigError(
                    f"the measurement of {cls.__name__} does not define its volume",
                    where="geometry",
                    mend="give geometry=VolumeGeometry(shape, spacing), or an operator that is built",
                )
            return _image(y, affine, unit), spec
        if isinstance(spec["name"], str):
            return _tensor(Measurement(y.as_subclass(Tensor), geometry, spec), unit), spec
        operator = registry.build("operators", spec, where="operator", geometry=geometry)
    elif geometry is not None or affine is not None:
        raise ConfigError("the operator says it", where="geometry", mend="omit geometry and affine")
    # The inferer takes the operator from its configuration, so the data lies where that measures it.
    return _tensor(Measurement(y.as_subclass(Tensor), operator.measured_geometry()), unit, checked=False), operator


def _tensor(measured: Measurement, unit: str | None, *, checked: bool = True) -> MetaTensor:
    data = measured.data.to(torch.complex64 if measured.data.is_complex() else torch.float32)
    unit = measured.unit if unit is None else check_choice(unit, "unit", UNITS)
    measured = replace(measured, data=data, unit=unit)
    if checked:
        check_measurement(measured, "y")
    return to_tensor(measured)
