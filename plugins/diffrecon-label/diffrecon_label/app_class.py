# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The app of MONAI Label."""

from __future__ import annotations

import os
from typing import Any

from dicomweb_client.session_utils import create_session_from_user_pass
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from monailabel.interfaces.app import MONAILabelApp

from diffrecon_label import __version__
from diffrecon_label.bundles import offered_bundles
from diffrecon_label.datastores import FolderDatastore, SeriesDatastore
from diffrecon_label.task import RESEARCH_USE, ReconstructionTask

#: Series of other kinds are not listed, unless MONAI_LABEL_DICOMWEB_SEARCH_FILTER says what is.
_MODALITIES = ("CT", "MR")


class ReconstructionApp(MONAILabelApp):
    """Offers bundles as models of a server. There is no training, no choice of samples and no scoring.

    Args:
        app_dir: folder of the app.
        studies: a folder, or the address of a DICOMweb archive.
        conf: ``--conf`` of the server, see :func:`~diffrecon_label.bundles.offered_bundles`.

    Raises:
        ConfigError: no bundles, or not the ones that are named.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.cards = offered_bundles(conf)
        super().__init__(
            app_dir,
            studies,
            conf,
            name="monai_diffrecon",
            description=f"Reconstruction of CT and MR volumes. {RESEARCH_USE}.",
            version=__version__,
        )

    def init_infers(self) -> dict[str, ReconstructionTask]:
        """Return a task for each bundle."""
        return {name: ReconstructionTask(card, self.conf) for name, card in self.cards.items()}

    def init_strategies(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def init_datastore(self) -> Any:
        """Return the scans of a folder, or those of an archive."""
        if self.studies.startswith(("http://", "https://")):
            return self.init_remote_datastore()
        return FolderDatastore(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def _init_dicomweb_datastore(self) -> SeriesDatastore:
        user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        client = DICOMwebClientX(
            url=self.studies.rstrip("/"),
            session=create_session_from_user_pass(user, password) if user and password else None,
            qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
            wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
            stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        )
        chosen = "MONAI_LABEL_DICOMWEB_SEARCH_FILTER" in settings.model_fields_set
        filters = [settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER] if chosen else [{"Modality": m} for m in _MODALITIES]
        return SeriesDatastore(client, filters, settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip() or None)

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Reconstruct.

        Raises:
            HTTPException: one line, and 422 if the result is to be saved as a label.
        """
        if request.get("save_label"):
            raise HTTPException(422, "save_label: a reconstruction is not a label; take it from the answer")
        image = request.get("image")
        if isinstance(image, str) and not os.path.isabs(image):
            # An id. MONAI Label would look first for a file or folder of that name in the working directory.
            request = {**request, "image": (datastore or self.datastore()).get_image_uri(image)}
        done: dict[str, Any] = super().infer(request, datastore)
        return done
