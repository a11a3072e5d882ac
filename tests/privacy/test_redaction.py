# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_diffrecon.privacy.redaction import redact


class _Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    "text",
    [
        "/home/jdoe/Doe_John/scan.nii.gz",
        "/home/jdoe/Doe John/scan.nii.gz",
        "/jdoe",
        "~/jdoe/scan.nii",
        "~jdoe/scan.nii",
        r"C:\Users\jdoe\scan.nii",
        "D:/jdoe/scan.nii",
        r"\\jdoe-server\share\scan.nii",
        "file:///home/jdoe/scan.nii",
        "sqlite:////home/jdoe/mlflow.db",
        "https://jdoe@host.example/scan",
    ],
)
def test_paths_and_urls_are_taken_out(text: str) -> None:
    assert redact(text) == "<path>"
    assert redact(f"cannot read {text}: broken") == "cannot read <path>: broken"
    assert redact(f"['{text}', 3]") == "['<path>', 3]"
    assert redact({text: [text, {"a": text}]}) == {"<path>": ["<path>", {"a": "<path>"}]}
    assert "jdoe" not in redact(text, "key")


@pytest.mark.parametrize(
    "text",
    ["Doe_John.nii.gz", "Doe John/geometry.xml", "../Doe/scan.H5", r"Doe\k-space.mrd", "Doe.nii", "Doe.1970.dcm"],
)
def test_names_of_data_files_are_taken_out(text: str) -> None:
    assert redact(text) == "<path>"
    assert redact({"operator": {"geometry_file": text}, "l": [text]}) == {
        "operator": {"geometry_file": "<path>"},
        "l": ["<path>"],
    }
    assert redact(Path(text)) == "<path>"
    assert "Doe" not in redact(text, "key")


@pytest.mark.parametrize(
    "text",
    [
        ".h5",
        "case-1_recon.nii.gz: the output was changed",
        "mm/voxel",
        "1 / 2",
        "a/b/c.json",
        "sampler#steps",
        "@network_def",
        "12:30",
        "ratio 3:4",
        "",
        "3e-4",
        "a.b:c",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert redact(text) == text


def test_paths_can_be_recognized_by_who_holds_the_key() -> None:
    one, same = redact("/a/scan.nii", "key"), redact(Path("/b/scan.nii"), "key")
    assert one == same == redact(r"C:\scan.nii", "key") != redact("/a/other.nii", "key")
    assert one != redact("/a/scan.nii", "other key")


def test_values_become_json() -> None:
    value = {
        "none": None,
        "flag": True,
        "nan": math.nan,
        "tuple": (1, 2.5),
        "set": {3, 1},
        "relative": Path("a") / "b",
        "enum": _Colour.RED,
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "scalar": torch.tensor(2),
        "numpy": np.float32(0.5),
        "class": torch.nn.Linear,
        "object": torch.nn.ReLU(),
        3: "number as key",
    }
    clean = redact(value)
    assert clean.pop("class") == "torch.nn.modules.linear.Linear"
    assert clean.pop("object") == "torch.nn.modules.activation.ReLU"
    assert clean == {
        "none": None,
        "flag": True,
        "nan": None,
        "tuple": [1, 2.5],
        "set": [1, 3],
        "relative": "a/b",
        "enum": "red",
        "dtype": "float32",
        "device": "cpu",
        "scalar": 2,
        "numpy": 0.5,
        "3": "number as key",
    }
    json.dumps(clean, allow_nan=False)


def test_tensors_are_named_by_their_hash() -> None:
    x = torch.arange(3.0)
    assert redact(x) == redact(x.numpy()) == redact(x.clone()) != redact(x + 1)
    assert redact(x).startswith("sha256:")
