# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""FDK of a uniform cylinder from its projections in closed form: the largest bias of a ring, as a Markdown table.

    python scripts/studies/cone_beam/uniform_cylinder.py

Scans, cylinder and rings are those of plugins/diffrecon-rtk/tests/test_fdk_weights.py, which asserts less than 2 %.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "plugins" / "diffrecon-rtk" / "tests"))
from test_fdk_weights import FULL, HALF, RADIUS, made, measured, rings

SCANS = {
    "full fan, 180 views": {"views": 180, **FULL},
    "half fan, 180 views": {"views": 180, **HALF, "detector_offset": [45.0, 0.0]},
    "half fan, 90 views": {"views": 90, **HALF, "detector_offset": [45.0, 0.0]},
    "half fan, 180 views, weights of a full fan": {"views": 180, **HALF, "detector_offset": [45.0, 0.0]},
    "short scan, 200 degrees, 100 views": {"views": 100, "arc": 200.0, **FULL},
}


def main() -> None:
    """Print the table."""
    print("| scan | detector sees (mm at the isocentre) | largest bias of a ring |\n|---|---|---|")
    for name, options in SCANS.items():
        operator = made(options)
        if name.endswith("weights of a full fan"):
            operator.fdk_weighting = "full"
        first = operator.trajectory.views[0]
        k = first.source_to_isocenter / first.source_to_detector
        low, high = (k * u for u in operator.detector.edges(0))
        bias = np.abs(rings(operator.initial(measured(operator, (0.0, 0.0), RADIUS)))).max()
        print(f"| {name} | {low:.0f} to {high:.0f} | {100 * bias:.2f} % |", flush=True)


if __name__ == "__main__":
    main()
