# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Noise in the order of the published code."""

import pytest
import torch
from torch import Tensor

from diffrecon_published.sequential import Draw, SequentialNoise
from monai_diffrecon.errors import ResumeMismatchError
from monai_diffrecon.noises.independent import IndependentNoise
from monai_diffrecon.testing.noise_laws import check_noise

SHAPE = (1, 5, 6, 7)


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_laws() -> None:
    assert not SequentialNoise.resumable
    assert IndependentNoise.resumable
    check_noise(SequentialNoise)


def test_numbers_are_those_of_torch_after_manual_seed() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        volume, number, after = torch.randn(SHAPE), torch.rand(1), torch.randn(SHAPE)
    source = SequentialNoise(3)
    assert torch.equal(source.volume(SHAPE, 0), volume)
    assert source.uniform(0, stream="turns") == 1.0 - float(number)
    assert source.uniform(0, stream="turns") == 1.0 - float(number)  # asked again, not drawn again
    assert torch.equal(source.volume(SHAPE, 0), after)


def announced(source: SequentialNoise, draws: list[Draw], step: int, plane: str) -> None:
    source.announce(draws, step, shape=SHAPE, plane=plane)


def test_batch_by_batch_and_update_by_update() -> None:
    """Two batches of axial slices, two updates each: the numbers come in that order, asked in any."""
    source, g = SequentialNoise(3), generator()
    draws = [Draw(stream, a, b) for a, b in ((0, 4), (4, 7)) for stream in ("corrector", "predictor")]
    announced(source, draws, 0, "axial")
    pieces = [torch.randn((d.stop - d.first, 1, 5, 6), generator=g) for d in draws]
    predictor, corrector = (source.volume(SHAPE, 0, stream=s) for s in ("predictor", "corrector"))
    assert torch.equal(corrector.permute(3, 0, 1, 2), torch.cat([pieces[0], pieces[2]]))
    assert torch.equal(predictor.permute(3, 0, 1, 2), torch.cat([pieces[1], pieces[3]]))
    assert torch.equal(source.volume(SHAPE, 0, stream="corrector"), corrector)
    assert source.volume(SHAPE, 0, stream="corrector", dtype=torch.float64).dtype == torch.float64
    assert torch.equal(source.volume(SHAPE, 0, stream="other"), torch.randn(SHAPE, generator=g))


def test_numbers_fill_the_memory_as_the_step_before_left_it() -> None:
    """The published code permutes the volume between planes, and torch fills a tensor in the order of its strides."""
    source, g = SequentialNoise(3), generator()
    whole = {"sagittal": Draw("predictor", 0, 5), "axial": Draw("predictor", 0, 7)}
    stored: Tensor | None = None
    for step, plane in enumerate(["sagittal", "axial", "axial", "sagittal"]):
        announced(source, [whole[plane]], step, plane)
        shape = (5, 1, 6, 7) if plane == "sagittal" else (7, 1, 5, 6)
        if stored is None or stored.shape == torch.Size(shape):
            stored = torch.empty(shape)
        else:
            stored = stored.permute((3, 1, 0, 2) if plane == "axial" else (2, 1, 3, 0))
        slices = torch.empty_like(stored).normal_(generator=g)
        volume = slices.permute((1, 0, 2, 3) if plane == "sagittal" else (1, 2, 3, 0))
        assert torch.equal(source.volume(SHAPE, step, stream="predictor"), volume), f"step {step}"
        stored = torch.empty(shape)  # what torch.cat of the batches leaves


def test_a_step_forgets_the_one_before_and_cannot_be_skipped() -> None:
    source = SequentialNoise(3)
    announced(source, [Draw("predictor", 0, 7)], 0, "axial")
    first = source.volume(SHAPE, 0, stream="predictor")
    announced(source, [Draw("predictor", 0, 7)], 1, "axial")
    assert not torch.equal(source.volume(SHAPE, 0, stream="predictor"), first)
    with pytest.raises(ResumeMismatchError) as caught:
        announced(source, [], 5, "axial")
    assert (caught.value.where, caught.value.expected, caught.value.got) == ("noise sequential", "step 2", "step 5")
    assert 'the noise "independent"' in (caught.value.mend or "")
    with pytest.raises(ResumeMismatchError):
        announced(SequentialNoise(3), [], 1, "axial")


def test_complex_noise_is_not_the_announced_real_one() -> None:
    """Both components have unit variance; the announced numbers would leave the imaginary one at 0."""
    source = SequentialNoise(3)
    announced(source, [Draw("predictor", 0, 7)], 0, "axial")
    n = source.volume(SHAPE, 0, stream="predictor", dtype=torch.complex64)
    assert n.dtype == torch.complex64
    assert float(n.imag.std()) == pytest.approx(1.0, abs=0.2)
    assert float(n.real.std()) == pytest.approx(1.0, abs=0.2)
