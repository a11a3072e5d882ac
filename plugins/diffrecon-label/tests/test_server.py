# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A MONAI Label server in a process of its own, asked over HTTP; skipped where MONAI Label is not installed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from diffrecon_slicer_lib.client import Server, ServerError

import monai_diffrecon
from diffrecon_label.__main__ import copy_app

pytestmark = [
    pytest.mark.skipif(find_spec("monailabel") is None, reason="monailabel is not installed"),
    pytest.mark.timeout(1200),
    pytest.mark.slow,
]
#: Choices of a run that takes little time.
QUICK = {"steps": 2}


@pytest.fixture(scope="module")
def folder(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the server, with a series that lacks a slice beside what is whole."""
    folder = tmp_path_factory.mktemp("server") / "studies"
    shutil.copytree(studies, folder)
    shutil.copytree(studies / "1.2.3", folder / "gap")
    sorted((folder / "gap").iterdir())[1].unlink()
    (folder.parent / "1.2.3").mkdir()  # in the working directory of the server, which is not asked for ids
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, bundles: Path) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    app = copy_app(folder.parent / "app")
    command = [sys.executable, "-W", "ignore", "-m", "monailabel.main", "start_server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--app", str(app), "--uvicorn_app", "diffrecon_label.server:app"]
    command += ["--studies", str(folder), "--conf", "bundles", str(bundles), "--conf", "models", "brain_mr"]
    with (folder.parent / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder.parent)
    try:
        server = Server(f"http://127.0.0.1:{port}")
        for _ in range(2000):
            assert process.poll() is None, (folder.parent / "log").read_text()[-3000:]
            try:
                server.models()
                break
            except ServerError:
                time.sleep(0.5)
        yield server
    finally:
        process.terminate()
        process.wait()


def test_a_server_without_bundles_ends_in_one_line(tmp_path: Path) -> None:
    conf = {"MONAI_LABEL_APP_CONF": json.dumps({"bundles": str(tmp_path)})}
    command = [sys.executable, "-W", "ignore", "-c", "import diffrecon_label.server"]
    ended = subprocess.run(command, env=os.environ | conf, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: --conf bundles: no bundles")
    assert ended.stderr.count("\n") == 1


def test_the_bundle_is_a_model_with_its_choices(server: Server) -> None:
    (model,) = server.models()
    assert model.name == "brain_mr"
    assert {"task", "method", "steps", "samples"} == set(model.choices)
    assert "research only" in model.description
    assert server.images() == ["1.2.3", "gap", "scan"]


@pytest.mark.parametrize("scan", ["scan", "1.2.3", "sent"])
def test_the_volume_is_the_reconstruction_where_it_lies(
    server: Server, folder: Path, bundles: Path, tmp_path: Path, scan: str
) -> None:
    path = folder / ("1.2.3" if scan == "1.2.3" else "scan.nii.gz")
    done = nib.load(server.reconstruct("brain_mr", QUICK, path if scan == "sent" else scan, tmp_path / "v.nii.gz"))
    expected = monai_diffrecon.load(bundles / "brain_mr", overrides={"sampler#steps": 2}).reconstruct(path)
    assert done.get_data_dtype() == np.float32
    assert np.array_equal(np.asarray(done.dataobj), expected.volume[0].numpy())
    assert np.abs(done.affine - np.asarray(expected.geometry.affine)).max() < 1e-5
    assert done.shape != nib.load(folder / "scan.nii.gz").shape


def test_the_panel_chooses_the_method(server: Server, folder: Path, bundles: Path, tmp_path: Path) -> None:
    done = nib.load(server.reconstruct("brain_mr", {"method": "cubic"}, "scan", tmp_path / "v.nii.gz"))
    expected = monai_diffrecon.load(bundles / "brain_mr", method="cubic").reconstruct(folder / "scan.nii.gz")
    assert np.array_equal(np.asarray(done.dataobj), expected.volume[0].numpy())


def test_the_steps_are_in_the_log(server: Server, folder: Path, tmp_path: Path) -> None:
    server.reconstruct("brain_mr", {"steps": 1, "method": "default"}, "scan", tmp_path / "v.nii.gz")
    assert "reconstruction: step 1 of 1" in (folder.parent / "log").read_text()


@pytest.mark.parametrize(
    ("scan", "choices", "said"),
    [
        ("gap", {}, "slice"),
        ("nothing", {}, "not in the datastore"),
        ("", {}, "Neither Image"),
        ("scan", {"method": "no_such"}, "no_such"),
        ("scan", {"steps": -1}, "steps"),
        ("scan", {"save_label": True}, "save_label"),
    ],
)
def test_what_is_refused_is_one_line(server: Server, tmp_path: Path, scan: str, choices: dict, said: str) -> None:
    with pytest.raises(ServerError, match=said) as caught:
        server.reconstruct("brain_mr", {**QUICK, **choices}, scan, tmp_path / "v.nii.gz")
    assert "\n" not in str(caught.value)


def test_the_modules_for_segmentations_get_no_volume_in_8_bits(server: Server) -> None:
    """What MONAI Label's module for Slicer and its client ask for."""
    body = json.dumps({"result_dtype": "uint8", "result_extension": ".nrrd"})
    parts = f'--b\r\nContent-Disposition: form-data; name="params"\r\n\r\n{body}\r\n--b--\r\n'.encode()
    with pytest.raises(ServerError, match="not a label map"):
        server._ask("/infer/brain_mr?image=scan", 600.0, parts, "multipart/form-data; boundary=b")


def test_a_client_that_names_no_format_gets_a_float32_volume(server: Server, tmp_path: Path) -> None:
    body = json.dumps({"method": "cubic", "result_dtype": None, "result_extension": None})
    parts = f'--b\r\nContent-Disposition: form-data; name="params"\r\n\r\n{body}\r\n--b--\r\n'.encode()
    path = "/infer/brain_mr?output=image&image=1.2.3"
    (tmp_path / "v.nii.gz").write_bytes(server._ask(path, 600.0, parts, "multipart/form-data; boundary=b"))
    assert nib.load(tmp_path / "v.nii.gz").get_data_dtype() == np.float32


def test_a_file_that_is_no_scan_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.nii.gz").write_bytes(os.urandom(1000))
    with pytest.raises(ServerError):
        server.reconstruct("brain_mr", QUICK, tmp_path / "x.nii.gz", tmp_path / "v.nii.gz")
