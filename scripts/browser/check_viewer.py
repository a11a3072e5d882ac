# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Opens pages of `diffrecon view` in Chromium, from file://, and compares what they show with the NIfTI files.

Needs the package playwright and a Chromium (Debian: chromium), in any environment; the pages are written by this one:

    python scripts/browser/check_viewer.py --output FOLDER --browser /usr/bin/chromium [--case CASE_recon.nii.gz]
"""

from __future__ import annotations

import argparse
import time
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from playwright.sync_api import Page, sync_playwright

from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.viewer.layers import gather
from monai_diffrecon.viewer.page import PAGE_BYTES, write_page

SECONDS = 5.0
TITLES = {"recon": "reconstruction", "truth": "truth", "std": "spread", "input": "measured input"}


def head(n: int, noise: float, seed: int) -> np.ndarray:
    """Return a head of ellipsoids (n, n, n), in HU, an arrow of bone pointing to its left and front."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32)] * 3, indexing="ij")
    volume = np.full(x.shape, -1000, np.float32)
    radius = np.sqrt((x / 0.7) ** 2 + (y / 0.85) ** 2 + (z / 0.8) ** 2)
    for limit, value in ((1.0, 60), (0.95, 1200), (0.88, 35), (0.5, 28), (0.2, 5)):
        volume[radius < limit] = value
    volume[(abs(x + 0.4) < 0.03) & (abs(y - 0.3) < 0.2) & (abs(z) < 0.1)] = 900
    draw = np.random.default_rng(seed).normal(0, noise, x.shape).astype(np.float32)
    return volume + draw * (radius < 1.0)


def synthetic(folder: Path, name: str, n: int, geometry: VolumeGeometry) -> Path:
    """Write a synthetic case and return its reconstruction."""
    truth, shape = np.rint(head(n, 12, 0)), geometry.shape
    crop = tuple(slice(0, size) for size in shape)
    recon = head(n, 6, 1)
    std = np.abs(np.random.default_rng(2).normal(0, 8, truth.shape)).astype(np.float32) * (truth > -900)
    for end, volume in {"recon": recon, "truth": truth, "std": std}.items():
        write_volume(folder / f"{name}_{end}.nii.gz", torch.from_numpy(volume[crop].copy())[None], geometry)
    return folder / f"{name}_recon.nii.gz"


def open_page(page: Page, path: Path) -> float:
    """Open a page and return the seconds until all of it can be seen."""
    started = time.perf_counter()
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready=true]", timeout=60_000)
    page.wait_for_function("document.querySelectorAll('#values td').length > 0")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return time.perf_counter() - started


def state(page: Page) -> tuple[tuple[int, int, int], np.ndarray, dict[str, float]]:
    """Return voxel, position (mm, or empty) and values that a page shows."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    entries = [text.strip() for text in page.locator("#place dt, #place dd").all_inner_texts()]
    place = dict(zip(entries[::2], entries[1::2], strict=True))
    i, j, k = (int(part) for part in place["Voxel, from 0"].split(","))
    mm = [float(place[d].split()[0].replace("\u2212", "-")) for d in ("Right", "Anterior", "Superior") if d in place]
    rows = page.eval_on_selector_all(
        "#values tr", "rows => rows.map(r => [r.children[0].textContent, Number(r.children[1].dataset.value)])"
    )
    return (i, j, k), np.array(mm), {str(title): float(value) for title, value in rows}


@cache
def loaded(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return voxels and affine of a NIfTI file, read without this package."""
    image = nib.load(file)
    image = nib.as_closest_canonical(image) if image.header["sform_code"] else image
    return np.asarray(image.dataobj), image.affine


def compare(page: Page, recon: Path) -> None:
    """Compare values and position under the crosshair with the files."""
    voxel, mm, values = state(page)
    steps = dict(page.evaluate("layers.map((layer) => [layer.title, layer.step || 0])"))
    for end, title in TITLES.items():
        file = recon.with_name(recon.name.replace("_recon", f"_{end}"))
        if not file.is_file():
            continue
        voxels, affine = loaded(file)
        wanted = float(voxels[voxel])
        assert abs(values[title] - wanted) <= 0.5001 * steps[title] + 1e-4, (title, voxel, values[title], wanted)
        if mm.size:
            assert np.allclose(affine[:3] @ [*voxel, 1], mm, atol=0.051), (mm, voxel)
    if "truth" in values:
        assert np.isclose(values["error of reconstruction"], values["reconstruction"] - values["truth"], atol=1e-6)


def use(page: Page, recon: Path) -> None:
    """Click, scroll, drag and press keys; what is shown must follow."""
    axial, coronal, sagittal = (page.locator(".row").first.locator("canvas").nth(n) for n in range(3))
    compare(page, recon)
    for canvas, across in ((axial, 0), (coronal, 0), (sagittal, 1)):
        box = canvas.bounding_box()
        assert box is not None
        seen = []
        for x, y in ((0.35, 0.4), (0.65, 0.6), (0.5, 0.45)):
            page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
            compare(page, recon)
            seen.append(state(page)[0])
        mirror = page.evaluate("mirrored()")  # the patient's right, and their front, are on the left
        assert (seen[0][across] > seen[1][across]) == mirror
        up = 1 if canvas is axial else 2
        assert seen[0][up] > seen[1][up]
        axis = (2, 1, 0)[(axial, coronal, sagittal).index(canvas)]
        before = state(page)[0]
        page.mouse.wheel(0, -120)
        after = state(page)[0]
        assert after[axis] == before[axis] + 1, (before, after)
        compare(page, recon)
        canvas.focus()
        page.keyboard.press("PageDown")
        assert state(page)[0] == before
        page.keyboard.press("ArrowLeft")
        assert state(page)[0][across] == before[across] + (1 if mirror else -1)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("End")
        assert state(page)[0][axis] == page.evaluate(f"shape[{axis}]") - 1
        page.keyboard.press("Home")
        assert state(page)[0][axis] == 0
        page.evaluate(f"move({axis}, {before[axis]})")
    box = axial.bounding_box()
    assert box is not None
    level, width = page.input_value("#level"), page.input_value("#width")
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down(button="right")
    page.mouse.move(box["x"] + 110, box["y"] + 80)
    page.mouse.up(button="right")
    state(page)
    assert float(page.input_value("#width")) > float(width)
    assert page.input_value("#level") != level
    page.keyboard.press("r")
    state(page)
    assert (page.input_value("#level"), page.input_value("#width")) == (level, width)


def shown(page: Page, folder: Path, name: str, **choices: str) -> None:
    """Choose what is shown and save a screenshot."""
    for control, label in choices.items():
        page.select_option(f"#{control}", label=label)
    state(page)
    page.wait_for_timeout(100)
    page.screenshot(path=folder / f"{name}.png")


def main() -> None:
    """Write the pages, open them, and check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for pages and screenshots")
    parser.add_argument("--browser", required=True, help="Chromium's program")
    parser.add_argument("--case", type=Path, action="append", default=[], help="a further reconstruction")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    turn = np.deg2rad(30)
    oblique = np.eye(4)
    oblique[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    oblique = oblique @ np.diag([1.5, 2.5, 4.0, 1.0])
    cases = {
        "large": synthetic(arguments.output, "large", 256, geometry_of((256,) * 3, np.diag([0.8, 0.8, 0.8, 1.0]))),
        "oblique": synthetic(arguments.output, "oblique", 64, geometry_of((64, 60, 30), oblique)),
        "unknown": synthetic(arguments.output, "unknown", 64, VolumeGeometry((64, 60, 50))),
        **{f"case{n}": path for n, path in enumerate(arguments.case)},
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.browser, args=["--no-sandbox"])
        for name, recon in cases.items():
            path, started = arguments.output / f"{name}_view.html", time.perf_counter()
            write_page(path, gather(recon))
            wrote, size = time.perf_counter() - started, path.stat().st_size
            page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
            problems: list[str] = []
            page.on("pageerror", lambda error, problems=problems: problems.append(str(error)))
            page.on("console", lambda message, problems=problems: problems.append(message.text))
            page.on("request", lambda request, p=path, problems=problems: problems.extend({request.url} - {p.as_uri()}))
            seconds = open_page(page, path)
            print(f"{name}: written in {wrote:.1f} s, {size / 1e6:.1f} MB, opened in {seconds:.2f} s", flush=True)
            assert size < PAGE_BYTES
            assert seconds < SECONDS
            use(page, recon)
            shown(page, arguments.output, f"{name}_first")
            shown(page, arguments.output, f"{name}_error", first="reconstruction", second="error of reconstruction")
            if page.locator("#second option", has_text="spread").count():
                page.emulate_media(color_scheme="dark")
                shown(page, arguments.output, f"{name}_spread", second="spread", mode="blended")
            page.locator("canvas").first.dblclick()
            shown(page, arguments.output, f"{name}_enlarged", mode="first only")
            assert not problems, problems
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
