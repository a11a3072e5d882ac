# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""One volume by several processes: the same bits, and no process that waits for one that has failed."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from monai_diffrecon import distributed
from monai_diffrecon.errors import ConfigError, DiffReconError, PluginError, ResourceError

from .started_jobs import Found, started


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return started("rank_jobs.py", tmp_path_factory.mktemp("ranks"))


@pytest.mark.slow
@pytest.mark.parametrize("job", ["real", "flips", "complex_samples", "guided"])
def test_any_number_of_processes_gives_the_same_bits(found: Found, job: str) -> None:
    (alone,) = found(job, 1)
    assert "processes" not in alone["execution"]
    for count in (2, 3):
        for result in found(job, count):
            assert torch.equal(result["volume"], alone["volume"])
            assert result["execution"]["processes"] == count


@pytest.mark.slow
def test_a_process_that_is_short_of_memory_tries_again_alone(found: Found) -> None:
    (alone,) = found("real", 1)
    for result in found("short_of_memory", 2):
        torch.testing.assert_close(result["volume"], alone["volume"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("job", "kind"), [("broken_network", PluginError), ("other_input", ConfigError)])
def test_a_failure_of_one_process_ends_all(found: Found, job: str, kind: type[DiffReconError]) -> None:
    first, second = found(job, 2)
    assert first["where"] == "process 1"
    assert second["where"] != "process 1"
    assert second["error"] == kind.__name__
    assert first["exit_code"] == second["exit_code"] == kind.exit_code


@pytest.mark.slow
def test_when_memory_never_suffices_all_processes_say_so(found: Found) -> None:
    for result in found("never_enough_memory", 2):
        assert (result["error"], result["where"]) == ("ResourceError", "inferer")


@pytest.mark.slow
def test_a_failing_handler_of_the_first_process_ends_all(found: Found) -> None:
    first, second = found("broken_handler", 2)
    assert first["error"] == "OSError"
    assert (second["error"], second["where"]) == ("ResourceError", "process 0")


@pytest.mark.slow
def test_of_a_cohort_the_first_process_writes_each_case_and_all_go_on_after_a_failure(found: Found) -> None:
    first, second = found("cohort_said", 2)
    assert first["done"] == ["a"]
    assert second["done"] == []
    assert (len(first["failures"]), len(second["failures"])) == (2, 1)
    assert first["failures"][1] == "process 1"


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_the_run_resumes_with_another_number(found: Found) -> None:
    first, second = found("killed", 2)
    assert second is None
    assert (first["error"], first["exit_code"]) == ("ResourceError", ResourceError.exit_code)
    assert first["seconds"] < 30.0
    (alone,) = found("real", 1)
    for result in found("resumed", 3):
        assert torch.equal(result["volume"], alone["volume"])
        assert result["execution"]["resumed"] == 1
        assert [row["step"] for row in result["steps"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 180])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_are_whole_batches_in_order(count: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "processes", lambda: size)
    ranges = distributed.share(count, 8)
    assert (ranges[0][0], ranges[-1][1], len(ranges)) == (0, count, size)
    assert all(end == start for (_, end), (start, _) in pairwise(ranges))
    assert all(first % 8 == 0 or first == count for first, _ in ranges)
    sizes = [-(-(end - first) // 8) for first, end in ranges]
    assert max(sizes) - min(sizes) <= 1 or count == 9
    assert count == 1 or all(end - first != 1 for first, end in ranges)  # other kernels compute a single slice
