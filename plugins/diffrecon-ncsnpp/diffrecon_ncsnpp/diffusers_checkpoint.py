# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Importer of models saved by the library diffusers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from diffrecon_ncsnpp.diffusers_unet import DiffusersUNet
from diffrecon_ncsnpp.state_dicts import check_agreement, check_declared, check_tensors, listed, tensors_of
from monai_diffrecon.errors import InputError, IntegrityError
from monai_diffrecon.errors.options import check_choice, check_integer, check_number
from monai_diffrecon.protocols import CheckpointImporter, ImportedNetwork

_WHERE = "import diffusers"
_WORD = re.compile(r"\w+", re.ASCII)
_PREDICTIONS = ("epsilon", "v_prediction", "sample")
_SCHEDULES = {"linear": "linear_beta", "scaled_linear": "scaled_linear_beta", "squaredcos_cap_v2": "cosine"}
#: The defaults of diffusers' DDPMScheduler, which a config may leave out.
_SCHEDULER_DEFAULTS: dict[str, Any] = {
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
}


class DiffusersImporter(CheckpointImporter):
    """Folders of the library diffusers: an unconditional UNet2DModel, alone or in a pipeline with its scheduler.

    Needs the extra ``diffusers``.
    """

    API_VERSION: ClassVar[int] = 1

    def recognises(self, content: Mapping[str, Any]) -> bool:
        """Say whether the content is that of a folder with a config and weights."""
        return isinstance(content.get("config"), Mapping) and isinstance(content.get("state_dict"), Mapping)

    def convert(self, content: Mapping[str, Any], **declared: Any) -> ImportedNetwork:
        """Return the network that a folder holds.

        Args:
            content: ``config``, ``state_dict`` and ``scheduler_config``, the last one perhaps None.
            declared: ``in_channels`` is compared with the config. ``data_range``: the (low, high) of the training's
                intensities, (-1, 1) unless declared. ``beta_schedule``, ``num_train_timesteps``, ``beta_start``,
                ``beta_end``, ``prediction_type``: as the scheduler's config names them; compared with it, or used
                where it says nothing.

        Raises:
            ConfigError: an unknown declared name, or diffusers is not installed.
            InputError: another model or scheduler, or tensors missing, superfluous, of a wrong shape or not finite.
        """
        check_declared(declared, ("in_channels", "data_range", *_SCHEDULER_DEFAULTS), _WHERE)
        if not self.recognises(content):
            raise InputError(
                "not a folder of diffusers",
                where=_WHERE,
                expected="entries config and state_dict",
                got=f"entries {listed([str(k) for k in content])}",
            )
        config = dict(content["config"])
        plain = _plain(config)
        if config.get("time_embedding_type") == "fourier":
            raise InputError(
                "a network of noise levels, not of timesteps",
                where=f"{_WHERE}, config#time_embedding_type",
                expected="positional",
                got="fourier",
            )
        with torch.device("meta"):
            network = DiffusersUNet(config)
        check_agreement(declared, {"in_channels": network.in_channels}, _WHERE)
        tensors = {f"unet.{k}": v for k, v in tensors_of(content["state_dict"], f"{_WHERE}, weights").items()}
        shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
        check_tensors(tensors, shapes, f"{_WHERE}, weights")
        denoiser, notes = _denoiser(content.get("scheduler_config"), declared)
        data_range = list(declared.get("data_range", (-1.0, 1.0)))
        if "data_range" not in declared:
            notes.append("assumed that intensities 0 and 1 were -1 and 1 in the training (data_range)")
        return ImportedNetwork(
            network_def={"_target_": "diffrecon_ncsnpp.diffusers_unet.DiffusersUNet", "config": plain},
            state_dict={k: v.to(torch.float32, copy=True).contiguous() for k, v in tensors.items()},
            denoiser={**denoiser, "data_range": data_range},
            channels=network.in_channels,
            notes=("put the prefix 'unet.' before the names", *notes),
        )


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config that a bundle can hold.

    MONAI evaluates texts in a bundle that start with ``$`` and builds dicts with ``_target_``, so a config from
    elsewhere must not bring any.
    """

    def harmless(value: object) -> bool:
        if isinstance(value, list):
            return all(harmless(v) for v in value)
        return value is None or isinstance(value, (bool, int, float)) or bool(_WORD.fullmatch(str(value)))

    kept = {k: list(v) if isinstance(v, tuple) else v for k, v in config.items() if not k.startswith("_")}
    if strange := [k for k, v in kept.items() if not harmless(v)]:
        raise IntegrityError(
            "refused, since it is more than numbers and words",
            where=f"{_WHERE}, config#{strange[0]:.40}",
            got=f"{kept[strange[0]]!r:.80}",
        )
    return kept


def _denoiser(config: Mapping[str, Any] | None, declared: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the spec of the denoiser ``ddpm`` for a scheduler, and what was assumed."""
    where = f"{_WHERE}, scheduler_config"
    given = {k: v for k, v in (config or {}).items() if k in _SCHEDULER_DEFAULTS}
    if config is not None and "beta_schedule" not in config and config.get("trained_betas") is None:
        raise InputError(
            "not the scheduler of a variance-preserving diffusion",
            where=where,
            expected="an entry beta_schedule",
            got=config.get("_class_name", "no _class_name"),
        )
    if config is not None and config.get("rescale_betas_zero_snr"):
        raise InputError(
            "its last timestep is pure noise (rescale_betas_zero_snr), of no finite noise level", where=where
        )
    check_agreement({k: v for k, v in declared.items() if k in _SCHEDULER_DEFAULTS}, given, where)
    stated = {**{k: v for k, v in declared.items() if k in _SCHEDULER_DEFAULTS}, **given}
    notes = [f"assumed {k} {v}" for k, v in _SCHEDULER_DEFAULTS.items() if k not in stated]
    values = {**_SCHEDULER_DEFAULTS, **stated}
    spec: dict[str, Any] = {
        "name": "ddpm",
        "prediction_type": check_choice(values["prediction_type"], f"{where}#prediction_type", _PREDICTIONS),
    }
    if config is not None and config.get("trained_betas") is not None:
        betas = [check_number(b, f"{where}#trained_betas", low=0.0) for b in config["trained_betas"]]
        spec["alphas_cumprod"] = torch.cumprod(1.0 - torch.tensor(betas, dtype=torch.float64), dim=0).tolist()
        return spec, notes
    spec["schedule"] = _SCHEDULES[check_choice(values["beta_schedule"], f"{where}#beta_schedule", tuple(_SCHEDULES))]
    spec["num_train_timesteps"] = check_integer(values["num_train_timesteps"], f"{where}#num_train_timesteps", low=2)
    for k in ("beta_start", "beta_end"):
        spec[k] = check_number(values[k], f"{where}#{k}", low=0.0, open_low=True)
    return spec, notes
