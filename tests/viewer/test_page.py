# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Pages of cases: what is in them, and nothing else."""

from __future__ import annotations

import base64
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_diffrecon.api.result import ReconstructionResult
from monai_diffrecon.engine.run_report import PosteriorSpread
from monai_diffrecon.errors import InputError
from monai_diffrecon.io.measurement.metatensor import geometry_of
from monai_diffrecon.io.nifti import read_volume
from monai_diffrecon.protocols import VolumeGeometry
from monai_diffrecon.viewer.encoding import EncodedVolume, decode
from monai_diffrecon.viewer.layers import CaseLayers, Layer, gather
from monai_diffrecon.viewer.notebook import NotebookPage
from monai_diffrecon.viewer.page import axis_ends, page_of
from monai_diffrecon.viewer.run_page import write_run_page

from ..raising import raises

SHAPE = (6, 5, 4)


class Page(HTMLParser):
    """Elements of a page, its description, and the voxels in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._id = ""
        self.feed(html)
        self.about: dict[str, Any] = json.loads(self.texts["description"])
        self.layers: dict[str, dict[str, Any]] = {layer["title"]: layer for layer in self.about["layers"]}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._id = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self._id = ""

    def handle_data(self, data: str) -> None:
        self.texts[self._id] = self.texts.get(self._id, "") + data

    def voxels(self, title: str) -> np.ndarray:
        layer = self.layers[title]
        data = base64.b64decode(self.texts[f"volume{list(self.layers).index(title)}"])
        stored = EncodedVolume(layer["low"], layer["step"], layer["axis"], layer["exact"], data)
        return decode(stored, self.about["shape"])


def volume(seed: int, scale: float = 100.0) -> torch.Tensor:
    return torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(seed)) * scale


def layers() -> tuple[Layer, ...]:
    return (
        Layer("classical estimate", "input", volume(0)),
        Layer("reconstruction", "reconstruction", volume(1)),
        Layer("truth", "truth", volume(2)),
        Layer("spread", "spread", volume(3, 5.0)),
    )


def case(**changes: Any) -> CaseLayers:
    geometry = geometry_of(SHAPE, np.diag([1.0, 2.0, 3.0, 1.0]))
    return CaseLayers(**{"name": "case-1", "layers": layers(), "geometry": geometry, "unit": "arbitrary"} | changes)


def test_a_page_needs_nothing_else() -> None:
    html = page_of(case())
    page = Page(html)
    assert "://" not in html
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import)\s*\(", html)
    assert {tag for tag, _ in page.tags} & {"link", "iframe", "object", "img", "embed"} == set()
    assert not [a for _, a in page.tags if "src" in a or "href" in a]
    (policy,) = (a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"


def test_voxels_are_those_of_the_volumes() -> None:
    page = Page(page_of(case()))
    for layer in layers():
        step = page.layers[layer.title]["step"]
        np.testing.assert_allclose(page.voxels(layer.title), layer.volume[0], rtol=0, atol=0.500001 * step)
        assert step == pytest.approx(float(layer.volume.max() - layer.volume.min()) / 65535)
    assert page.about["spacing"] == [1.0, 2.0, 3.0]
    assert page.about["affine"] == np.diag([1.0, 2.0, 3.0, 1.0]).tolist()


def test_errors_are_differences_from_the_truth() -> None:
    about = Page(page_of(case())).about
    found = {layer["title"]: layer["of"] for layer in about["layers"] if layer["kind"] == "error"}
    assert found == {"error of classical estimate": 0, "error of reconstruction": 1}
    assert about["truth"] == 2
    largest = float(np.percentile((volume(1) - volume(2)).abs().numpy(), 99.5))
    assert about["windows"]["error"] == pytest.approx([-largest, largest])
    truth = volume(2).numpy()
    assert about["windows"]["intensity"] == pytest.approx([np.percentile(truth, q) for q in (0.5, 99.8)])
    without = Page(page_of(case(layers=layers()[:2]))).about
    assert [layer["kind"] for layer in without["layers"]] == ["input", "reconstruction"]
    assert set(without["windows"]) == {"intensity"}


def test_words_of_others_are_only_text() -> None:
    name = '</script><b onclick="1">&'
    odd = (Layer("</script><i>", "reconstruction", volume(0)),)
    page = Page(page_of(case(name=name, layers=odd)))
    assert page.texts["title"] == page.texts["h1"] == name
    assert list(page.layers) == ["</script><i>"]
    assert not [tag for tag, _ in page.tags if tag in ("b", "i")]


def test_ct_is_first_seen_in_its_soft_tissue() -> None:
    about = Page(page_of(case(unit="HU"))).about
    assert (about["unit"], about["windows"]["intensity"]) == ("HU", [-160.0, 240.0])
    assert Page(page_of(case())).about["unit"] == ""


def turned(degrees: float) -> np.ndarray:
    a = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    return affine


@pytest.mark.parametrize(
    ("affine", "expected"),
    [
        (np.eye(4), [("L", "R"), ("P", "A"), ("I", "S")]),
        (np.diag([-2.0, -2.0, 3.0, 1.0]), [("R", "L"), ("A", "P"), ("I", "S")]),
        (turned(10), [("L", "R"), ("P", "A"), ("I", "S")]),
        (turned(30), [("LP", "RA"), ("PR", "AL"), ("I", "S")]),
        (turned(-30), [("LA", "RP"), ("PL", "AR"), ("I", "S")]),
        (turned(90), [("P", "A"), ("R", "L"), ("I", "S")]),
    ],
)
def test_ends_of_axes(affine: np.ndarray, expected: list[tuple[str, str]]) -> None:
    assert [axis_ends(geometry_of(SHAPE, affine), axis) for axis in range(3)] == expected


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, 1)])
def test_a_flipped_file_shows_the_same_patient(tmp_path: Path, flips: tuple[int, int, int]) -> None:
    """A bright voxel at the patient's left, front and top is found there, whatever the order in the file."""
    array = np.zeros(SHAPE, np.float32)
    array[0 if flips[0] > 0 else -1, -1 if flips[1] > 0 else 0, -1 if flips[2] > 0 else 0] = 7
    affine = turned(20) @ np.diag([*flips, 1.0])
    nib.Nifti1Image(array, affine).to_filename(tmp_path / "a_recon.nii.gz")
    page = Page(page_of(gather(tmp_path / "a_recon.nii.gz")))
    assert page.voxels("reconstruction")[0, -1, -1] == 7
    assert [tuple(ends) for ends in page.about["ends"]] == [("LP", "RA"), ("PR", "AL"), ("I", "S")]
    stored = affine @ [*(int(i[0]) for i in np.nonzero(array)), 1]
    shown = np.array(page.about["affine"]) @ [0, SHAPE[1] - 1, SHAPE[2] - 1, 1]
    np.testing.assert_allclose(shown, stored, atol=1e-5)


def test_without_an_orientation_there_are_no_letters() -> None:
    assert Page(page_of(case(geometry=VolumeGeometry(SHAPE)))).about["ends"] is None


def test_volumes_of_another_case_are_refused() -> None:
    for other in (torch.zeros(1, 2, 3, 4), torch.full((1, *SHAPE), torch.nan)):
        with raises(InputError, where="truth", expected=..., got=...):
            page_of(case(layers=(*layers()[:2], Layer("truth", "truth", other))))


def test_a_run_goes_on_without_a_page_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, geometry = tmp_path / "a_view.html", case().geometry
    assert write_run_page(path, "a", {"recon": volume(1), "truth": None}, lambda: volume(0), geometry, "HU") == path
    assert list(Page(path.read_text()).layers) == ["classical estimate", "reconstruction"]
    monkeypatch.setattr("monai_diffrecon.viewer.run_page.LARGEST", 6 * 5 * 4 - 1)
    path.unlink()
    assert write_run_page(path, "a", {"recon": volume(1)}, _never, geometry, "HU") is None
    monkeypatch.setattr("monai_diffrecon.viewer.run_page.LARGEST", 6 * 5 * 4)
    assert write_run_page(path, "a", {"recon": torch.zeros(1, 2, 2, 2)}, lambda: None, geometry, "HU") is None
    assert "case a: no page is written" in caplog.text
    assert not path.exists()


def _never() -> None:
    raise AssertionError("computed for a page that is not written")


def result(spread: bool = True) -> ReconstructionResult:
    found = PosteriorSpread(2, volume(3), volume(4), volume(5)) if spread else None
    report: Any = SimpleNamespace(unit="HU")
    return ReconstructionResult(volume(1), case().geometry, report, found)


def test_a_result_in_a_notebook_is_a_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    monkeypatch.setattr("monai_diffrecon.viewer.notebook.find_spec", lambda name: None)
    shown = result().view(volume(2)[0].numpy())
    assert isinstance(shown, NotebookPage)
    assert list(Page(shown.html).layers) == ["reconstruction", "truth", "spread", "error of reconstruction"]
    frame = Page(f'<p id="description">{{"layers": []}}</p>{shown._repr_html_()}').tags[-1]
    assert (frame[0], frame[1]["srcdoc"]) == ("iframe", shown.html)
    shown.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == shown.html
    with raises(InputError, where="truth", expected=..., got=(1, 2, 3, 4)):
        result().view(np.zeros((2, 3, 4)))


def test_a_result_in_a_notebook_is_a_widget_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Widget:
        """Stands in for ``ipyniivue.NiiVue``."""

        def load_volumes(self, volumes: list[dict[str, Any]]) -> None:
            self.volumes = volumes

    module: Any = ModuleType("ipyniivue")
    module.NiiVue = Widget
    monkeypatch.setitem(sys.modules, "ipyniivue", module)
    monkeypatch.setattr("monai_diffrecon.viewer.notebook.find_spec", lambda name: name)
    widget = result().view(volume(2))
    assert [v["name"] for v in widget.volumes] == ["reconstruction.nii", "truth.nii", "spread.nii"]
    assert [v["opacity"] for v in widget.volumes] == [1.0, 0.0, 0.0]
    (tmp_path / "again.nii").write_bytes(widget.volumes[1]["data"])
    read, geometry = read_volume(tmp_path / "again.nii")
    assert torch.equal(read, volume(2))
    assert geometry.spacing == (1.0, 2.0, 3.0)
