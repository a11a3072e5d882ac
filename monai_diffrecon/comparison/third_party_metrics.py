# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Metrics that installed packages supply, computed beside those of the protocol."""

from __future__ import annotations

import logging
import math
import re

from torch import Tensor

from monai_diffrecon import registry
from monai_diffrecon.comparison.metric_info import METRICS, MetricInfo, info_of
from monai_diffrecon.errors import DiffReconError
from monai_diffrecon.protocols import Metric, PhantomMetric, VolumeGeometry

logger = logging.getLogger(__name__)

_OURS = "monai-diffrecon"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def compute_third_party(
    x: Tensor,
    reference: Tensor,
    geometry: VolumeGeometry,
    *,
    data_range: float,
    mask: Tensor | None = None,
) -> dict[str, float]:
    """Return the metrics of installed packages; one that fails or is not finite is left out with a warning.

    Args:
        x: volume (1, X, Y, Z), real.
        reference: the truth, of the same shape and unit.
        geometry: their common geometry.
        data_range: peak-to-peak intensity.
        mask: (1, X, Y, Z), bool, or None.
    """
    values = {}
    metrics, problems = _installed()
    for problem in problems:
        logger.warning("the metric %s", problem)
    for provider, metric in metrics:
        try:
            value = float(
                metric(
                    x.detach().as_subclass(Tensor).clone(),
                    reference.detach().as_subclass(Tensor).clone(),
                    geometry=geometry,
                    data_range=data_range,
                    mask=None if mask is None else mask.clone(),
                )
            )
        except Exception as error:  # its failure must not lose the case; its text may contain a path
            logger.warning("the metric %s of %s is skipped: %s", metric.name, provider, type(error).__name__)
            continue
        if math.isfinite(value):
            values[metric.name] = value
        else:
            logger.warning("the metric %s of %s is skipped: its value is not finite", metric.name, provider)
    return values


def metric_infos() -> tuple[MetricInfo, ...]:
    """Return what all numbers of a case are called, those of installed packages after our own."""
    return METRICS + tuple(info_of(metric) for _, metric in _installed()[0])


def providers() -> list[str]:
    """Return the name and version of each third-party metric that a table depends on, in order."""
    return [f"{metric.name} of {provider}" for provider, metric in _installed()[0]]


def _installed() -> tuple[list[tuple[str, Metric]], list[str]]:
    """Return (distribution and version, metric) of those that can be used, by name, and the problems of the others."""
    found: dict[str, tuple[str, Metric]] = {}
    problems, taken = [], {info.key for info in METRICS}
    for info in registry.available("metrics"):
        if info.distribution == _OURS:
            continue
        provider = f"{info.distribution} {info.version}".strip()
        try:
            metric = registry.create("metrics", f"{info.distribution}:{info.name}")
        except DiffReconError as error:
            problems.append(f"{info.name} of {provider} is skipped: {error.what}")
            continue
        if isinstance(metric, PhantomMetric):
            continue  # a study of image quality computes it
        name = getattr(metric, "name", None)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            problems.append(f"{info.name} of {provider} is skipped: its name may contain only letters, digits and _")
        elif name in taken:
            problems.append(f"{info.name} of {provider} is skipped: another metric is called {name!r}")
        else:
            taken.add(name)
            found[name] = (provider, metric)
    return [found[name] for name in sorted(found)], problems
