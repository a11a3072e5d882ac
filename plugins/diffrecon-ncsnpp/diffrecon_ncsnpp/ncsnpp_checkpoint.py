# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Importer of the checkpoints of DiffusionMBIR, TPDM, ISCS and score_sde."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffrecon_ncsnpp.ncsnpp import NCSNpp
from diffrecon_ncsnpp.ncsnpp_layout import FREQUENCIES, SIGMAS, infer_options, published_shapes
from diffrecon_ncsnpp.state_dicts import check_agreement, check_declared, check_tensors, listed, tensors_of
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import check_choice, check_sigma_range
from monai_diffrecon.protocols import CheckpointImporter, ImportedNetwork

_WHERE = "import ncsnpp"
_SHAPES = ("in_channels", "channels", "channel_mult", "num_res_blocks", "attention_levels")
_HINT = "check that the file is whole, and NCSN++ with Fourier embedding and residual input pyramid"
_scalar = np.float64(0.0).__reduce__()[0]


class NCSNppImporter(CheckpointImporter):
    """Checkpoints of NCSN++ score networks: DiffusionMBIR, TPDM, ISCS, score_sde.

    The file holds ``optimizer``, ``model`` (a state dict, every name with the prefix ``module.``), ``ema`` (the
    averaged weights as a list, in the order of registration) and ``step``. What is imported are the averaged
    weights; the Fourier frequencies, which are not trained, come from ``model``.
    """

    API_VERSION: ClassVar[int] = 1

    #: The learning rate among the optimizer's state is a NumPy scalar. NumPy 2 renamed the module of its maker.
    allowed_globals = (
        (_scalar, "numpy.core.multiarray.scalar"),
        (_scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        type(np.dtype(np.float64)),
    )

    def recognises(self, content: Mapping[str, Any]) -> bool:
        """Say whether there is a state dict ``model`` with a flat list of modules that start with an embedding."""
        model = content.get("model")
        return isinstance(model, Mapping) and any(str(k).removeprefix("module.") == FREQUENCIES for k in model)

    def convert(self, content: Mapping[str, Any], **declared: Any) -> ImportedNetwork:
        """Return the network that a checkpoint holds.

        Args:
            content: the content of the file.
            declared: ``in_channels``, ``channels``, ``channel_mult``, ``num_res_blocks``, ``attention_levels`` (as
                :class:`NCSNpp` names them), ``sigma_min`` and ``sigma_max`` (in network units) are compared with
                the file; ``weights``: ``ema`` (the default) or ``model``.

        Raises:
            ConfigError: an unknown declared name.
            InputError: another layout, or tensors missing, superfluous, of a wrong shape or not finite.
        """
        check_declared(declared, (*_SHAPES, "sigma_min", "sigma_max", "weights"), _WHERE)
        weights = check_choice(declared.get("weights", "ema"), f"{_WHERE}#weights", ("ema", "model"))
        if not self.recognises(content):
            raise InputError(
                "not a checkpoint of NCSN++",
                where=_WHERE,
                expected=f"an entry 'model' with the tensor module.{FREQUENCIES}",
                got=f"entries {listed([str(k) for k in content])}",
            )
        model = tensors_of(content["model"], f"{_WHERE}, model", prefix="module.")
        notes = (
            ["took the prefix 'module.' off the names"] if next(iter(content["model"])).startswith("module.") else []
        )
        sigmas = model.pop(SIGMAS, None)
        options = infer_options(model, f"{_WHERE}, model")
        check_agreement(declared, options, _WHERE)
        layout = self._layout(options)
        check_tensors(model, {k: shape for k, (_, shape) in layout.items()}, f"{_WHERE}, model", _HINT)
        if weights == "ema":
            trained = {k: shape for k, (_, shape) in layout.items() if k != FREQUENCIES}
            averaged = _averaged(content.get("ema"), trained)
            model = {k: averaged.get(k, model[k]) for k in layout}
            notes.append(f"took {len(trained)} tensors from 'ema' by their order, {FREQUENCIES} from 'model'")
        else:
            notes.append("took all tensors from 'model', not the averaged ones")
        state = {ours: _stored(name, model[name]) for name, (ours, _) in layout.items()}
        renamed = sum(name != ours for name, (ours, _) in layout.items())
        notes.append(f"renamed {renamed} tensors NIN_k.W and NIN_k.b to weight and bias, the former transposed")
        low, high, source = _noise_levels(sigmas, declared)
        notes.append(f"noise levels {low:g} to {high:g} {source}")
        if dropped := [str(k) for k in content if k not in ("model", "ema")]:
            notes.append(f"dropped {listed(dropped)}")
        return ImportedNetwork(
            network_def={"_target_": "diffrecon_ncsnpp.ncsnpp.NCSNpp", **options},
            state_dict=state,
            denoiser={"name": "ve_score", "sigma_min": low, "sigma_max": high},
            channels=options["in_channels"],
            notes=tuple(notes),
        )

    def _layout(self, options: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
        try:
            with torch.device("meta"):
                return published_shapes(NCSNpp(**options))
        except ConfigError as error:
            raise InputError(f"not the layout of NCSN++: {error}", where=_WHERE, got=dict(options)) from None


def _averaged(ema: object, trained: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return the averaged weights by name; the file has them as a list in the order of registration."""
    where = f"{_WHERE}, ema"
    shadows = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(shadows, (list, tuple)):
        raise InputError(
            "no averaged weights",
            where=where,
            expected="a list 'shadow_params'",
            got=type(shadows).__name__,
            mend="declare weights=model to import the last weights of the training, which are noisier",
        )
    if len(shadows) != len(trained):
        raise InputError(
            "another number of averaged weights than the network has trained tensors",
            where=where,
            expected=len(trained),
            got=len(shadows),
        )
    named = tensors_of(dict(zip(trained, shadows, strict=True)), where)
    check_tensors(named, trained, where)
    return named


def _stored(published: str, tensor: Tensor) -> Tensor:
    """Return a tensor as our network stores it, in float32 and with memory of its own."""
    turned = tensor.T if ".NIN_" in published and published.endswith(".W") else tensor
    return turned.to(torch.float32, copy=True).contiguous()


def _noise_levels(sigmas: Tensor | None, declared: Mapping[str, Any]) -> tuple[float, float, str]:
    """Return the ends of the noise levels and where they are from."""
    usable = sigmas is not None and sigmas.numel() > 1 and sigmas.is_floating_point() and bool((sigmas > 0).all())
    if sigmas is None or not usable or not bool(torch.isfinite(sigmas).all()):
        wanted = declared.get("sigma_min", 0.01), declared.get("sigma_max", 378.0)
        return *check_sigma_range(*wanted, _WHERE), "are declared or the published ones; the file does not show them"
    low, high = (float(f"{float(end):.6g}") for end in (sigmas.min(), sigmas.max()))
    stated = {k: float(v) for k, v in declared.items() if k in ("sigma_min", "sigma_max")}
    check_agreement(stated, {"sigma_min": low, "sigma_max": high}, _WHERE)
    return *check_sigma_range(low, high, _WHERE), f"from the ends of '{SIGMAS}', which is dropped itself"
