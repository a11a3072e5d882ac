# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The notice that a volume shows a face."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from monai_diffrecon.numerics.face_check import shows_face

#: What the record and MLflow say of such a volume; a log puts the name of the case before it.
FACE_NOTICE = "the volume shows a face, by which a person can be recognized; deface it before it leaves this machine"
#: What a network was trained on (``diffrecon.anatomy`` of the metadata) -> whether its volumes may show a face.
ANATOMIES = {"head": True, "brain": True, "body": False}


def face_notice(volume: Tensor, spacing: Sequence[float], anatomy: str | None = None) -> str | None:
    """Return the notice, or None for a volume that shows no face.

    Args:
        volume: (1, X, Y, Z) in RAS+ order, real; of a complex volume the magnitude.
        spacing: of the voxels, mm.
        anatomy: what the network was trained on; None when the bundle does not say, which asks as for a head. A
            network of brains is given whole heads as well.
    """
    if not ANATOMIES.get(anatomy or "head", True):
        return None
    return FACE_NOTICE if shows_face(volume, spacing) else None
