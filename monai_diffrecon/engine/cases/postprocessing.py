# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The bundle's transform that is applied to a volume before it is written and scored."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Transform
from monai.utils import CommonKeys
from torch import Tensor

from monai_diffrecon.engine.memory.out_of_memory import is_out_of_memory
from monai_diffrecon.engine.problem.posed_case import PosedCase
from monai_diffrecon.engine.transforms.volume_grid import VolumeGridd
from monai_diffrecon.errors import ConfigError, DiffReconError, PluginError
from monai_diffrecon.errors.uncaught import chain_of
from monai_diffrecon.io.measurement.metatensor import affine_of, check_finite
from monai_diffrecon.privacy.redaction import redact
from monai_diffrecon.protocols import VolumeGeometry

_WHERE = "postprocessing"


class Postprocessing:
    """A MONAI dictionary transform that changes ``pred``; it also receives ``image`` (the measurement) and ``case``.

    Args:
        transform: the transform; None changes nothing, nor does the one that bundles have for other programs,
            :class:`~monai_diffrecon.engine.transforms.volume_grid.VolumeGridd` alone.

    Attributes:
        steps: the transforms with their options, for the record. One that cannot be identified (a function without
            a name, a random one) gets a unique name, so that its volumes are never mistaken for one another.

    Raises:
        ConfigError: not a callable.
    """

    def __init__(self, transform: Callable[[dict[str, Any]], Any] | None) -> None:
        if transform is not None and not callable(transform):
            raise ConfigError(
                "not a transform", where=_WHERE, expected="a MONAI transform of dicts", got=type(transform).__name__
            )
        if isinstance(transform, Compose) and {type(step) for step in transform.transforms} == {VolumeGridd}:
            transform = None
        self.transform = transform
        described = [] if transform is None else _described(transform)
        self.steps: list[Any] = redact(described if isinstance(described, list) else [described])

    @property
    def identity(self) -> dict[str, str]:
        """Its part of the run's identity; empty without a transform."""
        return {} if self.transform is None else {_WHERE: json.dumps(self.steps, sort_keys=True)}

    def __call__(self, volume: Tensor, geometry: VolumeGeometry, case: PosedCase) -> Tensor:
        """Return the volume as it is to be written.

        Args:
            volume: (1, X, Y, Z) in physical units.
            geometry: its geometry.
            case: what it was reconstructed from.

        Raises:
            PluginError: the transform fails, or returns a volume of another grid or type.
            InputError: voxels that are not finite.
        """
        if self.transform is None:
            return volume
        affine = torch.as_tensor(affine_of(geometry))
        pred = MetaTensor(volume.clone(), affine=affine.clone())
        data = {CommonKeys.PRED: pred, CommonKeys.IMAGE: case.measurement, "case": case.name}
        try:
            out = self.transform(data)
        except Exception as error:
            raise _error(error) from error
        done = out.get(CommonKeys.PRED) if isinstance(out, Mapping) else None
        if not isinstance(done, Tensor | np.ndarray):
            raise PluginError(
                "returns no volume", where=_WHERE, expected=f'a dict with "{CommonKeys.PRED}"', got=type(out).__name__
            )
        moved = isinstance(done, MetaTensor) and not torch.allclose(done.affine.cpu().double(), affine, atol=1e-4)
        plain = torch.as_tensor(done).as_subclass(Tensor)
        if plain.shape != volume.shape or plain.is_complex() != volume.is_complex() or moved:
            raise PluginError(
                "changes the volume's grid or number type",
                where=_WHERE,
                expected=f"{tuple(volume.shape)}, {'complex' if volume.is_complex() else 'real'}, where it lies",
                got="another affine" if moved else f"{tuple(plain.shape)}, {str(plain.dtype).removeprefix('torch.')}",
                mend="resample the written file instead",
            )
        return check_finite(plain.to(volume), _WHERE)


def _error(error: Exception) -> DiffReconError | Exception:
    """Return a ``DiffReconError`` or out-of-memory error as it is; for any other, an error with its type and place."""
    chain = list(chain_of(error))
    for cause in chain:
        if isinstance(cause, DiffReconError) or is_out_of_memory(cause):
            return cause  # type: ignore[return-value]
    frame = traceback.extract_tb(chain[-1].__traceback__)[-1]
    return PluginError(
        "fails",
        where=_WHERE,
        got=f"{type(chain[-1]).__name__} at {Path(frame.filename).name}:{frame.lineno}",
        mend="correct the transform, or set postprocessing to null",
    )


def _described(value: Any) -> Any:
    """Return a transform and its options in a form that a record can hold."""
    if value is None or isinstance(value, bool | int | float | str | Path | Tensor | np.ndarray | Enum):
        return value
    if isinstance(value, Mapping):
        return {str(key): _described(inner) for key, inner in value.items()}
    if isinstance(value, Compose):
        return _described(value.transforms)
    if isinstance(value, list | tuple | set | frozenset):
        return [_described(inner) for inner in value]
    name = getattr(value, "__qualname__", type(value).__qualname__)
    module = getattr(value, "__module__", None) or type(value).__module__
    if isinstance(value, Transform):
        return {"name": f"{module}:{name}", **{key: _described(inner) for key, inner in vars(value).items()}}
    known = isinstance(value, type | torch.dtype | torch.device) or hasattr(value, "__qualname__")
    return f"{module}:{name}" if known and "<" not in name else f"{module}:{name} {uuid4().hex}"
