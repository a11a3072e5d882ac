# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The training config of the bundles, in miniature: interrupted, resumed, and compared with one in one go."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser

from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet
from monai_diffrecon.tracking.mlflow_client import mlflow_module

CONFIG = Path(__file__).parents[2] / "bundles/brain_mr_t1_axial/configs/train.json"
NETWORK = {"channels": [4, 8], "units": 1, "bottleneck_units": 1}
EPOCHS, ITERATIONS = 4, 5


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, empty_store: Callable[[Path], Path]) -> Path:
    root = tmp_path_factory.mktemp("training")
    rng = np.random.Generator(np.random.PCG64(0))
    np.save(root / "a.npy", rng.uniform(0.2, 1.0, (20, 20, 6)).astype(np.float16))
    rows = [{"file": "a.npy", "planes": ["axial"]}]
    (root / "datalist.json").write_text(json.dumps({"training": rows, "validation": rows}))
    for name in ("whole", "parts"):
        empty_store(root / name)
    return root


def trainer(root: Path, name: str) -> Any:
    parser = ConfigParser()
    parser.read_config(str(CONFIG))
    parser.update(
        {
            "device": "cpu",
            "datalist": str(root / "datalist.json"),
            "output_dir": str(root / name),
            "batch_size": 2,
            "epoch_length": ITERATIONS,
            "max_epochs": EPOCHS,
            "decay_epochs": 2,
            "precision": "float32",
            "network_def": {"_target_": "monai_diffrecon.networks.bias_free_unet.BiasFreeUNet", **NETWORK},
            "train#dataset#patch_size": 8,
            "train#handlers#2#warmup": 3,
            "train#handlers#5#patches#patch_size": 16,
            "ema#warmup_iters": 15,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return parser.get_parsed_content("train#trainer")


class PowerCutError(Exception):
    """Whatever may end a training."""


def kill(engine: Any) -> None:
    raise PowerCutError


@pytest.fixture(scope="module")
def trained(root: Path) -> Path:
    trainer(root, "whole").run()
    first = trainer(root, "parts")
    # In the middle of the third epoch: the iterations since its start must be repeated.
    first.add_event_handler(Events.ITERATION_COMPLETED(once=2 * ITERATIONS + 3), kill)
    with pytest.raises(PowerCutError):
        first.run()
    assert runs(root / "parts")[0].info.status == "FAILED"
    trainer(root, "parts").run()
    return root


def runs(folder: Path) -> list[Any]:
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    return client.search_runs([client.get_experiment_by_name("training").experiment_id])


def history(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_resumed_training_gives_the_same_weights_bit_for_bit(trained: Path) -> None:
    whole, parts = (torch.load(trained / name / "checkpoint.pt", weights_only=True) for name in ("whole", "parts"))
    assert whole["epoch"] == parts["epoch"] == EPOCHS
    for kind in ("network", "ema"):
        assert whole[kind].keys() == parts[kind].keys()
        for name, weight in whole[kind].items():
            assert torch.equal(weight, parts[kind][name]), (kind, name)
    moments = [checkpoint["optimizer"]["state"] for checkpoint in (whole, parts)]
    for index, state in moments[0].items():
        assert torch.equal(state["exp_avg_sq"], moments[1][index]["exp_avg_sq"])


@pytest.mark.slow
def test_the_average_is_exported_as_a_plain_state(trained: Path) -> None:
    weights = torch.load(trained / "whole" / "model.pt", weights_only=True)
    ema = torch.load(trained / "whole" / "checkpoint.pt", weights_only=True)["ema"]
    assert all(torch.equal(weights[name], ema[name]) for name in ema)
    assert {w.dtype for w in weights.values()} == {torch.float32}
    BiasFreeUNet(**NETWORK).load_state_dict(weights)


@pytest.mark.slow
def test_it_learns_and_the_average_lags(trained: Path) -> None:
    checkpoint = torch.load(trained / "whole" / "checkpoint.pt", weights_only=True)
    assert any(not torch.equal(checkpoint["network"][k], v) for k, v in checkpoint["ema"].items())
    rows = history(trained / "whole")
    assert rows[-1]["val_psnr_sigma_1"] > rows[0]["val_psnr_sigma_1"]


@pytest.mark.slow
def test_each_noise_level_is_logged_after_each_epoch(trained: Path) -> None:
    rows = history(trained / "whole")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    levels = [f"val_psnr_sigma_{sigma}" for sigma in ("0.01", "0.03", "0.1", "0.3", "1")]
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{trained}/whole/mlflow.db")
    (run,) = runs(trained / "whole")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "brain_mr_t1_axial"
    for name in (*levels, "train_loss"):
        points = client.get_metric_history(run.info.run_id, name)
        assert [point.step for point in points] == [ITERATIONS * epoch for epoch in (1, 2, 3, 4)]
        assert [point.value for point in points] == pytest.approx([row[name] for row in rows])
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["samples.png"]
    assert (trained / "whole" / "samples.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_resumed_training_goes_on_with_its_run(trained: Path) -> None:
    (run,) = runs(trained / "parts")
    assert run.info.status == "FINISHED"
    assert run.info.run_id == (trained / "parts" / "mlflow_run_id.txt").read_text()
    whole, parts = history(trained / "whole"), history(trained / "parts")
    keys = [key for key in whole[0] if key.startswith("val_")]
    assert [[row[k] for k in keys] for row in parts] == [[row[k] for k in keys] for row in whole]


@pytest.mark.slow
def test_a_finished_training_does_nothing_more(trained: Path) -> None:
    before = (trained / "whole" / "model.pt").read_bytes()
    again = trainer(trained, "whole")
    again.run()
    assert again.state.epoch == EPOCHS
    assert again.state.iteration == EPOCHS * ITERATIONS
    assert (trained / "whole" / "model.pt").read_bytes() == before
    assert len(history(trained / "whole")) == EPOCHS
