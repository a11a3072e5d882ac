# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What checkpoints, guard and provenance cost, as parts of the wall time of whole runs.

    python scripts/benchmarks/safety.py [--output FILE.md]

Each case is a bundle's own run, from the measurement to the record, with the default interval of checkpoints. The time
inside each part is added up while it runs: the difference of two runs would drown in the noise of the machine.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_diffrecon.engine import inferer, plugin_checks
from monai_diffrecon.engine.cases import case_record
from monai_diffrecon.engine.handlers.non_finite_guard import NonFiniteGuard
from monai_diffrecon.engine.planes import batched_plane_denoiser
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.presets.overlays import overlay_path

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "brain_mr_t1_axial"
SCAN = ROOT / "examples" / "colin27_t1.nii.gz"

#: Name -> overlays, and options laid over them.
CASES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "thick slices, default": (["tasks/z_super_resolution"], {}),
    "MRI 8x, default": (["tasks/accelerated_mri"], {}),
    "MRI 8x, ADMM-TV": (["tasks/accelerated_mri", "methods/admm_tv"], {}),
    "thick slices, DDS on two planes": (["tasks/z_super_resolution", "methods/dds_tpdm"], {}),
}
PARTS = ("checkpoints", "guard", "provenance")


class Stopwatch:
    """Adds up the time inside functions, by name; a part within a part is counted once, as the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._inside = False

    def around(self, owner: Any, name: str, part: str) -> None:
        """Time a function, wherever it is called through ``owner``."""
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside, started = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds[part] += time.perf_counter() - started
                self.calls[part] += 1

        setattr(owner, name, staticmethod(timed) if isinstance(vars(owner).get(name), staticmethod) else timed)


def watch() -> Stopwatch:
    """Return a stopwatch around all that makes runs safe."""
    watch = Stopwatch()
    for name in ("open", "due", "write", "remove"):
        watch.around(RunCheckpoint, name, "checkpoints")
    watch.around(NonFiniteGuard, "_check", "guard")
    watch.around(batched_plane_denoiser, "check_network_output", "guard")
    watch.around(plugin_checks, "check_like", "guard")
    watch.around(inferer.DiffReconInferer, "identity", "provenance")
    for name in ("build_record", "write_record", "sha256_tensor", "face_notice"):
        watch.around(case_record, name, "provenance")
    return watch


def measure(overlays: list[str], options: dict[str, Any], watch: Stopwatch) -> dict[str, Any]:
    """Run a case and return its numbers."""
    config = ConfigParser()
    files = [overlay_path(*name.split("/"), BUNDLE, where="CASES") for name in overlays]
    config.read_config([str(file) for file in (BUNDLE / "configs" / "inference.json", *files)])
    with tempfile.TemporaryDirectory() as folder:
        config.update(
            {
                "bundle_root": str(BUNDLE),
                "auxiliary_bundle": "../brain_mr_t1_coronal",
                "image": str(SCAN),
                "case_name": "colin27",
                "output_dir": folder,
                **options,
            }
        )
        evaluator = config.get_parsed_content("evaluator")
        watch.seconds.clear()
        watch.calls.clear()
        started = time.perf_counter()
        evaluator.run()
        wall = time.perf_counter() - started
        report = evaluator.state.output["report"]
    return {"wall": wall, "steps": len(report.steps), "calls": watch.calls["checkpoints"], **watch.seconds}


def page(rows: dict[str, dict[str, Any]]) -> str:
    """Return the results as a page."""
    lines = [
        "# Overhead of checkpoints, checks and records",
        "",
        "Written by `scripts/benchmarks/safety.py`: whole runs on the example head (`examples/colin27_t1.nii.gz`,",
        "181 x 217 x 181 voxels), from the simulated measurement to the record, tracked in MLflow. Checkpoints are",
        "written at the default interval (as often as costs one hundredth of the wall time). Guard: every value of",
        "every network call, prior, hook and step is checked. Provenance: hashes, the record, the face check.",
        "",
        "| case | steps | wall time (s) | checkpoints | guard | provenance | guard and provenance |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        shares = [row.get(part, 0.0) / row["wall"] for part in PARTS]
        cells = " | ".join(f"{share:.2%}" for share in (*shares, shares[1] + shares[2]))
        lines.append(f"| {name} | {row['steps']} | {row['wall']:.1f} | {cells} |")
    machine = f"{platform.system()} on {platform.machine()}, {torch.get_num_threads()} threads"
    return "\n".join([*lines, "", f"{machine}, torch {version('torch')}.", ""])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "safety.md")
    args = parser.parse_args()
    stopwatch, rows = watch(), {}
    for name in args.cases:
        rows[name] = measure(*CASES[name], stopwatch)
        print(name, {key: round(value, 3) for key, value in rows[name].items()}, flush=True)
    args.output.write_text(page(rows), encoding="utf-8")
    print(args.output.read_text())


if __name__ == "__main__":
    main()
