# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Servers on loopback, with a reconstruction that costs nothing or a real one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffrecon_mri.simulate import Receiver, write_ismrmrd
from diffrecon_mri.stream.choices import Offer
from diffrecon_mri.stream.images import StreamImage, images_of
from diffrecon_mri.stream.scan import Scan
from diffrecon_mri.stream.server import StreamServer
from diffrecon_mri.stream.wire import Limits
from diffrecon_mri.synthetic_maps import birdcage_maps
from monai_diffrecon.protocols import VolumeGeometry

BUNDLE = Path(__file__).parents[4] / "bundles" / "brain_mr"
SHAPE = (32, 28, 3)
SUBJECT = "Doe^John"
OBLIQUE = np.array([[1.9, 0.2, 0.3, -31.0], [-0.19, 1.48, 0.1, -20.5], [-0.31, -0.12, 3.9, 12.25], [0, 0, 0, 1]])
OBLIQUE[:3, :3] = np.linalg.qr(OBLIQUE[:3, :3])[0] @ np.diag([-2.0, -1.5, 4.0])


@pytest.fixture(scope="session")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2D scan of a subject with a name: four coils, half of the lines, noise scans, oblique slices."""
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    x, y = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE[:2]), indexing="ij")
    disk = ((x / 0.8) ** 2 + (y / 0.85) ** 2 < 1).float() * (0.6 + 0.3 * torch.cos(5 * x + y))
    volume = disk[..., None] * torch.tensor([1.0, 0.8, 0.5])
    lines = torch.arange(SHAPE[0]) % 2 == 0  # phase encoding runs along X
    lines[9:23] = True
    write_ismrmrd(
        path,
        volume.to(torch.complex64),
        birdcage_maps(4, SHAPE),
        affine=OBLIQUE,
        axes="ALS",
        mask=lines,
        acceleration=2.0,
        receiver=Receiver(std=0.01, scans=8, seed=1),
        subject=SUBJECT,
    )
    return path


def unit_images(scan: Scan) -> tuple[list[StreamImage], tuple[str, ...]]:
    """Return an image of ones, and a notice."""
    first = scan.table()["head"][0]
    return images_of(torch.ones(1, 4, 3, 2), VolumeGeometry((4, 3, 2)), None, first, {}), ("a notice",)


def error_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


@pytest.fixture
def serve() -> Iterator[Callable[..., StreamServer]]:
    """Start a server: ``serve(reconstruct, **limits)``."""
    started: list[tuple[StreamServer, threading.Thread]] = []

    def start(reconstruct: Any = unit_images, **limits: Any) -> StreamServer:
        server = StreamServer(reconstruct, Offer(BUNDLE), port=0, limits=Limits(**limits))
        thread = threading.Thread(target=server.serve)
        thread.start()
        started.append((server, thread))
        return server

    yield start
    for server, thread in started:
        server.stop()
        thread.join()
