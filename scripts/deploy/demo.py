# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The application of diffrecon-deploy on a DICOM folder, compared with ``diffrecon reconstruct``, and the packager.

    python scripts/deploy/demo.py [--write FILE.md]

The input folder has two series of a part of examples/colin27_t1.nii.gz, of 5 mm and of 1 mm slices; the rules select
the thick one. Then come folders that are refused, and the packager of the SDK, as far as it goes on this machine.
Everything lies in a temporary folder. With dciodvfy (dicom3tools), the derived images are checked.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import yaml
from pydicom import dcmread

import diffrecon_deploy.app.settings

ROOT = Path(__file__).resolve().parents[2]
APP = Path(diffrecon_deploy.app.settings.__file__).parent
BUNDLE = ROOT / "bundles" / "brain_mr"
STEPS = 4

sys.path.insert(0, str(ROOT / "scripts" / "orthanc"))
from demo import thick_series  # noqa: E402  (scripts/orthanc/demo.py)


def run(*words: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a command, show it and the last lines that it writes, and return it with the seconds."""
    print("$ " + " ".join([*(f"{k}={v}" for k, v in environment.items()), *words]), flush=True)
    begun = time.perf_counter()
    done = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, check=False)
    print("\n".join((done.stdout + done.stderr).strip().splitlines()[-3:]))
    print(f"exit code {done.returncode}", flush=True)
    return done, time.perf_counter() - begun


def run_app(scans: Path, output: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run the application in process, with few steps."""
    settings = yaml.safe_load((APP / "app.yaml").read_text())
    settings["reconstruction"]["overrides"] = {"sampler#steps": STEPS, "device": "cpu"}
    config = output.with_name("app.yaml")
    config.write_text(yaml.safe_dump(settings))
    words = ["-i", str(scans), "-o", str(output), "-m", str(BUNDLE)]
    return run("python", "-W", "ignore", "-m", "diffrecon_deploy.app", *words, HOLOSCAN_CONFIG_PATH=str(config))


def compare(work: Path) -> list[str]:
    """Run the application and ``diffrecon reconstruct`` on the same series, and compare all files."""
    (work / "scans").mkdir()
    thick_series(work / "scans" / "thick", (64, 80, 8), 5)
    thick_series(work / "scans" / "thin", (64, 80, 8), 1, 2)
    done, seconds = run_app(work / "scans", work / "app")
    assert done.returncode == 0, done.stderr
    (record_file,) = work.glob("app/*.provenance.json")
    case = json.loads(record_file.read_text())["case"]
    words = ["reconstruct", str(work / "scans" / "thick"), "--bundle", str(BUNDLE), "--case", case, "--device", "cpu"]
    words += ["--set", f"sampler.steps={STEPS}", "--set", "output_format=dicom", "--set", "evaluator.track=False"]
    words += ["--set", "evaluator.view=False", "--output", str(work / "cli")]
    done, by_command = run("python", "-W", "ignore", "-m", "monai_diffrecon", *words)
    assert done.returncode == 0, done.stderr
    files = sorted(path.relative_to(work / "app") for path in work.glob("app/**/*") if path.is_file())
    images = [work / "app" / path for path in files if path.suffix == ".dcm"]
    differing = [path for path in files if (work / "app" / path).read_bytes() != (work / "cli" / path).read_bytes()]
    assert [path.name for path in differing] == [record_file.name], differing
    records = [json.loads((work / place / record_file.name).read_text()) for place in ("app", "cli")]
    entries = {key for key in records[0] | records[1] if records[0].get(key) != records[1].get(key)}
    assert entries == {"created", "report", "record_sha256"}, entries
    lines = [
        f"- One of two series selected ({len(list(work.glob('scans/thick/*')))} slices of 64 x 80, 5 mm), {STEPS} "
        f"steps on the CPU: {len(images)} derived images, the NIfTI file and the picture equal those of `diffrecon "
        f"reconstruct --set output_format=dicom` byte for byte ({seconds:.0f} s and {by_command:.0f} s, most of it to "
        f"import libraries). The records differ in {', '.join(f'`{key}`' for key in sorted(entries))}, by times.",
    ]
    if shutil.which("dciodvfy"):
        said = [subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False) for path in images]
        errors = sum(line.startswith("Error") for each in said for line in (each.stdout + each.stderr).splitlines())
        assert errors == 0, errors
        lines.append(f"- `dciodvfy`: {errors} errors in {len(images)} images.")
    return lines


def refusals(work: Path) -> list[str]:
    """Run the application on folders that it refuses."""
    lines = []
    for name in ("two series", "a missing slice", "a damaged file"):
        scans = work / name.replace(" ", "_")
        shutil.copytree(work / "scans" / "thick", scans / "1")
        one = scans / "1" / "0004.dcm"
        if name == "two series":
            shutil.copytree(scans / "1", scans / "2")
            for path in (scans / "2").iterdir():
                dataset = dcmread(path)
                dataset.SeriesInstanceUID += ".1"
                dataset.save_as(path)
        elif name == "a missing slice":
            one.unlink()
        else:
            one.write_bytes(one.read_bytes()[:2000])
        done, _ = run_app(scans, work / "refused")
        (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 2, done.stderr
        assert not list(work.glob("refused/*"))
        lines.append(f"- {name.capitalize()}, exit code 2, nothing written: `{said}`")
    return lines


def package(work: Path) -> list[str]:
    """Run the packager of the SDK as far as it goes."""
    shutil.copytree(BUNDLE, work / "models" / BUNDLE.name)
    sdk, app_sdk = version("holoscan-cu13"), version("monai-deploy-app-sdk")
    pip = ["pip", "download", "--quiet", "--no-deps", "--dest", str(work / "wheels")]
    subprocess.run([*pip, f"holoscan-cu13=={sdk}", f"monai-deploy-app-sdk=={app_sdk}"], check=True, capture_output=True)
    # The packager knows the versions of the day it was released. A file says the same of others.
    image = {"x64-workstation": "nvcr.io/nvidia/cuda:13.0.0-runtime-ubuntu24.04"}
    known = {"wheel-version": sdk, "debian-version": sdk, "base-images": {"dgpu": image["x64-workstation"]}}
    known["build-images"] = dict.fromkeys(("igpu", "dgpu", "cpu"), image)
    (work / "artifacts.json").write_text(json.dumps({sdk: {"holoscan": known, "health-probes": {}}}))
    words = ["package", "-l", "DEBUG", str(APP), "--config", str(APP / "app.yaml"), "--models", str(work / "models")]
    words += ["--platform", "x86_64", "--tag", "monai_diffrecon:0.1.0", "--source", str(work / "artifacts.json")]
    for option, wheel in (("--holoscan-sdk-file", "holoscan"), ("--monai-deploy-sdk-file", "monai_deploy")):
        words += [option, *(str(path) for path in work.glob(f"wheels/{wheel}*.whl"))]
    done, _ = run("monai-deploy", *words)
    said = done.stdout + done.stderr
    parts = {"app.json": "Begin app.json", "pkg.json": "Begin pkg.json", "requirements": "Begin requirements.txt"}
    parts["Dockerfile"] = "Begin Dockerfile"
    made = [name for name, mark in parts.items() if mark in said]
    assert list(parts) == made, said
    if done.returncode == 0:
        return ["- Packager: the image was built."]
    failed = re.search(r"Error packaging application:\s+(.*?)(?:\n\n|\Z)", said, flags=re.DOTALL)
    stop = " ".join(failed[1].split()) if failed else said.strip().splitlines()[-1]
    stop = stop.partition(" The content of")[0].replace("`", "'")
    return [f"- Packager: generates {', '.join(made)} and stops where Docker begins: `{stop[:300]}`"]


def main() -> None:
    """Run all, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deploy_demo_") as folder:
        work = Path(folder)
        lines = [line.replace(folder, "...") for part in (compare, refusals, package) for line in part(work)]
    names = ("monai-deploy-app-sdk", "holoscan-cu13", "holoscan-cli", "monai", "torch", "pydicom", "highdicom")
    machine = f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    gpu = "with" if shutil.which("nvidia-smi") else "without"
    text = [
        "# The application of MONAI Deploy",
        "",
        "Written by `scripts/deploy_demo.sh --write FILE`: the application of `diffrecon-deploy` on DICOM series,",
        "parts of the example head (`examples/colin27_t1.nii.gz`), run in process by the real SDK.",
        "",
        *lines,
        "",
        f"{machine}, {gpu} a GPU; {', '.join(f'{name} {version(name)}' for name in names)}.",
        "",
    ]
    print("\n".join(text))
    if args.write:
        args.write.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
