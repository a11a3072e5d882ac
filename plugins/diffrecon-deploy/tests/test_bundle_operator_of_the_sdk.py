# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The SDK's own operator for bundles runs a bundle of this project as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("holoscan")

from holoscan.conditions import CountCondition
from monai.deploy.core import AppContext, Application, Image, IOType, Operator
from monai.deploy.operators import (
    DICOMDataLoaderOperator,
    DICOMSeriesSelectorOperator,
    DICOMSeriesToVolumeOperator,
    IOMapping,
    MonaiBundleInferenceOperator,
)

import monai_diffrecon as dr

BUNDLE = Path(__file__).parents[3] / "bundles" / "brain_mr"


class Sink(Operator):
    received: Any = None

    def setup(self, spec: Any) -> None:
        spec.input("pred")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        Sink.received = np.asarray(op_input.receive("pred"))


class Images(Application):
    """Series as images in memory, as the SDK's examples connect the operators."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__()

    def compose(self) -> None:
        loader = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=self.folder, name="loader")
        selector = DICOMSeriesSelectorOperator(self, name="selector")
        images = DICOMSeriesToVolumeOperator(self, name="images")
        bundle = MonaiBundleInferenceOperator(
            self,
            # A model of the context would be taken for a network that is loaded, which a folder is not.
            app_context=AppContext({"model": str(self.folder / "no model")}),
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", np.ndarray, IOType.IN_MEMORY)],
            bundle_path=BUNDLE,
            name="bundle",
        )
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, images, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(images, bundle, {("image", "image")})
        self.add_flow(bundle, Sink(self, name="sink"), {("pred", "pred")})


def test_it_sends_the_voxels_in_full_precision(scan: Path) -> None:
    Images(scan.parent).run()
    expected = dr.load(BUNDLE).reconstruct(scan).volume.numpy()
    assert Sink.received.dtype == np.float32
    assert expected.shape == (1, 12, 10, 20)
    np.testing.assert_array_equal(Sink.received, expected)
