# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Kill the reconstruction of the example head at random moments, and compare it with an uninterrupted run.

    python scripts/studies/kills.py WORK [--kills 20] [--seed 0] [--output FILE.md]

Every attempt is the real command in a process of its own, ended by SIGKILL after a random time: while it imports,
reads, reconstructs or writes. WORK is a folder for the outputs.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.tracking.provenance import verify_record

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "brain_mr_t1_axial"


def command(output: Path) -> list[str]:
    """Return the command line of the demo's task."""
    configs = [str(BUNDLE / "configs" / name) for name in ("inference.json", "tasks/z_super_resolution.json")]
    arguments = ["--config_file", str(configs), "--bundle_root", str(BUNDLE), "--output_dir", str(output)]
    arguments += ["--auxiliary_bundle", "../brain_mr_t1_coronal", "--checkpoint_every", "1"]
    arguments += ["--image", str(ROOT / "examples" / "colin27_t1.nii.gz"), "--case_name", "colin27"]
    return [sys.executable, "-m", "monai.bundle", "run", *arguments]


def run(output: Path, kill_after: float | None) -> tuple[int, float]:
    """Run the command; return its exit code and how long it lived."""
    started = time.perf_counter()
    with (output.parent / "log").open("ab") as log:
        process = subprocess.Popen(command(output), stdout=log, stderr=log)
        try:
            process.wait(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode, time.perf_counter() - started


def statuses(output: Path) -> dict[str, int]:
    """Return status -> number of MLflow runs."""
    from monai_diffrecon.tracking.mlflow_client import mlflow_module

    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{output}/mlflow.db")
    experiment = client.get_experiment_by_name("monai_diffrecon")
    found: dict[str, int] = {}
    for each in client.search_runs([experiment.experiment_id], max_results=1000):
        found[each.info.status] = found.get(each.info.status, 0) + 1
    return found


def main() -> None:
    """Run, kill, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "kills.md")
    args = parser.parse_args()
    whole, killed = args.work / "whole", args.work / "killed"
    for folder in (whole, killed):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    code, seconds = run(whole, None)
    assert code == 0, f"see {args.work / 'log'}"
    print(f"whole: {seconds:.0f} s", flush=True)
    chance, lives = random.Random(args.seed), []
    while len(lives) < args.kills:
        code, lived = run(killed, chance.uniform(0.0, 0.2 * seconds))
        if code == 0:
            break
        lives.append(lived)
        print(f"kill {len(lives)} after {lived:.1f} s", flush=True)
    code, lived = run(killed, None)
    assert code == 0, f"see {args.work / 'log'}"
    names = [folder / "colin27_recon.nii.gz" for folder in (whole, killed)]
    records = [verify_record(name.with_name("colin27_recon.provenance.json")) for name in names]
    hashes = [sha256_file(name) for name in names]
    same = "the same" if hashes[0] == hashes[1] else "ANOTHER"
    lines = [
        "# Resuming after kills",
        "",
        "Written by `scripts/studies/kills.py`: the example head (`examples/colin27_t1.nii.gz`, 181 x 217 x 181",
        "voxels), 5 mm slices to 1 mm with the default sampler and a checkpoint after each step, run by the actual",
        "command. Each attempt is ended by SIGKILL at a random moment; then the command is repeated.",
        "",
        f"- {len(lives)} kills, after {min(lives):.1f} to {max(lives):.1f} s; the last attempt took {lived:.0f} s.",
        f"- Uninterrupted run: {seconds:.0f} s.",
        f"- Resumes from a checkpoint: {records[1]['execution']['resumed']}.",
        f"- sha256 of the volume: {hashes[0]} (uninterrupted), {hashes[1]} (killed): **{same} file**.",
        f"- MLflow runs by status: {json.dumps(statuses(killed))}.",
        "",
        f"{platform.system()} on {platform.machine()}, torch {version('torch')}.",
        "",
    ]
    args.output.write_text("\n".join(lines), encoding="utf-8")
    print(args.output.read_text())


if __name__ == "__main__":
    main()
