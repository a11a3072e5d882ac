# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Samples by several processes: the bits, costs and checkpoints of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.errors import ConfigError, PluginError, ResourceError

from ...raising import raises
from ..tiny_networks import SCORE
from .started_jobs import Found, started


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return started("sample_jobs.py", tmp_path_factory.mktemp("samples"))


def same(result: dict[str, Any], alone: dict[str, Any]) -> bool:
    """Say whether mean, spread and samples have the same bits."""

    def tensors(of: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        spread = of["spread"]
        return of["volume"], spread.std, spread.std_measured, spread.std_null, *spread.samples

    pairs = list(zip(tensors(result), tensors(alone), strict=True))
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize(("job", "counts"), [("samples", (2, 3)), ("real_samples", (2,))])
def test_any_number_of_processes_gives_the_same_samples_mean_and_spread(
    found: Found, job: str, counts: tuple[int, ...]
) -> None:
    (alone,) = found(job, 1)
    assert alone["volume"].is_complex() == (job == "samples")
    assert len(alone["spread"].samples) == 4
    for count in counts:
        for result in found(job, count):
            assert same(result, alone)
            assert result["execution"] == {**alone["execution"], "processes": count}
            for name in ("denoiser_calls", "network_calls", "ladder", "steps", "fallbacks"):
                assert getattr(result["report"], name) == getattr(alone["report"], name), name


@pytest.mark.slow
def test_fewer_samples_than_processes_share_out_slices_and_one_warning_says_so(found: Found) -> None:
    results = found("few_samples", 3)
    assert [len(result["report"].notices) for result in results] == [1, 0, 0]
    (alone,) = found("samples", 1)
    for result in results:
        assert all(
            torch.equal(a, b) for a, b in zip(result["spread"].samples, alone["spread"].samples[:2], strict=True)
        )
    # Of every network call of a process, the other two have done others.
    assert results[0]["report"].network_calls < alone["report"].network_calls / 4


@pytest.mark.slow
def test_a_sample_that_fails_in_one_process_ends_all(found: Found) -> None:
    first, second = found("broken_sample", 2)
    assert first["where"] == "process 1"
    assert second["where"] != "process 1"
    assert first["exit_code"] == second["exit_code"] == PluginError.exit_code


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed", "rank", "count", "job"), [("second", 1, 1, "real_samples"), ("first", 0, 3, "samples")]
)
def test_a_killed_run_resumes_with_another_number_of_processes(
    found: Found, killed: str, rank: int, count: int, job: str
) -> None:
    results = found(f"{killed}_killed", 2)
    assert results.pop(rank) is None
    assert results[0]["exit_code"] == ResourceError.exit_code
    (alone,) = found(job, 1)
    for result in found(f"after_{killed}", count):
        assert same(result, alone)
        assert result["execution"]["resumed"] == 1
        assert result["report"].network_calls == alone["report"].network_calls


def test_something_else_to_share_out_is_refused() -> None:
    with raises(ConfigError, where="inferer#share", got="'rows'"):
        DiffReconInferer(SCORE, "slice_thickness", share="rows")
