# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""An error wrapped by another library is still one line with its own exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from monai_diffrecon.cli import main as cli
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError
from monai_diffrecon.errors.uncaught import chain_of, users_error

from ..raising import raises

PROGRAM = """
from monai_diffrecon.errors import {error}
from monai_diffrecon.errors.uncaught import report_errors_in_one_line

report_errors_in_one_line()
report_errors_in_one_line()
try:
    raise {error}("spoilt", where="image")
except Exception as reason:
    raise RuntimeError("Failed to evaluate 'run'") {link}
"""


def end_of(program: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=200)
    return done.returncode, done.stderr


@pytest.mark.parametrize("link", ["from reason", ""])
@pytest.mark.parametrize(("error", "code"), [("InputError", 2), ("IntegrityError", 4), ("NumericalError", 5)])
def test_the_cause_is_reported(error: str, code: int, link: str) -> None:
    assert end_of(PROGRAM.format(error=error, link=link)) == (code, "error: image: spoilt\n")


def test_a_defect_keeps_its_traceback() -> None:
    code, text = end_of(
        PROGRAM.replace('{error}("spoilt", where="image")', "KeyError(1)").format(error="InputError", link="")
    )
    assert code == 1
    assert "Traceback" in text
    assert "KeyError" in text
    assert "RuntimeError" in text


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(command: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("monai_diffrecon.cli.main._check_launcher", interrupt)
    assert cli.main(["plugins"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = InputError("a"), DiffReconError("b")
    first.__cause__, second.__cause__ = second, first
    assert list(chain_of(first)) == [first, second]


#: The ``_target_``s of ours.
INFERER = "monai_diffrecon.engine.inferer.DiffReconInferer"
LOADER = "monai_diffrecon.engine.transforms.load_measurement.LoadMeasurementd"
CASES = "monai_diffrecon.engine.cases.list_cases.list_cases"

PARSE = """
import json, sys
from monai.bundle import ConfigParser
from monai_diffrecon.errors.uncaught import report_errors_in_one_line

report_errors_in_one_line()
ConfigParser(json.loads({config!r})).get_parsed_content({name!r})
"""


def error_of(config: dict[str, Any], name: str) -> BaseException:
    with pytest.raises(Exception, match="Failed to instantiate") as caught:
        ConfigParser(config).get_parsed_content(name)
    return caught.value


def test_a_mistyped_option_of_a_component_is_one_line(tmp_path: Path, python_m: Callable[..., Any]) -> None:
    config = {"inferer": {"_target_": INFERER, "score": None, "operator": "unconditional", "sw_batchsize": 4}}
    (tmp_path / "parse.py").write_text(PARSE.format(config=json.dumps(config), name="inferer"))
    done = python_m("parse", cwd=tmp_path)
    code, text = done.returncode, done.stderr
    assert code == 2
    line = text.splitlines()[-1]
    assert "Traceback" not in text
    assert line.startswith("error: inferer#sw_batchsize: DiffReconInferer has no such option; expected score,")
    assert line.endswith("Fix: did you mean 'sw_batch_size'?")


@pytest.mark.parametrize(
    ("config", "where", "mend"),
    [
        ({"datalist": {"_target_": CASES, "imag": "scan.nii"}}, "datalist#imag", "did you mean 'image'?"),
        ({"datalist": {"_target_": CASES, "zzzz": 1}}, "datalist#zzzz", "leave it out"),
        ({"datalist": {"_target_": CASES, "a": "@b", "b": 1}, "b": 2}, "datalist#a", ...),
        ({"inferer": {"_target_": INFERER, "operator": "unconditional"}}, "inferer", None),
        (
            {"pre": {"_target_": "Compose", "transforms": [{"_target_": LOADER, "keys": "image", "raeder": "auto"}]}},
            "pre#transforms#0#raeder",
            "did you mean 'reader'?",
        ),
    ],
)
def test_the_line_says_where_and_how_to_mend_it(config: dict[str, Any], where: str, mend: Any) -> None:
    with raises(ConfigError, where=where, mend=mend):
        raise users_error(error_of(config, next(iter(config))))


def test_a_mistyped_option_of_another_library_is_not_ours_to_tell() -> None:
    assert users_error(error_of({"net": {"_target_": "torch.nn.Linear", "in_feature": 3}}, "net")) is None


def test_an_error_of_types_within_a_component_stays_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(**_: object) -> None:
        raise TypeError("got an unexpected keyword argument 'x'")

    monkeypatch.setattr("monai_diffrecon.engine.cases.list_cases.case_names", defect)
    monkeypatch.setenv("DIFFRECON_CASE_KEY", "key")
    error = error_of({"datalist": {"_target_": CASES, "image": __file__}}, "datalist")
    assert isinstance(list(chain_of(error))[-1], TypeError)
    assert users_error(error) is None
