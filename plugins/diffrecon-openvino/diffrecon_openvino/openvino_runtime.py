# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Runtime that compiles a network with OpenVINO, for CPUs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from monai_diffrecon.errors import ConfigError, DiffReconError, NumericalError, ResourceError
from monai_diffrecon.protocols import Runtime

#: Precision -> what OpenVINO calls it, and the largest relative root mean square error at first use.
_PRECISIONS = {"float32": ("f32", 1e-4), "bfloat16": ("bf16", 0.05)}


class OpenVINORuntime(Runtime):
    """OpenVINO on the CPU: the network is converted in memory, and compiled when a shape is seen first."""

    API_VERSION: ClassVar[int] = 1
    precisions: ClassVar[tuple[str, ...]] = tuple(_PRECISIONS)

    def load(self, network: nn.Module, *, precision: str) -> Callable[..., Tensor]:
        """Return a function that executes the network."""
        try:
            import openvino  # noqa: F401 - slow, and needed only by who takes this runtime
        except ImportError as error:
            raise ConfigError(
                f"OpenVINO cannot be imported: {error}", where="runtime", mend="pip install 'openvino>=2026.0'"
            ) from error
        return CompiledNetwork(network, precision)


class CompiledNetwork:
    """A network, compiled for each shape of its input; each is compared with PyTorch at its first use.

    Args:
        network: the network.
        precision: ``float32`` or ``bfloat16``.
    """

    def __init__(self, network: nn.Module, precision: str) -> None:
        self.network = network
        self.hint, self.tolerance = _PRECISIONS[precision]
        self._compiled: dict[Any, Any] = {}

    def __call__(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Execute the network.

        Args:
            inputs: slices (B, C, H, W), and what else the network takes by position.
            named: what it takes by name.

        Raises:
            ConfigError: OpenVINO cannot convert the network.
            NumericalError: it computes something else than PyTorch.
        """
        tensors = tuple(tensor.detach().contiguous() for tensor in (*inputs, *named.values()))
        shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)
        key = (tuple(named), shapes, torch.get_num_threads())
        if key in self._compiled:
            return _run(self._compiled[key], tensors)
        network = _ByPosition(self.network, tuple(named))
        compiled = _compiled(network, tensors, self.hint)
        done = _run(compiled, tensors)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            wanted = network(*tensors)
        error = float((done - wanted).float().square().mean().sqrt() / wanted.float().square().mean().sqrt())
        # A network that returns no finite values is reported by the engine.
        if done.shape != wanted.shape or (error > self.tolerance and bool(torch.isfinite(wanted).all())):
            raise NumericalError(
                f"OpenVINO computes something else than PyTorch for slices {tuple(tensors[0].shape)}",
                where="runtime",
                expected=f"a relative error below {self.tolerance:g}",
                got=f"{error:.2g}",
                mend='take the runtime "torch"',
            )
        self._compiled[key] = compiled
        return done


class _ByPosition(nn.Module):
    """A network whose named inputs come last, by position, as tracing wants them."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names
        self.training = network.training

    def forward(self, *inputs: Tensor) -> Tensor:
        first = len(inputs) - len(self.names)
        result: Tensor = self.network(*inputs[:first], **dict(zip(self.names, inputs[first:], strict=True)))
        return result


def _compiled(network: nn.Module, inputs: tuple[Tensor, ...], hint: str) -> Any:
    """Convert and compile a network for the shapes of example inputs.

    The front end is called directly: ``openvino.convert_model`` reports its use to a server.
    """
    from openvino import Core
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    try:
        with warnings.catch_warnings(), torch.no_grad(), torch.autocast("cpu", enabled=False):
            # Tracing is deprecated, and fixes what depends on the shape, which is wanted here.
            warnings.simplefilter("ignore")
            frontend = FrontEndManager().load_by_framework("pytorch")
            # It must outlive the conversion. Weights are copied: a later change must not come halfway into the model.
            decoder = TorchScriptPythonDecoder(network, example_input=inputs, shared_memory=False)
            model = frontend.convert(frontend.load(decoder))
        model.reshape({port: list(tensor.shape) for port, tensor in zip(model.inputs, inputs, strict=True)})
        options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        return Core().compile_model(model, "CPU", options)
    except DiffReconError:
        raise
    except MemoryError as error:
        raise ResourceError("OpenVINO needs more memory than is available", where="runtime") from error
    except Exception as error:  # OpenVINO raises errors of its own and plain ones
        raise ConfigError(
            f"OpenVINO cannot convert the network: {' '.join(str(error).split())[:200]}",
            where="runtime",
            mend='take the runtime "torch"',
        ) from error


def _run(compiled: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    return torch.from_numpy(compiled([tensor.numpy() for tensor in inputs])[0])
