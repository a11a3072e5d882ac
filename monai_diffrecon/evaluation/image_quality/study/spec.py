# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The file of a study of image quality."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import path_option
from monai_diffrecon.evaluation.image_quality.phantoms.acr import acr
from monai_diffrecon.evaluation.image_quality.phantoms.lesions import BACKGROUNDS, lesions
from monai_diffrecon.evaluation.image_quality.phantoms.phantom import Phantom
from monai_diffrecon.evaluation.image_quality.phantoms.technical import contrast_detail, line_pairs, rods, uniform, wire
from monai_diffrecon.io.file_validation import Number, Text, check_keys, checked, keys_of, read_json, validated
from monai_diffrecon.protocols import PhantomMetric

#: Name of a phantom -> function that makes it.
PHANTOMS: dict[str, Callable[..., Phantom]] = {
    "uniform": uniform,
    "contrast_detail": contrast_detail,
    "rods": rods,
    "wire": wire,
    "line_pairs": line_pairs,
    "acr": acr,
    "lesions": lesions,
}
_COUNT = Annotated[int, Field(strict=True, ge=1, le=1000)]


_Size = Annotated[int, Field(strict=True, ge=8, le=2048)]
_Millimetres = Annotated[Number, Field(gt=0)]


def _focus(value: Any, where: str) -> dict[str, Any]:
    return check_keys(value, where, ("lesion", "diameter", "contrast"))


def _three(value: Any) -> Any:
    return [value] * 3 if isinstance(value, int | float) and not isinstance(value, bool) else value


@dataclass(frozen=True)
class Grid:
    """The voxels of all phantoms.

    Attributes:
        shape: along (X, Y, Z).
        spacing: in mm.
    """

    shape: tuple[_Size, _Size, _Size]
    spacing: Annotated[tuple[_Millimetres, _Millimetres, _Millimetres], checked(lambda v, _: _three(v))]


@dataclass(frozen=True)
class PhantomSpec:
    """One phantom of a study.

    Attributes:
        name: which one.
        label: its name in the report and in the names of the cases.
        realizations: how often it is measured; the seed of its places and anatomy counts along.
        options: of the function that makes it.
    """

    name: str
    label: str
    realizations: int
    options: dict[str, Any]

    def make(self, grid: Any, modality: str, seed: int, base: Path = Path()) -> Phantom:
        """Return the phantom.

        Args:
            grid: of the study.
            modality: of the study.
            seed: of its places and anatomy.
            base: folder that the file of a background is relative to.

        Raises:
            ConfigError: options that do not fit it.
        """
        options = dict(self.options)
        if isinstance(background := options.get("background"), str) and background not in BACKGROUNDS:
            options["background"] = str(base / background)
        try:
            return PHANTOMS[self.name](grid, modality, **{"seed": seed, **options})
        except (TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise ConfigError("wrong options", where=f"phantoms#{self.label}", got=str(error)) from error


@dataclass(frozen=True)
class QualitySpec:
    """What is measured, by which methods.

    Attributes:
        title: heading of the report.
        modality: of the phantoms, ``CT`` (HU) or ``MR`` (thousandths of the background).
        grid: of the phantoms.
        phantoms: names, or ``{"name": ..., "label": ..., "realizations": ..., options}``.
        methods: as of a cohort.
        simulate: as of a cohort: the noise of the measurement.
        realizations: how often each phantom is measured.
        metrics: names of the metrics; None takes all that are installed.
        seed: of phantoms, noise and methods.
        focus: the lesion that the summary is about; None takes the smallest and faintest nodule, or else lesion.
        data_range: as of a cohort.
    """

    title: Text
    modality: Literal["CT", "MR"]
    grid: Annotated[Grid, checked(keys_of(Grid))]
    phantoms: Annotated[tuple[Any, ...], Field(min_length=1)]
    methods: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]
    simulate: dict[str, Any] | bool = True
    realizations: _COUNT = 2
    metrics: tuple[Text, ...] | None = None
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0
    focus: Annotated[dict[str, Any], checked(_focus)] | None = None
    data_range: Annotated[Number, Field(gt=0)] | None = None

    @property
    def placed(self) -> tuple[PhantomSpec, ...]:
        """The phantoms, checked."""
        found: list[PhantomSpec] = []
        for number, said in enumerate(self.phantoms):
            phantom = _phantom(said, f"phantoms#{number}", self.realizations)
            if phantom.label in {other.label for other in found}:
                raise ConfigError("a phantom twice", where=f"phantoms#{number}", mend="give it another label")
            found.append(phantom)
        return tuple(found)


def read_study(path: str | Path) -> QualitySpec:
    """Read and check the file of a study; no phantom is made.

    Raises:
        InputError: no such file, or not JSON.
        ConfigError: a key or a value that is wrong.
        PluginError: no such metric.
    """
    path = path_option(path, "--config")
    return checked_study(read_json(path, path.name), path.name)


def checked_study(content: Any, where: str) -> QualitySpec:
    """Return the content of a study's file, checked as by :func:`read_study`."""
    known = [f.name for f in fields(QualitySpec)]
    spec = validated(
        QualitySpec,
        {"title": "Image quality", **check_keys(content, where, known, ("modality", "grid", "phantoms", "methods"))},
        "",
    )
    _ = spec.placed
    for number, name in enumerate(spec.metrics or ()):
        if not issubclass(registry.load("metrics", name), PhantomMetric):
            raise ConfigError(
                "a metric that needs no phantom", where=f"metrics#{number}", expected="one of image quality", got=name
            )
    return spec


def _phantom(said: Any, where: str, realizations: int) -> PhantomSpec:
    options = {"name": said} if isinstance(said, str) else said
    if not (isinstance(options, dict) and isinstance(options.get("name"), str) and options["name"] in PHANTOMS):
        raise ConfigError("not a phantom", where=where, expected=" or ".join(PHANTOMS), got=f"{said!r:.80}")
    name = options["name"]
    parameters = inspect.signature(PHANTOMS[name]).parameters.values()
    given = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "seed"]
    check_keys(options, where, ("name", "label", "realizations", *given), ("name",))
    label = validated(Text, options.get("label", name), f"{where}#label")
    return PhantomSpec(
        name,
        label,
        validated(_COUNT, options.get("realizations", realizations), f"{where}#realizations"),
        {k: v for k, v in options.items() if k in given},
    )
