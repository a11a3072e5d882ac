# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The label of the OpenRecon container names what the server accepts."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

import diffrecon_mri
from diffrecon_mri.stream.__main__ import build_parser
from diffrecon_mri.stream.choices import Offer
from diffrecon_mri.stream.server import is_loopback
from monai_diffrecon.errors import ConfigError

from .conftest import BUNDLE

FOLDER = Path(__file__).parents[2] / "openrecon"
LABEL = json.loads((FOLDER / "OpenReconLabel.json").read_text())


def values(parameter: dict[str, Any]) -> list[Any]:
    """Return values that the scanner's panel lets one choose."""
    if parameter["type"] == "choice":
        assert parameter["default"] in [value["id"] for value in parameter["values"]]
        return [value["id"] for value in parameter["values"]]
    assert parameter["type"] == "int"
    return [parameter["minimum"], parameter["default"], parameter["maximum"]]


def test_every_combination_of_the_panel_is_accepted() -> None:
    offer, names = Offer(BUNDLE), [p["id"] for p in LABEL["parameters"]]
    for chosen in itertools.product(*(values(p) for p in LABEL["parameters"])):
        said = dict(zip(names, chosen, strict=True))
        choices = offer.read(json.dumps({"version": "1.1.0", "parameters": said}))
        assert choices == {k: v for k, v in said.items() if v not in (0, "default", "diffrecon")}


def test_a_panel_that_asks_for_more_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Offer(BUNDLE).read(json.dumps({"parameters": {"sendoriginal": True}}))
    assert caught.value.got == "'sendoriginal'"


def test_the_label_says_research_and_the_version_and_the_port() -> None:
    general, reconstruction = LABEL["general"], LABEL["reconstruction"]
    assert general["version"] == diffrecon_mri.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", general["version"])
    assert reconstruction["content_qualification_type"] == "RESEARCH"
    assert (reconstruction["transfer_protocol"]["protocol"], reconstruction["emitter"]) == ("ISMRMRD", "raw")
    assert reconstruction["port"] == build_parser().get_default("port")
    assert all(re.fullmatch("[A-Za-z0-9]+", p["id"]) for p in LABEL["parameters"])


def test_the_command_of_the_container_is_one_of_the_server() -> None:
    (line,) = re.findall(r"^CMD (\[.*\])$", (FOLDER / "Dockerfile").read_text(), re.M)
    python, option, module, *words = json.loads(line)
    assert (python, option, module) == ("python", "-m", "diffrecon_mri.stream")
    arguments = build_parser().parse_args(words)
    assert arguments.open
    assert not is_loopback(arguments.host)
    assert BUNDLE.name == arguments.bundle
