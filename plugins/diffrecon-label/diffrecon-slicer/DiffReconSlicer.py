# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Module of 3D Slicer: reconstructs a volume by a MONAI Label server, and loads the result as a scalar volume."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer
from diffrecon_slicer_lib.client import Job, Model, Server, ServerError
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleWidget

RESEARCH_USE = "For research only, not for diagnosis or treatment."
_SELECTED = "the selected volume"


class DiffReconSlicer(ScriptedLoadableModule):
    """What Slicer shows of the module."""

    def __init__(self, parent: Any) -> None:
        super().__init__(parent)
        parent.title, parent.categories = "DiffRecon", ["Filtering"]
        parent.contributors = ["The monai_diffrecon authors"]
        parent.helpText = f"Reconstructs volumes of thin slices from thick ones by a MONAI Label server. {RESEARCH_USE}"


class DiffReconSlicerWidget(ScriptedLoadableModuleWidget):
    """The panel: server, model, scan, choices and a button."""

    def setup(self) -> None:
        """Build the panel."""
        super().setup()
        self.models: dict[str, Model] = {}
        self.job: Job | None = None
        self.source: Any = None
        box = ctk.ctkCollapsibleButton()
        box.text = "Reconstruction"
        self.layout.addWidget(box)
        self.form = qt.QFormLayout(box)
        self.url = qt.QLineEdit("http://127.0.0.1:8000")
        self.fetch = qt.QPushButton("Connect")
        self.model, self.scan = qt.QComboBox(), qt.QComboBox()
        self.volume = slicer.qMRMLNodeComboBox()
        self.volume.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.volume.addEnabled = self.volume.removeEnabled = False
        self.volume.showChildNodeTypes = False  # no label maps, no colours
        self.volume.setMRMLScene(slicer.mrmlScene)
        self.choices = qt.QWidget()
        self.fields = qt.QFormLayout(self.choices)
        self.values: dict[str, Any] = {}
        self.button = qt.QPushButton("Reconstruct")
        self.status = qt.QLabel(RESEARCH_USE)
        self.status.wordWrap = True
        rows = [("Server", self.url), ("", self.fetch), ("Model", self.model), ("Scan", self.scan)]
        for label, widget in [*rows, ("Volume", self.volume), ("", self.choices), ("", self.button), ("", self.status)]:
            self.form.addRow(label, widget)
        self.fetch.connect("clicked(bool)", self.on_connect)
        self.model.connect("currentIndexChanged(int)", self.on_model)
        self.button.connect("clicked(bool)", self.on_reconstruct)
        self.timer = qt.QTimer()
        self.timer.connect("timeout()", self.on_timer)
        self.layout.addStretch(1)

    def cleanup(self) -> None:
        """Stop looking at the work."""
        self.timer.stop()

    def on_connect(self, *_: Any) -> None:
        """List models and scans of the server."""
        try:
            server = Server(self.url.text)
            self.models = {model.name: model for model in server.models()}
            images = server.images()
        except ServerError as error:
            slicer.util.errorDisplay(str(error))
            return
        self.model.clear()
        self.scan.clear()
        self.scan.addItems([_SELECTED, *images])
        self.model.addItems(list(self.models))
        self.on_model()

    def on_model(self, *_: Any) -> None:
        """Show the choices of the model."""
        while self.fields.rowCount():
            self.fields.removeRow(0)
        self.values = {}
        model = self.models.get(self.model.currentText)
        for name, value in (model.choices if model else {}).items():
            if isinstance(value, list):
                field = qt.QComboBox()
                field.addItems([str(entry) for entry in value])
            else:
                field = qt.QSpinBox()
                field.maximum, field.value = 1000, value
            self.values[name] = field
            self.fields.addRow(name, field)
        self.status.text = model.description if model else RESEARCH_USE

    def on_reconstruct(self, *_: Any) -> None:
        """Send the scan, and look for the answer from now on."""
        model, scan, source = self.model.currentText, self.scan.currentText, None
        if scan == _SELECTED:
            source = self.volume.currentNode()
            if source is None:
                slicer.util.errorDisplay("Select a volume.")
                return
            if source.GetParentTransformNode() is not None:
                slicer.util.errorDisplay(
                    "The volume is transformed, as Slicer does with tilted or missing slices. Choose the series of the "
                    "server, or harden the transform."
                )
                return
        self.source = source
        self.folder = Path(tempfile.mkdtemp(prefix="diffrecon_", dir=slicer.app.temporaryPath))
        if source is not None:
            scan = self.folder / "scan.nii.gz"
            slicer.util.exportNode(source, str(scan))  # saveNode would make the temporary file that of the volume
        chosen = {name: f.value if hasattr(f, "value") else f.currentText for name, f in self.values.items()}
        server, to = Server(self.url.text), self.folder / "result.nii.gz"
        self.job = Job(lambda: server.reconstruct(model, chosen, scan, to))
        self.job.start()
        self.name = f"{source.GetName() if source else scan} {model}"
        self.button.enabled = False
        self.status.text = "The server reconstructs; its log shows the steps."
        self.timer.start(200)

    def on_timer(self) -> None:
        """Load the result when it is there. Waiting lets the other thread run, which Slicer's main loop does not."""
        job = self.job
        if job is None or not job.done(0.05):
            return
        self.timer.stop()
        self.button.enabled, self.job = True, None
        self.status.text = RESEARCH_USE
        try:
            if job.error is not None:
                slicer.util.errorDisplay(str(job.error))
            else:
                load_scalar(job.result, self.name, self.source)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


def load_scalar(path: Path, name: str, source: Any) -> Any:
    """Load a result as a scalar volume, show it, and return its node.

    Args:
        path: the file.
        name: name of the node.
        source: the volume it was made of, whose window it gets since it has the same units; None lets Slicer choose.
    """
    node = slicer.util.loadVolume(str(path), {"name": name, "labelmap": False, "singleFile": True})
    # Its file goes: without it, Slicer knows that the volume is still to be saved.
    slicer.mrmlScene.RemoveNode(node.GetStorageNode())
    if source is not None:
        display, of = node.GetDisplayNode(), source.GetDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(of.GetWindow(), of.GetLevel())
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    return node
