# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The task of MONAI Label that reconstructs a scan by a bundle."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
from fastapi import HTTPException
from ignite.engine import Events
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.transform.writer import Writer

from monai_diffrecon.bundle.catalogue import BundleCard
from monai_diffrecon.engine.reconstruction_engine import StepEvents
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.uncaught import users_error

logger = logging.getLogger(__name__)

#: What users are told of every model and every result.
RESEARCH_USE = "For research only, not for diagnosis or treatment"
_EXTENSIONS = (".nii.gz", ".nii")


class ReconstructionTask(BundleInferTask):
    """Reconstructs a scan, and writes the volume as float32 on its own grid.

    Args:
        card: the bundle.
        conf: ``--conf`` of the server.

    Raises:
        ConfigError: the bundle has no weights.
    """

    def __init__(self, card: BundleCard, conf: dict[str, str]) -> None:
        # Without a type MONAI Label takes a bundle for a segmentation, and viewers show a label map.
        super().__init__(str(card.root), conf, type=InferType.OTHERS)
        if not self.is_valid():
            raise ConfigError(
                "no weights", where=f"bundle {card.name}", expected=str(card.root / "models" / "model.pt")
            )
        kind = f"Reconstruction of {card.modality} volumes of thin slices, not a segmentation."
        self.description = f"{kind} {card.title}. {RESEARCH_USE}."
        self.dimension = 3  # the network's is 2
        self._config |= {"result_extension": ".nii.gz", "result_dtype": "float32"}

    def __call__(self, request: dict[str, Any], callbacks: Any = None) -> tuple[Any, dict[str, Any]]:
        """Reconstruct.

        Args:
            request: ``image``, a file or folder, and choices of the panel.
            callbacks: those of MONAI Label.

        Raises:
            HTTPException: 404 without an image, 422 if it or a choice is refused; one line.
        """
        image = request.get("image")
        if isinstance(image, str) and not os.path.exists(image):  # an id that is not in the datastore is ""
            raise HTTPException(404, "image: not in the datastore of this server")
        try:
            return super().__call__({**request, **_format(request)}, callbacks)
        except Exception as error:
            said = users_error(error)
            if said is None:
                raise
            logger.error("refused: %s", said)
            raise HTTPException(422, str(said)) from error

    def inferer(self, data: dict[str, Any] | None = None) -> Any:
        """Return the inferer of the bundle, which logs its steps."""
        inferer = super().inferer(data)
        inferer.progress = False
        inferer.handlers = (*inferer.handlers, LoggedSteps())
        return inferer

    def writer(self, data: dict[str, Any], extension: Any = None, dtype: Any = None) -> tuple[Any, dict[str, Any]]:
        """Write the volume by nibabel, and say what it may be used for."""
        data[self.output_json_key] = {"intended_use": RESEARCH_USE}
        written: tuple[Any, dict[str, Any]] = Writer(self.output_label_key, self.output_json_key, nibabel=True)(data)
        return written


class LoggedSteps:
    """Handler that logs the steps of each sample."""

    def attach(self, engine: Any) -> None:
        """Attach to a reconstruction engine."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(StepEvents.STEP_COMPLETED, self._step)

    def _start(self, engine: Any) -> None:
        logger.info("reconstruction: %d steps", len(engine.ladder))

    def _step(self, engine: Any) -> None:
        step = engine.state.recon.step
        logger.info("reconstruction: step %d of %d, sigma %.3f", step, len(engine.ladder), engine.ladder[step - 1])


def _format(request: dict[str, Any]) -> dict[str, str]:
    """Return the format of the result, and refuse one that changes voxels: clients of segmentations ask for uint8.

    Raises:
        ConfigError: not float32, or no format of volumes.
    """
    dtype, extension = request.get("result_dtype") or "float32", request.get("result_extension") or ".nii.gz"
    try:
        right = np.dtype(dtype) == np.float32
    except TypeError:
        right = False
    if not right:
        raise ConfigError(
            "the result is a volume of intensities, not a label map",
            where="result_dtype",
            expected="float32",
            got=dtype,
            mend="load it with diffrecon-slicer instead of the module for segmentations",
        )
    if extension not in _EXTENSIONS:
        raise ConfigError(
            "no format of the result", where="result_extension", expected=", ".join(_EXTENSIONS), got=extension
        )
    return {"result_dtype": "float32", "result_extension": extension}
