# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The calibration file: factors of intervals, and what they were calibrated with and are valid for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from monai_diffrecon.engine.calibration.conditions import conditions_of
from monai_diffrecon.engine.calibration.residuals import Sha256
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.resume.run_identity import differences
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import path_option
from monai_diffrecon.io.atomic import write_json
from monai_diffrecon.io.file_validation import Number, checked, keys_of, read_json, validated
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.numerics.statistics.conformal import needed_groups

#: Voxels may be this much larger or smaller than those of the calibration set, relatively, and noise by this factor.
SPACING_TOLERANCE, NOISE_FACTOR = 0.05, 1.25

_Factor = Annotated[Number, Field(ge=0)]
_Range = tuple[_Factor, _Factor]


@dataclass(frozen=True)
class LevelFactors:
    """Factors of one nominal coverage.

    Attributes:
        level: nominal coverage, 0 to 1.
        voxels: half the width of a voxel's interval, in standard deviations.
        psnr: half the width of the interval around the expected PSNR, in dB; None: not calibrated.
        ssim: the same of the structural similarity.
        region: half the width of the interval of the mean of a region, in mean standard deviations.
    """

    level: Annotated[Number, Field(gt=0, lt=1)]
    voxels: _Factor
    psnr: _Factor | None = None
    ssim: _Factor | None = None
    region: _Factor | None = None


@dataclass(frozen=True)
class Calibration:
    """Content of a calibration file.

    Attributes:
        schema: version of the format.
        kind: ``conformal`` (with the finite-sample correction) or ``inflation`` (without it, and without a guarantee).
        method: label, bundle, task and preset, for readers.
        subjects: hashes of each subject's measurements: the calibration set.
        conditions: what a run must have in common with the calibration set.
        spacing: smallest and largest voxel size along each axis, mm.
        noise_std: smallest and largest noise of the measurements, network units.
        levels: factors; the first level is the nominal one.
        data_range: peak-to-peak intensity of PSNR and SSIM; None takes that of each volume.
        sha256: hash of the file it was read from.
    """

    schema: Literal[1]
    kind: Literal["conformal", "inflation"]
    method: dict[str, str | None]
    subjects: Annotated[tuple[Annotated[tuple[Sha256, ...], Field(min_length=1)], ...], Field(min_length=1)]
    conditions: Annotated[dict[str, str], Field(min_length=1)]
    spacing: tuple[_Range, _Range, _Range]
    noise_std: _Range
    levels: Annotated[tuple[Annotated[LevelFactors, checked(keys_of(LevelFactors))], ...], Field(min_length=1)]
    data_range: Annotated[Number, Field(gt=0)] | None = None
    sha256: str = field(default="", compare=False)

    @property
    def nominal(self) -> LevelFactors:
        """The factors of the nominal level."""
        return self.levels[0]

    def options(self, case: PosedCase, postprocessing: Sequence[Any] = ()) -> dict[str, Any]:
        """Return what the record of a case says of the calibration.

        Raises:
            ConfigError: a case outside of what was calibrated.
        """
        self.check(case, postprocessing)
        said = {"sha256": self.sha256, "kind": self.kind, "subjects": len(self.subjects), "method": self.method}
        return {"calibration": said | asdict(self.nominal)}

    def check(self, case: PosedCase, postprocessing: Sequence[Any] = ()) -> None:
        """Refuse a case outside of what was calibrated.

        Raises:
            ConfigError: another bundle, operator, method, option, number of samples, voxel size or noise.
        """
        mend = "calibrate with what this run uses, or leave calibration out"
        if changed := differences(self.conditions, conditions_of(case, postprocessing)):
            raise ConfigError(
                "outside of what was calibrated", where="calibration", got=", ".join(changed[:4]), mend=mend
            )
        spacing, noise = case.geometry.spacing, case.posed.problem.noise_std
        for name, value, (low, high), slack, unit in (
            *(("voxel size", s, r, 1 + SPACING_TOLERANCE, " mm") for s, r in zip(spacing, self.spacing, strict=True)),
            ("noise", noise, self.noise_std, NOISE_FACTOR, ""),
        ):
            if not low / slack <= value <= high * slack:
                raise ConfigError(
                    f"a {name} outside of what was calibrated",
                    where="calibration",
                    expected=f"{low:.4g} to {high:.4g}{unit}",
                    got=f"{value:.4g}",
                    mend=mend,
                )

    def notices(self, case: PosedCase) -> tuple[str, ...]:
        """Return a notice if the case is one of the calibration set."""
        if case.sha256 in {sha for subject in self.subjects for sha in subject}:
            return ("the intervals were calibrated with this very scan: they do not hold for it as for others",)
        return ()

    def write(self, path: str | Path) -> None:
        """Write the file."""
        content = asdict(self)
        del content["sha256"]
        write_json(Path(path), content)


def read_calibration(path: str | Path) -> Calibration:
    """Read and check a calibration file.

    Raises:
        InputError: no such file, not JSON, or fewer subjects than its levels need.
        ConfigError: a key or a value that is wrong.
    """
    path = path_option(path, "calibration")
    said = read_json(path, "calibration")
    content = keys_of(Calibration)(said, "calibration")
    if "sha256" in content:
        raise ConfigError("unknown key", where="calibration#sha256")
    found = validated(Calibration, {**content, "sha256": sha256_file(path)}, "calibration")
    if found.kind == "conformal":
        check_enough(len(found.subjects), [factors.level for factors in found.levels])
    return found


def check_enough(subjects: int, levels: Sequence[float]) -> None:
    """Refuse levels whose conformal quantile is infinite for this number of subjects.

    Raises:
        InputError: too few subjects.
    """
    for level in levels:
        if subjects < (needed := needed_groups(level)):
            raise InputError(
                "too few subjects for the level: its interval would be infinite",
                where=f"calibration, level {level:g}",
                expected=f"{needed} or more subjects",
                got=subjects,
                mend=f"calibrate with more subjects, or at level {100 * subjects // (subjects + 1) / 100:g} or below",
            )
