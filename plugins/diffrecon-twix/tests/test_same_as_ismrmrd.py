# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A scan has the same image and affine as Siemens raw data and as the ISMRMRD file that siemens_to_ismrmrd makes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from diffrecon_mri.ismrmrd.reader import SIEMENS, ISMRMRDReader
from diffrecon_twix.simulate import write_simulated_twix
from diffrecon_twix.twix_reader import TwixReader

from .test_twix_reader import PLANES, acquire, density, image, protocol, world

SCRIPT = Path(__file__).parents[3] / "scripts" / "formats" / "twix_as_ismrmrd.py"


@pytest.fixture(scope="module")
def converter() -> ModuleType:
    spec = importlib.util.spec_from_file_location("twix_as_ismrmrd", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("plane", "partitions"), [*((plane, 0) for plane in PLANES), ("sagittal", 18)])
def test_the_same_image_and_affine(tmp_path: Path, converter: ModuleType, plane: str, partitions: int) -> None:
    shape = {"slices": 1 if partitions else 3, "partitions": partitions}
    write_simulated_twix(tmp_path / "scan.dat", acquire(PLANES[plane], **shape), protocol(**shape))
    converter.convert(tmp_path / "scan.dat", tmp_path / "scan.h5")
    ours, theirs = TwixReader().read(tmp_path / "scan.dat"), ISMRMRDReader().read(tmp_path / "scan.h5")
    np.testing.assert_allclose(np.array(theirs.geometry.affine), np.array(ours.geometry.affine), rtol=0, atol=1e-4)
    np.testing.assert_allclose(image(theirs), image(ours), rtol=0, atol=1e-6)
    np.testing.assert_allclose(image(theirs), density(world(theirs)), rtol=0, atol=2e-4)
    assert theirs.notices == (SIEMENS,)


def test_directions_that_were_turned_already(tmp_path: Path, converter: ModuleType) -> None:
    write_simulated_twix(tmp_path / "scan.dat", acquire(PLANES["coronal"]), protocol())
    converter.convert(tmp_path / "scan.dat", tmp_path / "scan.h5")
    said = ISMRMRDReader(transform="inverse").read(tmp_path / "scan.h5")
    # By the inverse transform the object lies turned about the slices' normal.
    assert np.abs(image(said) - density(world(said))).max() > 0.3
    assert said.notices == ()
