# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A volume held in slabs by several processes: the volume, record and checkpoints of one process."""

from __future__ import annotations

import pytest

from monai_diffrecon.errors import ConfigError, ResourceError

from .started_jobs import Found, started

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return started("slab_jobs.py", tmp_path_factory.mktemp("slabs"))


@pytest.mark.parametrize(
    ("job", "count"), [("thick_slices", 2), ("thick_slices", 3), ("axial_cuts", 2), ("complex_volume", 3)]
)
def test_same_volume_at_the_first_process(found: Found, job: str, count: int) -> None:
    (alone,) = found(job, 1)
    whole, (first, *others) = alone["volume"], found(job, count)
    assert float((first["volume"] - whole).abs().max()) <= 1e-5 * float(whole.abs().max())
    assert sum(result["volume"].numel() for result in others) < whole.numel()
    execution = dict(first["execution"])
    assert (execution.pop("processes"), execution.pop("slabs")) == (count, count)
    assert {name: execution[name] for name in ("threads", "device", "resumed")} == {
        name: alone["execution"][name] for name in ("threads", "device", "resumed")
    }
    for step, expected in zip(first["steps"], alone["steps"], strict=True):
        assert step["residual"] == pytest.approx(expected["residual"], rel=1e-4, abs=1e-6)
    for name in ("residual_after", "negative_voxels"):
        assert execution.get(name, 0.0) == pytest.approx(alone["execution"].get(name, 0.0), rel=1e-3, abs=1e-6)


def test_each_process_holds_a_part(found: Found) -> None:
    assert all("error" not in result for result in found("parts_only", 2))


@pytest.mark.parametrize("job", ["refused", "too_many_samples", "coupled"])
def test_what_cannot_be_cut_is_refused_by_all(found: Found, job: str) -> None:
    for result in found(job, 2):
        assert (result["where"], result["exit_code"]) == ("inferer#share", ConfigError.exit_code)


def test_a_killed_run_resumes_with_another_number_of_processes(found: Found) -> None:
    first, second = found("killed", 2)
    assert second is None
    assert first["exit_code"] == ResourceError.exit_code
    assert first["seconds"] < 30
    (alone,) = found("axial_cuts", 1)
    volume = found("resumed", 3)[0]["volume"]
    assert found("resumed", 3)[0]["execution"]["resumed"] == 1
    assert float((volume - alone["volume"]).abs().max()) <= 1e-5 * float(alone["volume"].abs().max())
