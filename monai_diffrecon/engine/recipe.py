# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Specs, networks and options of a reconstruction, and the engine built from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import torch
from torch import nn

from monai_diffrecon import distributed, registry, slabs
from monai_diffrecon.bundle.metadata import check_window
from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.engine.adaptation_option import check_adaptation
from monai_diffrecon.engine.devices.placement import indexed, network_device
from monai_diffrecon.engine.devices.precision import PRECISIONS, resolved_precision
from monai_diffrecon.engine.handlers.flips import Flips
from monai_diffrecon.engine.handlers.non_finite_guard import NonFiniteGuard
from monai_diffrecon.engine.handlers.progress_bar import ProgressBar
from monai_diffrecon.engine.planes.batched_plane_denoiser import BatchedPlaneDenoiser
from monai_diffrecon.engine.planes.complex_plane_denoiser import MODES, planes_for
from monai_diffrecon.engine.planes.executed_network import build_runtime, check_gradients, executed, is_plain
from monai_diffrecon.engine.planes.slab_plane_denoiser import SlabPlaneDenoiser
from monai_diffrecon.engine.plugin_checks import copied
from monai_diffrecon.engine.plugin_objects import ObjectSpec, Spec, object_notice, plugin_of, spec_of
from monai_diffrecon.engine.posterior.posterior_samples import check_can_sample
from monai_diffrecon.engine.reconstruction_engine import ReconstructionEngine
from monai_diffrecon.engine.slab_problem import NoiseOfSlab, check_in_slabs, measured_axis
from monai_diffrecon.engine.store.stored_engine import StoredEngine
from monai_diffrecon.engine.store.stored_planes import StoredPlaneDenoiser
from monai_diffrecon.engine.store.volume_store import VolumeStore, check_store
from monai_diffrecon.engine.tuned_option import check_tune
from monai_diffrecon.engine.voxel_size import SpacingMend, check_shared_spacing
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_choice, check_device, check_flag, check_integer, check_number
from monai_diffrecon.protocols import ConsistencyStep, NoiseSource, PlaneDenoiser, Problem, Sampler, ScorePrior

#: Config id -> kind of the plugin there.
_KIND_OF = {where: kind for kind, (where, _) in registry.KINDS.items()}


@dataclass(frozen=True, eq=False)
class Recipe:
    """The checked plugin specs, networks and options of the inferer.

    Attributes:
        score: the primary network.
        auxiliaries: networks of other planes; empty if the prior takes only one.
        specs: config id (``operator``, ``prior``, ...) -> spec.
        calls_network: the sampler calls the networks.
        guided: the consistency step differentiates through the networks.
        resumable: a run can be resumed from a checkpoint and repeated.
        notices: notices about plugins given as objects.
        objects: identifies the objects of this recipe; empty without any.

    The other attributes are options of :class:`~monai_diffrecon.engine.inferer.DiffReconInferer`.

    Raises:
        ConfigError: an option of the wrong type, or out of its range.
    """

    score: ScoreNetwork
    auxiliaries: tuple[ScoreNetwork, ...]
    specs: Mapping[str, Any]
    sw_batch_size: int | str = 8
    window: Sequence[int] | None = None
    overlap: float = 0.25
    seed: int = 0
    noise_std: float | None = None
    spacing_tolerance: float = 0.05
    device: torch.device | str | None = None
    volume_device: torch.device | str | None = None
    precision: str = "float32"
    complex: str = "phase"
    num_samples: int = 1
    keep_samples: bool = False
    share: str = "slices"
    volume_store: Any = None
    flips: bool = False
    tune: Any = None
    adaptation: Any = None
    calls_network: bool = field(init=False)
    guided: bool = field(init=False)
    resumable: bool = field(init=False)
    notices: tuple[str, ...] = field(init=False)
    objects: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        specs = {where: as_spec(value, where) for where, value in self.specs.items()}
        noise_std = self.noise_std
        checked: dict[str, Any] = {
            "specs": MappingProxyType(specs),
            "sw_batch_size": check_batch_size(self.sw_batch_size),
            "window": check_window(self.window, "inferer#window"),
            "overlap": check_number(self.overlap, "inferer#overlap", low=0.0, high=0.99),
            "seed": check_integer(self.seed, "seed", low=0),
            "noise_std": None if noise_std is None else check_number(noise_std, "inferer#noise_std", low=0.0),
            "spacing_tolerance": check_number(self.spacing_tolerance, "inferer#spacing_tolerance", low=0.0),
            "device": check_device(self.device, "inferer#device"),
            "volume_device": check_device(self.volume_device, "inferer#volume_device"),
            "precision": check_choice(self.precision, "inferer#precision", PRECISIONS),
            "complex": check_choice(self.complex, "inferer#complex", MODES),
            "num_samples": check_integer(self.num_samples, "inferer#num_samples", low=1),
            "keep_samples": check_flag(self.keep_samples, "inferer#keep_samples"),
            "share": check_choice(self.share, "inferer#share", distributed.SHARES),
            "volume_store": check_store(self.volume_store),
            "flips": check_flag(self.flips, "inferer#flips"),
            "tune": check_tune(self.tune),
            "adaptation": check_adaptation(self.adaptation),
        }
        # Report mistyped options now, not after the scan was read.
        one_plane = build_prior(specs["prior"]).max_planes == 1
        consistency, sampler = build_consistency(specs["consistency"]), build_sampler(specs["sampler"])
        noise = build_noise(specs["noise"], checked["seed"], "")
        guided = type(consistency).guidance is not ConsistencyStep.guidance
        runtime = build_runtime(specs["runtime"])
        if (guided or checked["adaptation"] is not None) and sampler.calls_network:
            check_gradients(runtime)
        check_can_sample(sampler, noise, specs, checked["num_samples"])
        if checked["volume_store"] is not None:
            check_in_slabs(
                [consistency, sampler, *([build_prior(specs["prior"])] if sampler.calls_network else [])],
                "volume_store",
            )
            self._check_stored(checked)
        scores = (self.score, *self.auxiliaries) if sampler.calls_network else ()
        if any(getattr(score.network, "position", False) for score in scores):
            for name in ("volume_store", "tune", "adaptation"):
                if checked[name] is not None:
                    raise ConfigError(
                        "gives parts of the volume to a network that is told where its pixels lie in the whole",
                        where=f"inferer#{name}",
                        mend=f"set {name} to null",
                    )
        registry.check_options("operators", plugin_of(specs["operator"]), where="operator", context=("geometry",))
        notices = object_notice(specs)
        checked |= {
            # Those that lie beside the bundle come without being asked for.
            "auxiliaries": () if one_plane else tuple(self.auxiliaries),
            "calls_network": sampler.calls_network,
            "guided": guided,
            "resumable": not (notices or (sampler.calls_network and not noise.resumable)),
            "notices": notices,
            "objects": {"objects": uuid4().hex} if notices else {},
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        for value in () if self.tune is None else self.tune.values:
            self.candidate(value)

    @staticmethod
    def _check_stored(checked: Mapping[str, Any]) -> None:
        """Refuse options that a volume on the disk does not allow."""
        device = checked["volume_device"]
        elsewhere = device is not None and torch.device(device).type != "cpu"
        for name, value, wrong in (
            ("num_samples", 1, checked["num_samples"] > 1),
            ("volume_device", "cpu", elsewhere),
        ):
            if wrong:
                raise ConfigError(
                    "not possible for a volume on the disk",
                    where=f"inferer#{name}",
                    expected=value,
                    got=checked[name],
                    mend=f"set {name} to {value}, or volume_store to null",
                )

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes; a read-only view of a dictionary can be neither copied nor pickled."""
        return {**vars(self), "specs": dict(self.specs)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the attributes."""
        vars(self).update({**state, "specs": MappingProxyType(state["specs"])})

    @property
    def scores(self) -> tuple[ScoreNetwork, ...]:
        """The networks that take part."""
        return (self.score, *self.auxiliaries) if self.calls_network else ()

    def devices(self, network: nn.Module | None = None) -> tuple[torch.device, torch.device]:
        """Return the device of the primary network, and that of operator, measurement and volumes.

        Args:
            network: the primary network; None takes the bundle's.
        """
        device = network_device(self.score.network if network is None else network, self.device)
        if self.volume_store is not None:
            return device, torch.device("cpu")
        return device, device if self.volume_device is None else indexed(self.volume_device)

    def settings(self, network: nn.Module | None = None) -> dict[str, Any]:
        """Return the options that are not plugins, as stored in records and checkpoints.

        Args:
            network: the primary network; None takes the bundle's. Its device decides what ``precision: auto`` is.
        """
        return {
            "sw_batch_size": self.sw_batch_size,
            "window": None if self.window is None else list(self.window),
            "overlap": self.overlap,
            "noise_std": self.noise_std,
            "spacing_tolerance": self.spacing_tolerance,
            "precision": resolved_precision(self.precision, self.devices(network)[0]),
            "complex": self.complex,
            "num_samples": self.num_samples,
            "keep_samples": self.keep_samples,
            **({} if self.volume_store is None else {"volume_store": dict(self.volume_store)}),
            **({"flips": True} if self.flips else {}),
            **({} if self.tune is None else {"tune": self.tune.described()}),
            **({} if self.adaptation is None else {"adaptation": asdict(self.adaptation)}),
        }

    def candidate(self, value: Any) -> Recipe:
        """Return the recipe with a value of the option that is tuned.

        Raises:
            ConfigError: no such option, or a wrong value.
        """
        return replace(self, tune=None, **self.tune.changed(self.specs, value))

    def used(self, operator: Spec) -> dict[str, Spec]:
        """Return the plugins that take part: without a network, prior, noise source and runtime do not.

        Records and identities name a runtime only if it is not PyTorch, so that earlier ones stay as they are.

        Args:
            operator: the operator of the measurement, complete.
        """
        specs = {**self.specs, "operator": operator}
        if is_plain(specs["runtime"]):
            del specs["runtime"]
        return specs if self.calls_network else {kind: specs[kind] for kind in ("operator", "consistency", "sampler")}

    def engine(
        self,
        problem: Problem,
        network: nn.Module | None = None,
        case: str = "",
        index: int = 0,
        *,
        handlers: Sequence[Any] = (),
        mend: SpacingMend | None = None,
        progress: bool | None = None,
        store: VolumeStore | None = None,
    ) -> ReconstructionEngine:
        """Return the engine of one sample, with its handlers.

        Args:
            problem: the inverse problem, in network units.
            network: the primary network; None takes the bundle's.
            case: name of the sample's case, part of the noise seed.
            index: index of the sample.
            handlers: between the guard and the progress bar.
            mend: what to do about voxels of another size than the networks'.
            progress: show a progress bar; None shows it on a terminal only.
            store: the disk where the volume lies; None keeps it in memory.
        """
        noise, now = copied(build_noise(self.specs["noise"], self.seed, case)), slabs.peers()
        if now is not None:
            noise = NoiseOfSlab(noise, now.slab, measured_axis(problem.operator, now.slab))
        prior = None
        if self.calls_network:
            operator = problem.operator
            prior = copied(build_prior(self.specs["prior"]))
            prior.observe(operator)
            whole = self._planes(network)
            planes: Sequence[PlaneDenoiser] = whole
            if now is not None:
                planes = [SlabPlaneDenoiser(plane, now) for plane in whole]
            if store is not None:
                planes = [StoredPlaneDenoiser(plane, store) for plane in whole]
            prior.bind(planes_for(operator, planes, self.scores, self.complex), noise)
            for plane in prior.planes:
                check_shared_spacing(
                    self.scores, plane.plane, operator.geometry, self.spacing_tolerance, operator.thick_plane, mend
                )
        consistency, sampler = build_consistency(self.specs["consistency"]), build_sampler(self.specs["sampler"])
        if now is not None:
            check_in_slabs([consistency, sampler, *([] if prior is None else [prior])])
        engine = (
            ReconstructionEngine(problem, prior, consistency, sampler, noise)
            if store is None
            else StoredEngine(problem, prior, consistency, sampler, noise, store)
        )
        label = "reconstruct" if self.num_samples == 1 else f"sample {index + 1} of {self.num_samples}"
        bar = ProgressBar(label, disable=None if progress is None else not progress)
        flips = [Flips()] if self.flips and prior is not None else []
        for handler in (NonFiniteGuard(), *flips, *handlers, bar):
            handler.attach(engine)
        return engine

    def _planes(self, network: nn.Module | None) -> list[BatchedPlaneDenoiser]:
        planes, runtime = [], build_runtime(self.specs["runtime"])
        for score in self.scores:
            net = network if network is not None and score is self.score else score.network
            precision = resolved_precision(self.precision, network_device(net, self.device))
            net = executed(runtime, net, precision=precision, device=self.device)
            net = net if self.device is None else net.to(self.device)
            where = f"bundle {score.name}, diffrecon#denoiser"
            planes.append(
                BatchedPlaneDenoiser(
                    registry.build("denoisers", score.denoiser, where=where, network=net),
                    score.plane,
                    batch_size=self.sw_batch_size,
                    window=self.window if self.window is not None else score.window,
                    overlap=self.overlap,
                    device=self.device,
                    precision=precision,
                    name=score.name,
                )
            )
        return planes


def check_batch_size(value: Any) -> int | str:
    """Return slices per network call, a number or ``auto``.

    Raises:
        ConfigError: neither.
    """
    return "auto" if value == "auto" else check_integer(value, "inferer#sw_batch_size", low=1)


def as_spec(value: Any, where: str) -> Spec:
    """Return ``{"name": ..., **options}`` for a name, a spec, or a plugin given as an instance or a class.

    Former names of plugins and options are replaced by the current ones.

    Raises:
        ConfigError: neither.
    """
    spec = {"name": value} if isinstance(value, str) else value
    if not (isinstance(spec, dict) and isinstance(spec.get("name"), str)):
        spec = spec_of(value, _KIND_OF[where])
    if spec is not None:
        return spec if isinstance(spec, ObjectSpec) else dict(registry.current(_KIND_OF[where], spec))
    raise ConfigError("not a plugin", where=where, expected='a name or {"name": ..., options}', got=repr(value))


def build_prior(spec: Spec) -> ScorePrior:
    """Build the score prior.

    Raises:
        ConfigError: the name is that of a regularizer.
    """
    prior = registry.build("priors", plugin_of(spec), where="prior")
    if not isinstance(prior, ScorePrior):
        raise ConfigError(
            f"{spec['name']} is a regularizer, not a score prior",
            where="prior",
            mend=f'put it under consistency: {{"name": "admm", "regularizers": [{{"name": "{spec["name"]}"}}]}}',
        )
    return prior


def build_consistency(spec: Spec) -> ConsistencyStep:
    """Build the consistency step."""
    step = registry.build("consistency", plugin_of(spec), where="consistency")
    assert isinstance(step, ConsistencyStep)
    return step


def build_sampler(spec: Spec) -> Sampler:
    """Build the sampler."""
    sampler = registry.build("samplers", plugin_of(spec), where="sampler")
    assert isinstance(sampler, Sampler)
    return sampler


def build_noise(spec: Spec, seed: int, case: str) -> NoiseSource:
    """Build the noise source of a case."""
    noise = registry.build("noises", plugin_of(spec), where="noise", seed=seed, case=case)
    assert isinstance(noise, NoiseSource)
    return noise


def weights_of(networks: Sequence[ScoreNetwork]) -> dict[str, str]:
    """Return bundle name -> sha256 of its weights."""
    return {f"{n.name} {n.version}": n.sha256 for n in networks}
