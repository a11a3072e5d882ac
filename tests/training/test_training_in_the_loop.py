# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Training on the iterates of reconstructions: what is collected, what batches contain, what weights are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from torch import Tensor, nn

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.training.denoising_batch import DenoisingBatch
from monai_diffrecon.training.iterate_buffer import IterateBatch, IterateCollector, IterateRecorder
from monai_diffrecon.training.loop_report import LoopReport
from monai_diffrecon.training.loop_tasks import LoopTasks
from monai_diffrecon.training.slice_patches import SlicePatches

ROOT = Path(__file__).parents[2]
ALL = ["sagittal", "coronal", "axial"]
TASKS = {
    "thick": {
        "task": "z_super_resolution",
        "overrides": {"sampler#steps": 3, "operator#thickness": 4},
        "draw": {"operator#thickness": [2, 4]},
    }
}
AT = SimpleNamespace(state=SimpleNamespace(epoch=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    """A bundle whose network units are those of the files, and volumes whose values say in what section they are."""
    root = tmp_path_factory.mktemp("loop")
    make_bundle(root / "bundle", intensity={"map": "window", "low": 0, "high": 1})
    rng = np.random.Generator(np.random.PCG64(0))
    for name, low in (("training", 0.1), ("thick", 0.3), ("validation", 0.6)):
        np.save(root / f"{name}.npy", rng.uniform(low, low + 0.1, (12, 16, 8)).astype(np.float32))
    rows = {name: {"file": f"{name}.npy", "planes": ALL, "spacing": [1, 1, 1]} for name in ("training", "validation")}
    axial = {"file": "thick.npy", "planes": ["axial"], "spacing": [1, 1, 5]}
    lists = {"training": [rows["training"], axial], "validation": [rows["validation"]], "flat": [axial]}
    (root / "datalist.json").write_text(json.dumps(lists))
    return root


def patches(folder: Path, section: str = "training") -> SlicePatches:
    return SlicePatches(str(folder / "datalist.json"), "any", 16, section=section)


def tasks(folder: Path, **options: Any) -> LoopTasks:
    given = ConfigParser({"network_def": json.loads((folder / "bundle/configs/inference.json").read_text())})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = given.get_parsed_content("network_def#network_def")
    options = {"tasks": TASKS, "size": (8, 16, 8)} | options
    return LoopTasks(str(folder / "bundle"), network.eval(), **options)


def collector(folder: Path, out: Path, **options: Any) -> IterateCollector:
    options = {"rounds": 2, "patch_size": 16} | options
    return IterateCollector(tasks(folder), patches(folder), str(out), **options)


def files(out: Path) -> dict[str, dict[str, Tensor]]:
    return {path.name: torch.load(path, weights_only=True) for path in sorted(out.glob("*.pt"))}


def test_only_training_subjects_are_learned_from(folder: Path, tmp_path: Path) -> None:
    collector(folder, tmp_path)(AT)
    for kept in files(tmp_path).values():
        clean = kept["pairs"][:, 1]
        assert 0.09 < float(clean[clean > 0].min()) <= float(clean.max()) < 0.21
    with pytest.raises(ConfigError) as caught:
        IterateCollector(tasks(folder), patches(folder, "validation"), str(tmp_path))
    assert (caught.value.expected, caught.value.got) == ("section training", "validation")
    with pytest.raises(ConfigError) as caught:
        LoopReport(tasks(folder), patches(folder), str(tmp_path), ())
    assert (caught.value.where, caught.value.got) == ("LoopReport#patches", "training")
    with pytest.raises(InputError) as missing:
        patches(folder, "flat").whole()
    assert missing.value.got == "flat"


def test_what_is_kept_is_what_the_network_was_given(folder: Path) -> None:
    loop, given = tasks(folder), []
    loop.network.register_forward_pre_hook(lambda _, inputs: given.append((inputs[0], inputs[1])))
    case = loop.case("thick", patches(folder).images[0])
    recorder = IterateRecorder(case.truth, np.random.Generator(np.random.PCG64(0)), patch_size=16, per_call=4)
    case.reconstruct(recorder)
    kept = recorder.content()
    assert kept["pairs"].shape == (3 * 4, 2, 16, 16)
    for (noisy, clean), sigma in zip(kept["pairs"].float(), kept["sigma"], strict=True):
        found = []
        for batch, levels in given:
            for x, level in zip(batch[:, 0], levels.reshape(-1).expand(len(batch)), strict=True):
                top, left = ((16 - n) // 2 for n in x.shape)
                inner = noisy[top : top + x.shape[0], left : left + x.shape[1]]
                found.append(bool(torch.isclose(inner, x, atol=2e-3).all()) and float(level) == pytest.approx(sigma))
        assert any(found)
        assert 0 < float((noisy - clean).square().mean().sqrt()) < 0.2


@pytest.mark.slow
def test_settings_and_place_are_drawn_in_training_only(folder: Path) -> None:
    loop, volume = tasks(folder), patches(folder).images[0]
    shapes = set()
    for seed in range(8):
        case = loop.case("thick", volume, np.random.Generator(np.random.PCG64(seed)))
        shapes.add(tuple(case.posed.posed.problem.measurement.shape))
    assert shapes == {(1, 8, 16, 4), (1, 8, 16, 2)}
    case = loop.case("thick", volume)
    assert case.posed.posed.problem.measurement.shape == (1, 8, 16, 2)  # slices of 4 mm, as the task says
    assert np.array_equal(case.truth[0].numpy(), volume.voxels[2:10])
    with pytest.raises(ConfigError) as caught:
        tasks(folder, tasks={"a": {"task": "z_super_resolution", "other": 1}})
    assert (caught.value.where, caught.value.got) == ("loop task a", "other")


@pytest.mark.slow
def test_an_interrupted_collection_is_completed_as_it_would_have_been(folder: Path, tmp_path: Path) -> None:
    collect = collector(folder, tmp_path)
    collect(AT)
    whole = files(tmp_path)
    assert list(whole) == ["00000000.pt", "00000001.pt"]
    (tmp_path / "00000001.pt").unlink()
    collect(AT)
    again = files(tmp_path)
    assert all(torch.equal(again[name][key], kept[key]) for name, kept in whole.items() for key in kept)
    assert not torch.equal(whole["00000000.pt"]["pairs"], whole["00000001.pt"]["pairs"])


@pytest.mark.slow
def test_the_oldest_iterates_are_removed(folder: Path, tmp_path: Path) -> None:
    collector(folder, tmp_path)(AT)
    size = max(path.stat().st_size for path in tmp_path.glob("*.pt"))
    collect = collector(folder, tmp_path, limit_gb=3.5 * size / 1e9)
    collect(SimpleNamespace(state=SimpleNamespace(epoch=2)))
    assert list(files(tmp_path)) == ["00000001.pt", "00000002.pt", "00000003.pt"]


def test_a_batch_has_white_noise_and_iterates(tmp_path: Path) -> None:
    clean = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batch, white = IterateBatch(str(tmp_path), 0.5, seed=3), DenoisingBatch(seed=3)
    assert torch.equal(batch(clean)[0], white(clean)[0])  # before anything was collected
    pairs = torch.arange(6.0).reshape(3, 2, 1, 1).expand(3, 2, 8, 8).half().contiguous()
    torch.save({"pairs": pairs, "sigma": torch.tensor([0.1, 0.2, 0.3])}, tmp_path / "0.pt")
    batch.iteration = white.iteration = 5
    noisy, target, _, options = batch(clean)
    assert noisy.shape == (6, 1, 8, 8)
    assert torch.equal(noisy[:4], white(clean)[0])
    assert torch.equal(options["sigma"], target["sigma"])
    for x, truth, sigma in zip(noisy[4:], target["clean"][4:], target["sigma"][4:], strict=True):
        assert float(truth.mean()) == float(x.mean()) + 1
        assert float(sigma) == pytest.approx(0.1 * (1 + float(x.mean()) / 2))
    assert torch.equal(batch(clean)[0], noisy)


def test_weights_are_kept_by_the_reconstructions(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    loop = tasks(folder)
    report = LoopReport(loop, patches(folder, "validation"), str(tmp_path), [loop.network], every=1)
    engine = SimpleNamespace(state=SimpleNamespace(epoch=0), optimizer=SimpleNamespace(state={"moments": 1}))
    weight = next(loop.network.parameters())

    def validated(epoch: int, a: float, b: float) -> tuple[bool, bool]:
        monkeypatch.setattr(report, "evaluate", lambda: {"mean": (a + b) / 2, "psnr": {"a": a, "b": b}})
        nn.init.constant_(weight, epoch)
        engine.state.epoch = epoch
        (report if epoch else report.start)(engine)
        row = report.history[-1]
        assert row["epoch"] == epoch
        return row["kept"], row.get("went_back", False)

    assert validated(0, 30.0, 25.0) == (True, False)
    assert validated(1, 30.4, 24.98) == (True, False)
    assert validated(2, 31.0, 24.9) == (False, False)  # a higher mean, but a task lost more than 0.05 dB
    assert validated(3, 30.2, 25.0) == (False, False)
    assert float(weight.detach().mean()) == 3
    assert torch.load(tmp_path / "best.pt", weights_only=True).popitem()[1].isfinite().all()
    assert validated(4, 28.0, 25.0) == (False, True)
    assert float(weight.detach().mean()) == 1
    assert engine.optimizer.state == {}
    assert validated(5, float("nan"), 25.0) == (False, True)
    assert validated(5, 30.5, 25.0) == (True, False)  # an epoch that was repeated
    assert [row["epoch"] for row in report.history] == [0, 1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_task_that_is_left_out_is_no_part_of_the_mean(folder: Path, tmp_path: Path) -> None:
    both = {"thick": TASKS["thick"], "mean": {"task": "z_super_resolution", "overrides": {"sampler": "cubic"}}}
    loop = tasks(folder, tasks=both)
    report = LoopReport(loop, patches(folder, "validation"), str(tmp_path), (), left_out=["mean"])
    row = report.evaluate()
    assert row["mean"] == row["psnr"]["thick"] != row["psnr"]["mean"]
    case = loop.case("mean", patches(folder, "validation").images[0])
    error = (case.reconstruct() - case.truth).square().mean()
    assert row["psnr"]["mean"] == pytest.approx(float(-10 * error.log10()))
    with pytest.raises(ConfigError) as caught:
        LoopReport(loop, patches(folder, "validation"), str(tmp_path), (), left_out=["other"])
    assert caught.value.got == "other"


def trainer(folder: Path, name: str, out: Path) -> Any:
    bundle = json.loads((folder / "bundle/configs/inference.json").read_text())
    parser = ConfigParser()
    overlays = [ROOT / f"scripts/training/{name}{part}.json" for part in ("", "_loop")]
    parser.read_config([str(folder / "bundle/configs/train.json"), *map(str, overlays)])
    parser.update(
        {
            "device": "cpu",
            "bundle_root": str(folder / "bundle"),
            "datalist": str(folder / "datalist.json"),
            "output_dir": str(out),
            "network_def": bundle["network_def"],
            "batch_size": 2,
            "epoch_length": 3,
            "max_epochs": 2,
            "sub_volume": [12, 12, 8],
            "train#dataset#patch_size": 16,
            "train#handlers#5#patches#patch_size": 16,
            "loop#collector#patch_size": 16,
            "loop#collector#rounds": 1,
            "loop#report#every": 2,
            **{f"loop#{part}#tasks#tasks": TASKS for part in ("collector", "report")},
            "loop#report#left_out": [],
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return parser.get_parsed_content("train#trainer")


class PowerCutError(Exception):
    """Whatever may end a training."""


def cut(engine: Any) -> None:
    raise PowerCutError


@pytest.mark.slow
@pytest.mark.parametrize("name", ["body_ct", "brain_mr"])
def test_an_interrupted_training_goes_on_as_one_in_one_go(
    folder: Path, tmp_path: Path, name: str, empty_store: Callable[[Path], Path]
) -> None:
    outs = [empty_store(tmp_path / out) for out in ("whole", "parts")]
    trainer(folder, name, outs[0]).run()
    first = trainer(folder, name, outs[1])
    first.add_event_handler(Events.ITERATION_COMPLETED(once=5), cut)
    with pytest.raises(PowerCutError):
        first.run()
    trainer(folder, name, outs[1]).run()
    whole, parts = (torch.load(out / "checkpoint.pt", weights_only=True) for out in outs)
    assert whole["epoch"] == parts["epoch"] == 2
    for kind in ("network", "ema"):
        assert all(torch.equal(value, parts[kind][key]) for key, value in whole[kind].items())
    histories = [[json.loads(line) for line in (out / "loop_history.jsonl").read_text().splitlines()] for out in outs]
    assert histories[0] == histories[1]
    assert [row["epoch"] for row in histories[0]] == [0, 2]
    assert len(files(outs[0] / "iterates")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["body_ct", "brain_mr"])
def test_the_committed_tasks_are_those_of_the_bundles(name: str) -> None:
    overlay = json.loads((ROOT / f"scripts/training/{name}_loop.json").read_text())["loop"]
    collected, judged = (overlay[part]["tasks"]["tasks"] for part in ("collector", "report"))
    assert set(judged) - set(collected) == set(overlay["report"]["left_out"])
    assert all({k: v for k, v in task.items() if k != "draw"} == judged[key] for key, task in collected.items())
    bundle = ROOT / "bundles" / {"body_ct": "body_ct_axial", "brain_mr": "brain_mr_t1_axial"}[name]
    network = ConfigParser(json.loads((bundle / "configs/inference.json").read_text())).get_parsed_content(
        "network_def"
    )
    assert set(LoopTasks(str(bundle), network, collected).tasks) < set(LoopTasks(str(bundle), network, judged).tasks)
