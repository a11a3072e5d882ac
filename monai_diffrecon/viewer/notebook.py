# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Volumes in a notebook: in the widget of ipyniivue if it is installed, else in a page of their own."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.io.nifti import write_volume
from monai_diffrecon.viewer.layers import CaseLayers
from monai_diffrecon.viewer.page import page_of

_HEIGHT = 900  # of the page in a notebook, in pixels


@dataclass(frozen=True)
class NotebookPage:
    """A page that a notebook shows in a frame.

    Attributes:
        html: the page.
    """

    html: str

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{escape(self.html)}" width="100%" height="{_HEIGHT}" style="border: 0"></iframe>'

    def save(self, path: str | Path) -> None:
        """Write the page to an HTML file, atomically.

        Raises:
            InputError: the folder cannot be written.
        """
        atomic_write(path, lambda temporary: temporary.write_text(self.html, encoding="utf-8"))


def show(case: CaseLayers) -> Any:
    """Return what a notebook shows: a ``NiiVue`` widget if ipyniivue is installed, else a :class:`NotebookPage`.

    Args:
        case: the volumes. The widget shows the reconstruction; the opacity of the others, in its ``volumes``, is 0.
    """
    if find_spec("ipyniivue") is None:
        return NotebookPage(page_of(case))
    from ipyniivue import NiiVue

    layers = sorted(case.layers, key=lambda layer: layer.kind != "reconstruction")
    widget = NiiVue()
    with tempfile.TemporaryDirectory() as folder:
        file, volumes = Path(folder) / "volume.nii", []
        for number, layer in enumerate(layers):
            write_volume(file, layer.volume, case.geometry)
            name = f"{layer.title}.nii"
            volumes.append({"data": file.read_bytes(), "name": name, "opacity": 0.0 if number else 1.0})
    widget.load_volumes(volumes)
    return widget
