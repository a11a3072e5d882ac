# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Synthetic MR contrasts from anatomical label maps."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

#: FreeSurfer labels of both sides -> (mean, spread) of a T1-weighted contrast with white matter near 0.85.
_T1_MEANS: dict[tuple[int, ...], tuple[float, float]] = {
    (2, 41, 7, 46): (0.85, 0.06),
    (3, 42, 8, 47): (0.58, 0.07),
    (4, 43, 5, 44, 14, 15, 24): (0.20, 0.08),
    (10, 49): (0.70, 0.06),
    (11, 50, 12, 51, 26, 58): (0.63, 0.06),
    (13, 52): (0.76, 0.06),
    (16, 28, 60): (0.76, 0.06),
    (17, 53, 18, 54): (0.57, 0.06),
}


def random_means(labels: np.ndarray, rng: np.random.Generator, *, t1_probability: float = 0.7) -> np.ndarray:
    """Draw one mean intensity for each label.

    Args:
        labels: label values, (L,); 0 is background and stays 0.
        rng: source of randomness.
        t1_probability: probability of a T1-weighted contrast; otherwise every mean is uniform in 0.05..1.

    Returns:
        Means (L,) in network units, equal on both sides of the brain under a T1-weighted contrast.
    """
    means = rng.uniform(0.05, 1.0, size=len(labels))
    if rng.random() < t1_probability:
        for group, (mean, spread) in _T1_MEANS.items():
            means[np.isin(labels, group)] = mean + spread * rng.standard_normal()
    means[labels == 0] = 0.0
    return means


def render_labels(index: np.ndarray, means: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Render a slice: means, texture within the tissue, and a blur for partial volumes.

    Args:
        index: label indices (H, W).
        means: mean of each label index (L,).
        rng: source of randomness.
    """
    image = means[index]
    texture = gaussian_filter(rng.standard_normal(index.shape), rng.uniform(0.7, 2.0))
    texture *= rng.uniform(0.0, 0.04) / max(texture.std(), 1e-6)
    image = image * (1.0 + texture) + texture * (index > 0)
    return gaussian_filter(np.clip(image, 0.0, None), rng.uniform(0.45, 0.9)).astype(np.float32)
