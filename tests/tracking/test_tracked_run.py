# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from monai_diffrecon.errors import ConfigError, InputError, ResourceError
from monai_diffrecon.tracking import export_run
from monai_diffrecon.tracking.export_run import TrackedRun
from monai_diffrecon.tracking.mlflow_client import flatten, mlflow_module


def _strict(folder: Path, name: str, **options: Any) -> TrackedRun:
    return TrackedRun(folder, name, required=True, **options)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module: making one costs seconds."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def client(store: Path) -> Any:
    with _strict(store, "first"):
        pass
    return mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{store}/mlflow.db")


@pytest.mark.slow
def test_a_finished_run_holds_what_was_logged(
    store: Path, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("artifact")
    with _strict(store, "case-1", tags={"method": "ddim"}) as run:
        run.log_params({"sampler": {"name": "ddim", "steps": 20}, "image": "/home/Doe/x.nii", "prior#K": [1, 2]})
        for step in range(3):
            run.log_metrics({"residual": 1.0 / (step + 1), "sigma": float(step)}, step=step)
        run.log_metrics({"psnr": 31.5})
        run.log_artifact(tmp_path / "a.txt")
        run.log_artifact(tmp_path / "a.txt", "task")
        assert client.get_run(run.run_id).info.status == "RUNNING"
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "case-1"
    assert found.data.params == {
        "sampler.name": "ddim",
        "sampler.steps": "20",
        "image": "<path>",
        "prior_K": "[1, 2]",
    }
    assert found.data.metrics["psnr"] == 31.5
    assert found.data.tags["method"] == "ddim"
    history = client.get_metric_history(run.run_id, "residual")
    assert [(m.step, m.value) for m in history] == [(0, 1.0), (1, 0.5), (2, 1.0 / 3)]
    assert found.info.artifact_uri.startswith((store / "mlartifacts").as_uri())
    assert [f.path for f in client.list_artifacts(run.run_id)] == ["a.txt", "task"]
    assert [f.path for f in client.list_artifacts(run.run_id, "task")] == ["task/a.txt"]
    # Nothing in the working directory, no active run, no user's name.
    assert os.listdir(tmp_path) == ["a.txt"]
    assert mlflow_module().active_run() is None
    assert "mlflow.user" not in found.data.tags


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("Doe"), "FAILED"),
        (InputError("bad"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(1), "KILLED"),
    ],
)
def test_an_ended_run_says_how_and_keeps_its_numbers(
    store: Path, client: Any, error: BaseException, status: str
) -> None:
    run = _strict(store, "case-2")

    def case() -> NoReturn:
        with run:
            run.log_metrics({"residual": 0.25}, step=4)
            raise error

    with pytest.raises(type(error)):
        case()
    found = client.get_run(run.run_id)
    assert found.info.status == status
    assert found.data.metrics == {"residual": 0.25}
    assert found.data.tags["error"] == type(error).__name__
    assert "Doe" not in str(found.data.tags)


def test_nested_runs_do_not_touch_each_other(store: Path, client: Any) -> None:
    with _strict(store, "cohort") as cohort:
        with (
            pytest.raises(ValueError, match="crash"),
            _strict(store, "a", parent_run_id=cohort.run_id) as one,
        ):
            raise ValueError("crash")
        with _strict(store, "b", parent_run_id=cohort.run_id) as two:
            two.log_metrics({"psnr": 1.0})
    assert len({cohort.run_id, one.run_id, two.run_id}) == 3
    assert client.get_run(one.run_id).data.metrics == {}
    assert client.get_run(two.run_id).data.tags["mlflow.parentRunId"] == cohort.run_id
    states = [client.get_run(r.run_id).info.status for r in (cohort, one, two)]
    assert states == ["FINISHED", "FAILED", "FINISHED"]


def test_numbers_travel_in_batches(store: Path, client: Any) -> None:
    with _strict(store, "long") as run:
        sent = []
        log_batch = run._client.log_batch
        run._client.log_batch = lambda *a, **k: (sent.append(len(k["metrics"])), log_batch(*a, **k))
        for step in range(1250):
            run.log_metrics({"a": step, "b": -step}, step)
        run.flush()
    assert sum(sent) == 2500
    assert max(sent) <= 1000
    assert len(sent) <= 4
    assert len(client.get_metric_history(run.run_id, "b")) == 1250


def test_many_and_long_params(store: Path, client: Any) -> None:
    with _strict(store, "params") as run:
        run.log_params({f"p{i}": i for i in range(230)} | {"long": "x" * 20000})
    params = client.get_run(run.run_id).data.params
    assert len(params) == 231
    assert len(params["long"]) == 6000
    assert params["long"].endswith("x...")


def test_a_run_can_be_continued(store: Path, client: Any) -> None:
    with _strict(store, "training") as first:
        first.log_metrics({"loss": 2.0}, step=1)
    with _strict(store, "training", run_id=first.run_id) as second:
        assert client.get_run(first.run_id).info.status == "RUNNING"
        second.log_metrics({"loss": 1.0}, step=2)
    assert second.run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "FINISHED"
    assert [m.value for m in client.get_metric_history(first.run_id, "loss")] == [2.0, 1.0]
    with pytest.raises(InputError) as caught, _strict(store, "x", run_id="0" * 32):
        pass
    assert (caught.value.where, caught.value.got) == ("run_id", "0" * 32)


def test_a_lost_store_fails_the_run_but_hides_no_error(
    store: Path, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException

    def broken(*_: object, **__: object) -> None:
        raise MlflowException("database is locked")

    def case(run: TrackedRun, error: Exception | None) -> None:
        with run:
            run.log_metrics({"a": 1.0})
            run._client.log_batch = broken
            if error:
                raise error

    run = _strict(store, "lost")
    with pytest.raises(ResourceError) as caught:
        case(run, None)
    assert (caught.value.where, caught.value.got) == ("tracking", "database is locked")
    assert client.get_run(run.run_id).info.status == "FAILED"
    run = _strict(store, "lost")
    with pytest.raises(ValueError, match="the real reason"):
        case(run, ValueError("the real reason"))
    assert "not fully tracked" in caplog.text
    assert client.get_run(run.run_id).info.status == "FAILED"


def test_faults(store: Path, client: Any) -> None:
    run = _strict(store, "x")
    assert run.run_id is None
    with pytest.raises(ConfigError) as caught:
        run.log_params({"a": 1})
    assert caught.value.where == "TrackedRun"
    with run:
        run.log_params({"a": 1})
        with pytest.raises(ResourceError) as caught:
            run.log_params({"a": 2})
        assert caught.value.where == "tracking"
    with pytest.raises(InputError) as caught, _strict(store, "y") as other:
        other.log_artifact(store / "missing.png")
    assert caught.value.where == "artifact missing.png"
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(ConfigError) as caught, _strict(store, "z", experiment="gone"):
        pass
    assert (caught.value.where, caught.value.got) == ("experiment", "'gone'")


def test_flatten() -> None:
    nested = {"a": {"b": 1, "c": {"d": "x"}}, "e": [1, "y"], "f": [{"g": None}], "h": {}}
    assert flatten(nested) == {"a.b": "1", "a.c.d": "x", "e": '[1, "y"]', "f.0.g": "null", "h": "{}"}


def test_a_run_of_which_something_was_refused_never_says_finished(store: Path, client: Any) -> None:
    with _strict(store, "x") as run:
        run.log_params({"a": 1})
        with pytest.raises(ResourceError) as caught:
            run.log_params({"a": 2})
        assert caught.value.where == "tracking"
        run.log_metrics({"later": 1.0})
    found = client.get_run(run.run_id)
    assert (found.info.status, found.data.tags["error"]) == ("FAILED", "tracking incomplete")
    assert found.data.metrics == {"later": 1.0}


def test_a_tolerant_run_is_tracked_like_any_other(store: Path, client: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("artifact")
    with TrackedRun(store, "tolerant", tags={"case": "1"}) as run:
        run.log_params({"a": {"b": 1}})
        run.log_metrics({"psnr": 1.0}, step=2)
        run.log_metrics({"ssim": 0.5})
        run.set_tags({"computed": "true"})
        run.log_artifact(tmp_path / "a.txt", "folder")
        run.log_dataset("cohort", "ab" * 32, {"cases": 1})
        run.flush()
        assert client.get_run(run.run_id).data.metrics == {"psnr": 1.0, "ssim": 0.5}
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"a.b": "1"}
    assert {"case": "1", "computed": "true"}.items() <= found.data.tags.items()
    assert [f.path for f in client.list_artifacts(run.run_id, "folder")] == ["folder/a.txt"]
    assert found.inputs.dataset_inputs[0].dataset.name == "cohort"
    assert run.problems == ()


def test_a_value_that_cannot_be_logged_stops_no_reconstruction(store: Path, client: Any) -> None:
    with TrackedRun(store, "tolerant") as run:
        run.log_artifact(store / "missing.png")
        assert run.problems == ("not fully tracked: no such file",)
        run.log_params({"a": 1})
    found = client.get_run(run.run_id)
    assert (found.info.status, found.data.params) == ("FAILED", {})


def test_what_is_not_tracked_does_nothing(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path / "none", "x", track=False, required=True)
    run.log_params({"a": 1})
    with run:
        run.log_params({"a": 1})
        run.log_metrics({"a": 1.0})
        run.set_tags({"a": 1})
        run.log_artifact(tmp_path / "missing")
        run.log_dataset("cohort", "ab" * 32, {})
        run.flush()
    assert (run.run_id, run.problems) == (None, ())
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="passes"), TrackedRun(tmp_path, "x", track=False):
        raise ValueError("passes")


def test_numbers_are_seen_while_the_run_is_open(store: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_run, "_FLUSH_SECONDS", 0.0)
    with TrackedRun(store, "live") as run:
        for step in range(1, 4):
            run.log_metrics({"residual": 1.0 / step}, step=step)
            seen = client.get_metric_history(run.run_id, "residual")
            assert [(m.step, m.value) for m in seen] == [(s, 1.0 / s) for s in range(1, step + 1)]
        assert client.get_run(run.run_id).info.status == "RUNNING"


@pytest.mark.parametrize("required", [False, True])
def test_the_users_own_error_is_never_named_as_the_cause_of_a_fault(
    store: Path, required: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> NoReturn:
        raise ConnectionError("lost")

    def case() -> NoReturn:
        with run:
            run.log_metrics({"a": 1.0})
            run._client.log_batch = run._client.set_terminated = broken
            raise FileNotFoundError("Doe.nii")

    run = TrackedRun(store, "both", required=required)
    with pytest.raises(FileNotFoundError):
        case()
    assert run.problems == ("not fully tracked: MLflow refused (ConnectionError)",)
    assert "Doe" not in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.slow
def test_telemetry_is_off_even_when_mlflow_was_imported_first(tmp_path: Path) -> None:
    code = """
import mlflow
from mlflow.telemetry import get_telemetry_client
assert get_telemetry_client() is not None  # or this test shows nothing
from monai_diffrecon.tracking.mlflow_client import flatten, mlflow_module
mlflow_module()
assert get_telemetry_client() is None
"""
    # MLflow has telemetry off in CI and tests, by their variables.
    environment = {k: os.environ[k] for k in ("PATH", "LD_LIBRARY_PATH") if k in os.environ} | {"HOME": str(tmp_path)}
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
