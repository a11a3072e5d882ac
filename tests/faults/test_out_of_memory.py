# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Memory that does not suffice: allocations of torch that the operating system refuses, not raised by hand."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_diffrecon.denoisers.direct import DirectDenoiser
from monai_diffrecon.engine.memory.memory_estimate import MemoryEstimate
from monai_diffrecon.engine.memory.out_of_memory import is_out_of_memory, out_of_memory_error
from monai_diffrecon.engine.planes.batched_plane_denoiser import BatchedPlaneDenoiser
from monai_diffrecon.engine.planes.complex_plane_denoiser import ComplexPlaneDenoiser
from monai_diffrecon.errors import NumericalError

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs an address-space limit that the kernel enforces")


class Hungry(nn.Module):
    """Takes ``features`` times the memory of its input, twice."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x.repeat(1, self.features, 1, 1).tanh().mean(dim=1, keepdim=True)


class Convolutional(nn.Module):
    """As hungry, by convolutions."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(1, features, 3, padding=1), nn.Conv2d(features, 1, 3, padding=1)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.as_tensor(self.narrow(self.wide(x)))


def volume() -> Tensor:
    return torch.randn(1, 256, 256, 16, generator=torch.Generator().manual_seed(0))


def planes_of(network: nn.Module, window: tuple[int, int] | None = None) -> BatchedPlaneDenoiser:
    network = network.eval().requires_grad_(False)
    return BatchedPlaneDenoiser(DirectDenoiser(network), "axial", batch_size=8, window=window)


def gradient(planes: BatchedPlaneDenoiser, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    while True:  # the way back may run out of memory outside of the denoiser: the engine repeats the step, as here
        try:
            return torch.autograd.grad(planes(x, 0.1).square().sum(), x)[0]
        except RuntimeError as error:
            if not (is_out_of_memory(error) and planes.halve()):
                raise


def limited(margin: int, run: Callable[[], Tensor], planes: BatchedPlaneDenoiser) -> dict[str, Any]:
    """Call ``run`` in a child process that may take ``margin`` MiB more; compare with what it returns without limit."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of the parent: none of them is waited for
        child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(_limited(margin, run, planes)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    assert said, "the child came to grief"
    found: dict[str, Any] = json.loads(said)
    return found


def _limited(margin: int, run: Callable[[], Tensor], planes: BatchedPlaneDenoiser) -> dict[str, Any]:
    import resource

    _use_up_free_blocks()
    size = _pages() * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + margin * 2**20, hard))
    out, caught = None, None
    try:
        out = run()
    except Exception as error:
        caught = error
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    answer = {"batch_size": planes.batch_size, "fallbacks": planes.fallbacks, "calls": planes.network_calls}
    if out is not None:
        planes.batch_size = 8
        return answer | {"difference": float((out - run()).abs().max()), "unlimited": planes.batch_size}
    assert caught is not None
    ends = out_of_memory_error(caught)
    return answer | {"said": str(caught), "counts": is_out_of_memory(caught), "ends": str(ends), "code": ends.exit_code}


def _pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0])


def _use_up_free_blocks() -> None:
    """Take what earlier tests have left free in the heap: it would not count against the limit."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    for size in (2**k * 2**20 for k in range(9, 1, -1)):
        before = _pages()
        while (block := libc.malloc(size)) and _pages() <= before:
            pass
        libc.free(block)  # the one that came from the system


@linux
@pytest.mark.parametrize("window", [None, (128, 256)])
def test_batch_that_does_not_fit_is_halved_and_voxels_stay(window: tuple[int, int] | None) -> None:
    """16 MiB a slice, twice: 256 MiB for 8 slices, 128 MiB for 4; windows are half as large."""
    x, planes = volume(), planes_of(Hungry(64), window)
    answer = limited(190 if window is None else 110, lambda: planes(x, 0.1), planes)
    size = answer["batch_size"]
    assert size in (2, 4)
    assert answer["fallbacks"] == [f"out of memory: slices of the axial plane denoised {size} at a time instead of 8"]
    assert answer["unlimited"] == 8
    assert answer["difference"] <= 1e-5


@linux
def test_convolution_that_does_not_fit_is_halved_and_voxels_stay() -> None:
    """OneDNN has errors of its own."""
    x, planes = volume(), planes_of(Convolutional(64))
    planes(x[..., :1], 0.1)
    answer = limited(100, lambda: planes(x, 0.1), planes)
    assert answer["batch_size"] < 8
    assert answer["difference"] <= 1e-5


@pytest.mark.slow
@linux
def test_guidance_that_does_not_fit_is_halved_and_the_gradient_stays() -> None:
    x, planes = volume(), planes_of(Hungry(64))
    gradient(planes, x[..., :1])  # threads of autograd are there before the limit
    answer = limited(190, lambda: gradient(planes, x), planes)
    assert answer["batch_size"] < 8
    assert answer["unlimited"] == 8
    assert answer["difference"] <= 1e-5


@linux
def test_single_slice_that_does_not_fit_is_an_error_of_memory() -> None:
    x, planes = volume(), planes_of(Hungry(256))
    answer = limited(20, lambda: planes(x, 0.1), planes)
    assert answer["batch_size"] == 1
    assert answer["calls"] == 0
    assert answer["counts"]
    assert "allocate" in answer["said"]
    assert (answer["code"], answer["ends"].count("not enough memory, even")) == (6, 1)


class Failing(nn.Module):
    """Raises for batches of more than ``most`` slices."""

    def __init__(self, error: Callable[[], BaseException], most: int) -> None:
        super().__init__()
        self.error, self.most = error, most
        self.sizes: list[int] = []

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise self.error()
        return torch.tanh(x)


def test_gpu_out_of_memory_goes_on_from_the_batch_that_failed() -> None:
    network = Failing(lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), most=3)
    x = torch.linspace(-1, 1, 4 * 5 * 21).reshape(1, 4, 5, 21)
    planes = BatchedPlaneDenoiser(DirectDenoiser(network), "axial", batch_size=8)
    torch.testing.assert_close(planes(x, 0.1), torch.tanh(x))
    assert network.sizes == [8, 4, *[2] * 10, 1]
    assert planes.network_calls == 11
    planes(x, 0.1)
    assert network.sizes[13:] == [*[2] * 10, 1]


def test_halving_begins_at_what_a_batch_held() -> None:
    network = Failing(lambda: MemoryError(), most=3)
    planes = BatchedPlaneDenoiser(DirectDenoiser(network), "axial", batch_size=32)
    planes(torch.zeros(1, 4, 4, 6), 0.1)
    assert network.sizes == [6, 3, 3]


def test_halving_by_hand_ends_at_single_slices() -> None:
    planes = BatchedPlaneDenoiser(DirectDenoiser(Failing(MemoryError, 99)), "axial", batch_size=5)
    complex_planes = ComplexPlaneDenoiser(planes, "phase", (1.0, 1.0, 1.0))
    assert [complex_planes.halve() for _ in range(3)] == [True, True, False]
    assert complex_planes.batch_size == planes.batch_size == 1
    note = "out of memory: slices of the axial plane denoised 1 at a time instead of 5"
    assert complex_planes.fallbacks == planes.fallbacks == [note]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.92 GB, other allocations: 1.09 GB)"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("could not create a primitive"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_want_of_memory_is_known_by_every_name(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("could not create a primitive descriptor for the convolution forward propagation primitive"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("slice 3 is stored in shared memory"),
        OSError(28, "No space left on device"),
        ValueError("CUDA out of memory"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: str(error)[:40],
)
def test_other_errors_are_not_taken_for_want_of_memory(error: BaseException) -> None:
    assert not is_out_of_memory(error)
    network = Failing(lambda: error, most=0)
    planes = BatchedPlaneDenoiser(DirectDenoiser(network), "axial", batch_size=4)
    with pytest.raises(type(error)) as caught:
        planes(torch.zeros(1, 4, 4, 8), 0.1)
    assert caught.value is error
    assert (network.sizes, planes.batch_size, planes.fallbacks) == ([4], 4, [])


def test_last_error_says_what_was_needed_and_what_is_free() -> None:
    cause = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
    error = out_of_memory_error(cause, MemoryEstimate(1, 2, 3, 4, 5, total=7_250_000_000).summary())
    assert error.exit_code == 6
    assert "the allocation of 2.00 GiB failed" in str(error)
    assert "7.25 GB" in str(error.expected)
    assert "GB free" in str(error.got)
    assert out_of_memory_error(cause).expected is None


class Broken(nn.Module):
    """Makes NaN of the slices whose first value is 3."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.where(x[:, :, :1, :1] == 3.0, torch.nan, x)


def test_not_a_number_made_by_a_network_names_network_slice_and_sigma() -> None:
    x = torch.arange(8.0).repeat(1, 4, 4, 1)
    planes = BatchedPlaneDenoiser(DirectDenoiser(Broken()), "axial", batch_size=2, name="brain")
    with pytest.raises(NumericalError) as caught:
        planes(x, 0.25)
    assert caught.value.where == "network of the axial plane (brain)"
    assert "16 non-finite values for axial slice 3" in caught.value.what
    assert "0.25" in caught.value.what
    low = BatchedPlaneDenoiser(DirectDenoiser(Broken()), "axial", precision="bfloat16")
    with pytest.raises(NumericalError) as caught:
        low(x, 0.25)
    assert caught.value.where == "network of the axial plane"
    assert "precision" in (caught.value.mend or "")


def test_not_a_number_given_to_a_network_is_not_its_fault() -> None:
    x = torch.arange(8.0).repeat(1, 4, 4, 1)
    x[0, 1, 1, 3] = torch.inf
    out = BatchedPlaneDenoiser(DirectDenoiser(Broken()), "axial", batch_size=4)(x, 0.25)
    assert bool(torch.isfinite(out[..., :3]).all())
    assert bool(torch.isnan(out[..., 3]).all())


def test_large_values_whose_sum_overflows_are_finite() -> None:
    x = torch.full((1, 8, 8, 4), 3e38)
    torch.testing.assert_close(BatchedPlaneDenoiser(DirectDenoiser(Broken()), "axial")(x, 0.25), x)
