# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The module of Slicer, with stand-ins for the functions of Slicer and Qt that it uses."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from diffrecon_slicer_lib.client import Model, ServerError

MODEL = Model("brain_mr", "For research only", {"method": ["default", "cubic"], "steps": 4})


class Combo:
    """A list of entries, one of them chosen."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.index = 0

    def addItems(self, entries: list[str]) -> None:
        self.entries += entries

    def clear(self) -> None:
        self.entries, self.index = [], 0

    def connect(self, *args: Any) -> None:
        pass

    @property
    def currentText(self) -> str:
        return self.entries[self.index] if self.entries else ""


class Form:
    """Rows of labels and fields."""

    def __init__(self, *args: Any) -> None:
        self.rows: list[tuple[str, Any]] = []

    def addRow(self, label: str, widget: Any) -> None:
        self.rows.append((label, widget))

    def removeRow(self, index: int) -> None:
        del self.rows[index]

    def rowCount(self) -> int:
        return len(self.rows)


class FakeServer:
    """Answers with a file, or refuses."""

    asked: tuple[Any, ...]
    refusal = ""

    def __init__(self, url: str) -> None:
        if not url.startswith("http"):
            raise ServerError("no such server")

    def models(self) -> list[Model]:
        return [MODEL]

    def images(self) -> list[str]:
        return ["1.2.3"]

    def reconstruct(self, model: str, choices: dict[str, Any], scan: Any, to: Path) -> Path:
        FakeServer.asked = (model, choices, scan)
        if FakeServer.refusal:
            raise ServerError(FakeServer.refusal)
        to.write_bytes(b"volume")
        return to


@pytest.fixture
def slicer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MagicMock:
    slicer, base = MagicMock(), ModuleType("slicer.ScriptedLoadableModule")
    slicer.app.temporaryPath = str(tmp_path)
    slicer.util.exportNode.side_effect = lambda node, path: Path(path).write_bytes(b"scan")
    base.ScriptedLoadableModule = type("Module", (), {"__init__": lambda self, parent: None})  # type: ignore[attr-defined]
    base.ScriptedLoadableModuleWidget = type(  # type: ignore[attr-defined]
        "Widget", (), {"setup": lambda self: setattr(self, "layout", MagicMock())}
    )
    qt = MagicMock()
    qt.QComboBox, qt.QFormLayout = Combo, Form
    qt.QSpinBox = lambda: SimpleNamespace(maximum=99, value=0)
    qt.QLineEdit = lambda text: SimpleNamespace(text=text)
    for name, module in (("slicer", slicer), ("slicer.ScriptedLoadableModule", base), ("qt", qt), ("ctk", MagicMock())):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "DiffReconSlicer", raising=False)
    monkeypatch.setattr(FakeServer, "refusal", "")
    return slicer


@pytest.fixture
def panel(slicer: MagicMock, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = importlib.import_module("DiffReconSlicer")
    monkeypatch.setattr(module, "Server", FakeServer)
    panel = module.DiffReconSlicerWidget()
    panel.setup()
    panel.on_connect()
    panel.volume.currentNode.return_value = _volume()
    return panel


def _volume(transform: Any = None) -> MagicMock:
    node = MagicMock()
    node.GetName.return_value = "T1"
    node.GetParentTransformNode.return_value = transform
    node.GetDisplayNode().GetWindow.return_value, node.GetDisplayNode().GetLevel.return_value = 800.0, 400.0
    return node


def _wait(panel: Any) -> None:
    panel.job.join(10.0)
    panel.on_timer()


def test_models_scans_and_choices_are_shown(panel: Any) -> None:
    assert panel.model.entries == ["brain_mr"]
    assert panel.scan.entries[1:] == ["1.2.3"]
    assert [label for label, _ in panel.fields.rows] == ["method", "steps"]
    assert panel.values["method"].entries == ["default", "cubic"]
    assert panel.values["steps"].value == 4
    assert panel.status.text == MODEL.description


def test_a_volume_is_sent_and_the_result_is_a_scalar_volume_with_its_window(panel: Any, slicer: MagicMock) -> None:
    panel.values["method"].index = 1
    panel.on_reconstruct()
    assert panel.button.enabled is False
    _wait(panel)
    model, choices, scan = FakeServer.asked
    assert (model, choices) == ("brain_mr", {"method": "cubic", "steps": 4})
    assert isinstance(scan, Path)
    (path, options), _ = slicer.util.loadVolume.call_args
    assert path.endswith(".nii.gz")
    assert (options["labelmap"], options["name"]) == (False, "T1 brain_mr")
    display = slicer.util.loadVolume.return_value.GetDisplayNode()
    display.SetAutoWindowLevel.assert_called_with(False)
    display.SetWindowLevel.assert_called_with(800.0, 400.0)
    assert panel.button.enabled is True
    assert not scan.parent.exists()  # nothing of the patient stays
    # Slicer saves neither volume as a file that is gone.
    slicer.util.saveNode.assert_not_called()
    slicer.mrmlScene.RemoveNode.assert_called_once_with(slicer.util.loadVolume.return_value.GetStorageNode())


def test_a_series_of_the_server_needs_no_volume(panel: Any, slicer: MagicMock) -> None:
    panel.scan.index = 1
    panel.on_reconstruct()
    _wait(panel)
    assert FakeServer.asked[2] == "1.2.3"
    slicer.util.exportNode.assert_not_called()
    slicer.util.loadVolume.return_value.GetDisplayNode().SetWindowLevel.assert_not_called()


@pytest.mark.parametrize("node", [None, _volume(transform=object())], ids=["none", "transformed"])
def test_no_volume_and_a_transformed_one_are_refused(panel: Any, slicer: MagicMock, node: Any) -> None:
    panel.volume.currentNode.return_value = node
    panel.on_reconstruct()
    assert panel.job is None
    slicer.util.errorDisplay.assert_called_once()
    slicer.util.exportNode.assert_not_called()


def test_what_the_server_refuses_is_shown(panel: Any, slicer: MagicMock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeServer, "refusal", "missing slices")
    panel.on_reconstruct()
    _wait(panel)
    slicer.util.errorDisplay.assert_called_once_with("missing slices")
    slicer.util.loadVolume.assert_not_called()
    assert panel.button.enabled is True


def test_no_server_is_shown(panel: Any, slicer: MagicMock) -> None:
    panel.url.text = "nowhere"
    panel.on_connect()
    slicer.util.errorDisplay.assert_called_once_with("no such server")
