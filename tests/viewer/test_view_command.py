# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``diffrecon view``: which files it shows, and what it refuses."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_diffrecon.cli.main import main
from monai_diffrecon.cli.view import named_scans, page_path, view
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.viewer.layers import gather, on_grid

from ..raising import raises
from .test_page import Page, volume

AFFINE = np.array([[1.0, 0, 0, -3], [0, 2, 0, 5], [0, 0, 3, 7], [0, 0, 0, 1]])
SHAPE = (6, 5, 4)


def write(path: Path, seed: int = 0, affine: np.ndarray = AFFINE, shape: tuple[int, int, int] = SHAPE) -> Path:
    path.parent.mkdir(exist_ok=True)
    x = torch.rand((1, *shape), generator=torch.Generator().manual_seed(seed)) * 100
    write_volume(path, x, geometry_of(shape, affine))
    return path


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    command = view(parser)
    return command(parser.parse_args([str(word) for word in words]))


def test_every_case_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n, end in enumerate(("recon", "std", "low", "high", "truth", "input", "sample000")):
        write(tmp_path / f"a_{end}.nii.gz", n)
    write(tmp_path / "b_recon.nii.gz")
    (tmp_path / "notes.txt").write_text("no volume")
    assert main(["view", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"{name}_view.html") for name in "ab"]
    a, b = (Page((tmp_path / f"{name}_view.html").read_text()) for name in "ab")
    assert list(a.layers) == [
        *("measured input", "reconstruction", "interval, lower end", "interval, upper end", "truth", "spread"),
        *("error of measured input", "error of reconstruction"),
    ]
    assert list(b.layers) == ["reconstruction"]
    np.testing.assert_allclose(a.voxels("truth"), volume(4)[0], atol=1e-3)
    assert (a.texts["title"], b.texts["title"]) == ("a", "b")
    assert str(tmp_path) not in (tmp_path / "a_view.html").read_text()


def test_cases_below_folders_of_methods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "fbp" / "a_recon.nii.gz")
    write(tmp_path / "diffusion" / "a_recon.nii.gz")
    assert run(tmp_path) == 0
    assert len(capsys.readouterr().out.split()) == 2
    assert (tmp_path / "fbp" / "a_view.html").is_file()


def test_scans_are_shown_too(tmp_path: Path) -> None:
    recon = write(tmp_path / "out" / "a_recon.nii.gz", 0)
    write(tmp_path / "out" / "b_recon.nii.gz", 0)
    thick = AFFINE.copy()
    thick[2, 2:] = 6, 8.5
    image = write(tmp_path / "Doe_John.nii.gz", 1, thick, (6, 5, 2))
    truth, other = write(tmp_path / "Roe.nii.gz", 2), write(tmp_path / "Poe.nii.gz", 3)
    words = ("--image", image, "--reference", truth, "--layer", f"total variation={other}", "--unit", "mm-1")
    assert run(recon.parent, "--case", "a", *words) == 0
    html = (tmp_path / "out" / "a_view.html").read_text()
    page = Page(html)
    assert list(page.layers)[:4] == ["measured input", "reconstruction", "total variation", "truth"]
    assert "error of total variation" in page.layers
    assert page.about["unit"] == "mm-1"
    # Each thick slice is seen in two thin ones.
    thin = np.repeat(nib.load(image).get_fdata(), 2, axis=2)
    np.testing.assert_allclose(page.voxels("measured input"), thin, atol=1e-3)
    for word in ("Doe", "Roe", "Poe", str(tmp_path)):
        assert word not in html
    with raises(ConfigError, where="OUTPUT", got=2):
        run(recon.parent, "--image", image)


def test_the_name_of_another_file_is_not_in_its_page(tmp_path: Path) -> None:
    path = write(tmp_path / "Doe_John.nii")
    assert run(path) == 0
    html = (tmp_path / "Doe_John_view.html").read_text()
    assert "Doe" not in html
    assert Page(html).texts["title"] == "reconstruction"


@pytest.mark.parametrize(
    ("make", "words", "where", "code"),
    [
        (lambda folder: None, [""], "OUTPUT", 2),
        (lambda folder: (folder / "a.txt").write_text("x"), [""], "OUTPUT", 2),
        (lambda folder: None, ["missing"], "OUTPUT", 2),
        (lambda folder: (folder / "a.txt").write_text("x"), ["a.txt"], "a.txt", 2),
        (lambda folder: (folder / "a_recon.nii.gz").write_bytes(b"no"), [""], "a_recon.nii.gz", 2),
        (lambda folder: write(folder / "a_recon.nii.gz"), ["", "--case", "b"], "--case", 2),
        (lambda folder: write(folder / "a_recon.nii.gz"), ["", "--layer", "x"], "--layer", 2),
        (lambda folder: write(folder / "a_recon.nii.gz"), ["", "--megabytes", "0"], "--megabytes", 2),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    make: Any, words: list[str], where: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path)
    assert main(["view", str(tmp_path / words[0]), *words[1:]]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {where}: ")
    assert said.err.count("\n") == 1
    assert str(tmp_path) not in said.err


def test_several_volumes_in_a_file_are_none(tmp_path: Path) -> None:
    nib.Nifti1Image(np.zeros((3, 3, 3, 2), np.float32), np.eye(4)).to_filename(tmp_path / "a_recon.nii.gz")
    with raises(InputError, where="a_recon.nii.gz", expected="three axes", got=...):
        run(tmp_path)


def test_a_truth_elsewhere_is_refused(tmp_path: Path) -> None:
    recon = write(tmp_path / "a_recon.nii.gz")
    moved = AFFINE.copy()
    moved[0, 3] += 0.5
    write(tmp_path / "a_truth.nii.gz", 1, moved)
    with raises(InputError, where="a_truth.nii.gz", expected=..., got=...):
        gather(recon)
    write(tmp_path / "a_truth.nii.gz", 1, AFFINE, (6, 5, 3))
    with raises(InputError, where="a_truth.nii.gz", expected=..., got="(6, 5, 3) voxels"):
        gather(recon)


def test_an_input_elsewhere_is_refused() -> None:
    far = AFFINE.copy()
    far[:3, 3] = 1000.0
    with raises(InputError, where="scan", expected=..., got="(6, 5, 4) voxels, elsewhere"):
        on_grid(volume(0), geometry_of(SHAPE, far), geometry_of(SHAPE, AFFINE), "scan", "input")


def test_a_turned_input_is_seen_at_its_nearest_voxels() -> None:
    """Compared with a search for the nearest voxel in mm, one by one."""
    a = np.deg2rad(25)
    turned = AFFINE.copy()
    turned[:2, :2] = [[1.5 * np.cos(a), -1.5 * np.sin(a)], [1.5 * np.sin(a), 1.5 * np.cos(a)]]
    source, target = geometry_of(SHAPE, turned), VolumeGeometry(SHAPE, affine=tuple(map(tuple, AFFINE.tolist())))
    x = volume(0)
    got = on_grid(x, source, target, "scan", "input")[0]
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).reshape(-1, 3)
    places = grid @ turned[:3, :3].T + turned[:3, 3]
    wide = np.stack(np.meshgrid(*[np.arange(-9, 15)] * 3, indexing="ij"), -1).reshape(-1, 3)
    for voxel in grid:
        at = AFFINE[:3, :3] @ voxel + AFFINE[:3, 3]
        far = np.linalg.norm(wide @ turned[:3, :3].T + turned[:3, 3] - at, axis=1)
        near = np.linalg.norm(places - at, axis=1)
        inside = np.isclose(near.min(), far.min())
        wanted = x[0][tuple(grid[near.argmin()])] if inside else x.min()
        assert float(got[tuple(voxel)]) == float(wanted)


def test_a_changed_volume_is_shown_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a_recon.nii.gz")
    (tmp_path / "a_recon.provenance.json").write_text("{}")
    assert run(tmp_path) == 0
    assert "a_recon.nii.gz is shown although it is not as its record says" in caplog.text


def test_names() -> None:
    assert page_path(Path("x/a_recon.nii.gz")) == Path("x/a_view.html")
    assert page_path(Path("x/b.nii")) == Path("x/b_view.html")
    arguments = argparse.Namespace(image="i", reference="r", layer=["tv=a=b"])
    assert named_scans(arguments) == {
        "measured input": ("input", "i"),
        "truth": ("truth", "r"),
        "tv": ("reconstruction", "a=b"),
    }
    with raises(ConfigError, where="--layer", expected=..., got="tv=c"):
        named_scans(argparse.Namespace(image=None, reference=None, layer=["tv=b", "tv=c"]))
