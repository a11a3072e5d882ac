# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a comparison of methods over a cohort consists of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class CohortCase:
    """One scan.

    Attributes:
        name: how it is called wherever something is written; identifies no one.
        image: the scan, or the volume that is measured when the measurement is simulated.
        reference: the truth, or None when there is none or it is simulated from.
        mask: region of interest on the grid of the truth.
    """

    name: str
    image: Path
    reference: Path | None = None
    mask: Path | None = None


@dataclass(frozen=True)
class CohortMethod:
    """One way to reconstruct.

    Attributes:
        label: its name in tables.
        bundle: root of its bundle.
        task: name of an overlay in ``configs/tasks``.
        preset: name of a preset (``diffrecon methods``); one in ``configs/methods`` wins.
        auxiliary_bundle: bundle or bundles of other planes; None takes those that the bundle takes by itself, the word
            ``none`` takes none.
        overrides: config id -> value, laid over all of these.
    """

    label: str
    bundle: Path
    task: str | None = None
    preset: str | None = None
    auxiliary_bundle: str | list[str] | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CohortSpec:
    """The cases, the methods, and how they are compared.

    Attributes:
        title: heading of the report.
        cases: the cases.
        methods: the methods.
        baseline: label of the method that the others are compared with.
        seed: of noise, measurement and bootstrap.
        simulate: config id -> value of the options of a simulated measurement, for all methods; empty leaves what the
            tasks say.
        data_range: peak-to-peak intensity of PSNR and SSIM; None takes that of each truth.
        vif: compute the visual information fidelity.
        resamples: of the bootstrap.
    """

    title: str
    cases: tuple[CohortCase, ...]
    methods: tuple[CohortMethod, ...]
    baseline: str
    seed: int = 0
    simulate: dict[str, Any] = field(default_factory=dict)
    data_range: float | None = None
    vif: bool = False
    resamples: int = 10000
