# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Loading networks from bundles, and the committed bundles."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import verify_metadata, verify_net_in_out

from monai_diffrecon.bundle.metadata import read_metadata
from monai_diffrecon.bundle.score_network import load_auxiliaries, load_score_network
from monai_diffrecon.errors import ConfigError, InputError, IntegrityError
from monai_diffrecon.networks.bias_free_unet import BiasFreeUNet
from monai_diffrecon.numerics.hashing import sha256_file
from monai_diffrecon.numerics.pixel_range import PixelRange

from ..raising import raises

BUNDLES = Path(__file__).parents[2] / "bundles"
SCHEMA = Path(__file__).parents[1] / "data" / "meta_schema_20240725.json"
PAIRS = [(f"{name}_axial", f"{name}_coronal") for name in ("brain_mr_t1", "body_ct", "head_mr_t1_2mm")]
ONE_NETWORK = ("brain_mr", "body_ct", "body_mr", "materials_ct", "head_mr_t1_2mm")
SUCCESSORS = {f"brain_mr_t1_{plane}": "brain_mr" for plane in ("axial", "coronal")}
SUCCESSORS |= {f"{name}_{plane}": name for name in ("body_ct", "head_mr_t1_2mm") for plane in ("axial", "coronal")}
COMMITTED = [*ONE_NETWORK, *(name for pair in PAIRS for name in pair)]


@pytest.fixture
def bundle(tmp_path: Path, make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(tmp_path / "axial")


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


def test_a_network_with_all_that_is_known_of_it(bundle: Path) -> None:
    score = load_score_network(bundle)
    assert (score.name, score.version, score.plane) == ("axial", "0.1.0", "axial")
    assert score.spacing == (1.0, 1.0)
    assert score.window is None
    assert score.intensity == {"map": "percentile", "q": 99.5}
    assert score.denoiser == {"name": "direct", "sigma_min": 0.003, "sigma_max": 2.0}
    assert score.sha256 == sha256_file(bundle / "models/model.pt")
    assert not score.network.training
    weights = torch.load(bundle / "models/model.pt", weights_only=True)
    for name, parameter in score.network.named_parameters():
        assert parameter.dtype == torch.float32
        assert not parameter.requires_grad
        assert torch.equal(parameter, weights[name].float())


def test_a_given_network_is_filled(bundle: Path) -> None:
    network = BiasFreeUNet(channels=[4, 8], units=1, bottleneck_units=1)
    score = load_score_network(bundle, network, device="cpu")
    assert score.network is network
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(network(x), load_score_network(bundle).network(x))


def test_the_window_of_the_metadata(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    assert load_score_network(make_bundle(tmp_path / "b", window=[64, 48])).window == (64, 48)


def test_changed_weights_are_refused(bundle: Path) -> None:
    path = bundle / "models/model.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with raises(IntegrityError, where="bundle axial, models/model.pt", got=...) as caught:
        load_score_network(bundle)
    assert caught.value.exit_code == 4


def test_missing_weights(bundle: Path) -> None:
    (bundle / "models/model.pt").unlink()
    with raises(InputError, where="bundle axial", got="no such file", expected="models/model.pt") as caught:
        load_score_network(bundle)
    assert caught.value.exit_code == 2


def test_weights_of_another_network(bundle: Path) -> None:
    with raises(InputError, where="bundle axial, network_def"):
        load_score_network(bundle, BiasFreeUNet(channels=[4, 12], units=1, bottleneck_units=1))


@pytest.mark.parametrize(
    ("change", "where", "got"),
    [
        (lambda m: m.pop("diffrecon"), "configs/metadata.json#diffrecon", "without plane, spacing, intensity, denois"),
        (lambda m: m["diffrecon"].pop("intensity"), "configs/metadata.json#diffrecon", "without intensity"),
        (lambda m: m["diffrecon"]["weights"].pop("sha256"), "diffrecon#weights#sha256", "none"),
        (lambda m: m["diffrecon"]["weights"].update(sha256=""), "diffrecon#weights#sha256", "''"),
        (lambda m: m["diffrecon"].update(weights="model.pt"), "diffrecon#weights", "str"),
    ],
)
def test_incomplete_metadata(bundle: Path, change: Callable[[dict[str, Any]], object], where: str, got: str) -> None:
    edit(bundle, change)
    with pytest.raises(InputError) as caught:
        read_metadata(bundle)
    assert caught.value.where == f"bundle axial, {where}"
    assert str(caught.value.got).startswith(got)


def test_an_unknown_plane(bundle: Path) -> None:
    edit(bundle, lambda m: m["diffrecon"].update(plane="frontal"))
    with pytest.raises(ConfigError) as caught:
        read_metadata(bundle)
    assert (caught.value.where, caught.value.got) == ("bundle axial, diffrecon#plane", "'frontal'")


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("spacing", [1.0, "1x1", [1.0], [1.0, 0.0], [1.0, None], [1.0, float("nan")], {}, [1.0, "1"], [True, 1]]),
        ("spacing", [[1.0, 10**400], [1.0, float("inf")], [1, 1, 1]]),
        (
            "spacing_range",
            [0.5, "0.4 to 2", [0.5], [0.0, 2.0], [0.5, None], [2.0, 0.5], [0.5, float("inf")], [1, 1, 1]],
        ),
        ("spacing_ratio", [0.9, "2", None, float("nan"), [2.5], True]),
        ("denoiser", ["direct", None, {}, {"name": 3}, [1]]),
        ("intensity", ["percentile", {}, {"map": ["window"]}, {"map": "percentile", "q": 0}, {"map": "window"}]),
        ("intensity", [{"map": "window", "low": 1, "high": 0}, {"map": "percentile", "low": 1}]),
        ("intensity", [{"map": "window", "low": -1e308, "high": 1e308}, {"map": "percentile", "q": "99"}]),
        ("window", [64, [64], [0, 64], [64.0, 64.0], "64", {}, [True, 64], [64, 64, 64]]),
        ("anatomy", [3, ["head"], {}]),
        ("auxiliary", [3, ["../coronal"], ["a", 3], {"a": 1}]),
        ("successor", [3, "", "../brain_mr", ["brain_mr"], {"name": "brain_mr"}]),
    ],
)
def test_metadata_of_the_wrong_type_is_refused(bundle: Path, key: str, values: list[Any]) -> None:
    for value in values:
        edit(bundle, lambda m, v=value: m["diffrecon"].update({key: v}))  # type: ignore[misc]
        with pytest.raises(ConfigError) as caught:
            load_score_network(bundle)
        assert str(caught.value.where).startswith(f"bundle axial, diffrecon#{key}"), value
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"spacing": [1.0, 1.2]}, (1.0, 1.2)),
        ({"spacing": [1.0, 1.2], "spacing_range": None}, (1.0, 1.2)),
        ({"spacing_range": [0.4, 2]}, (0.4, 2.0, 2.5)),
        ({"spacing_range": [1, 1], "spacing_ratio": 1, "spacing": None}, (1.0, 1.0, 1.0)),
    ],
)
def test_one_voxel_size_or_a_range(bundle: Path, said: dict[str, Any], expected: tuple[float, ...]) -> None:
    edit(bundle, lambda m: (m["diffrecon"].pop("spacing"), m["diffrecon"].update(said)))
    score = load_score_network(bundle)
    assert tuple(score.spacing) == expected
    assert isinstance(score.spacing, PixelRange) == (len(expected) == 3)


@pytest.mark.parametrize("said", [{"spacing": [1, 1], "spacing_range": [0.4, 2]}, {"spacing_range": None}])
def test_both_or_neither_is_refused(bundle: Path, said: dict[str, Any]) -> None:
    edit(bundle, lambda m: (m["diffrecon"].pop("spacing"), m["diffrecon"].update(said)))
    with raises(ConfigError, where="bundle axial, diffrecon#spacing_range", expected="either spacing or spacing_range"):
        load_score_network(bundle)


@pytest.mark.parametrize("value", [None, [], {"inputs": 3}, {"inputs": {"image": {"num_channels": "1"}}}])
def test_channels_of_the_wrong_type_are_refused(bundle: Path, value: Any) -> None:
    edit(bundle, lambda m: m.update(network_data_format=value))
    with pytest.raises(ConfigError) as caught:
        load_score_network(bundle)
    assert str(caught.value.where).startswith("bundle axial, metadata.json#network_data_format")


@pytest.mark.parametrize("value", [{"x": 1}, ["model.pt"], 7, "x" * 300, "a\0b"])
def test_weights_that_are_no_file_name_are_refused(bundle: Path, value: Any) -> None:
    edit(bundle, lambda m: m["diffrecon"]["weights"].update(file=value))
    with pytest.raises(InputError) as caught:
        load_score_network(bundle)
    assert caught.value.where == "bundle axial, diffrecon#weights#file"


@pytest.mark.parametrize("device", ["gpu", "cpu:x", [], "cuda:0"])
def test_a_device_that_is_not_there_is_refused(bundle: Path, device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with raises(ConfigError, where="device", expected=...):
        load_score_network(bundle, device=device)


@pytest.mark.parametrize("paths", [7, {}, "", [None], ["../coronal", 3], "x" * 300, "a\0b", [["coronal"]]])
def test_auxiliaries_that_are_no_paths_are_refused(bundle: Path, make_bundle: Callable[..., Path], paths: Any) -> None:
    make_bundle(bundle.parent / "coronal", plane="coronal")
    with raises(InputError, where="auxiliary_bundle", expected="the path of a file or folder"):
        load_auxiliaries(paths, load_score_network(bundle), bundle)


def test_what_is_no_bundle(bundle: Path, tmp_path: Path) -> None:
    with raises(InputError, where="bundle nowhere", got="no such file"):
        read_metadata(tmp_path / "nowhere")
    (bundle / "configs/metadata.json").write_text("{")
    with pytest.raises(InputError) as caught:
        read_metadata(bundle)
    assert caught.value.where == "bundle axial, configs/metadata.json"


def test_auxiliaries(bundle: Path, make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(bundle.parent / "coronal", plane="coronal", seed=1)
    make_bundle(bundle.parent / "sagittal", plane="sagittal", seed=2)
    primary = load_score_network(bundle)
    assert load_auxiliaries(None, primary) == ()
    (beside,) = load_auxiliaries("../coronal", primary, bundle)
    monkeypatch.chdir(bundle.parent)
    both = load_auxiliaries(["coronal", "sagittal"], primary, bundle)
    assert [a.plane for a in both] == ["coronal", "sagittal"]
    assert beside.sha256 == both[0].sha256 != both[1].sha256
    with raises(InputError, where="bundle nowhere", got="no such file"):
        load_auxiliaries("nowhere", primary, bundle)


def test_a_plane_is_there_once(bundle: Path, make_bundle: Callable[..., Path]) -> None:
    make_bundle(bundle.parent / "again", seed=1)
    make_bundle(bundle.parent / "coronal", plane="coronal")
    primary = load_score_network(bundle)
    with raises(ConfigError, where="auxiliary_bundle again", got="axial"):
        load_auxiliaries("../again", primary, bundle)
    with raises(ConfigError, where="auxiliary_bundle coronal", got="coronal"):
        load_auxiliaries(["../coronal", "../coronal"], primary, bundle)


def test_networks_share_their_units(bundle: Path, make_bundle: Callable[..., Path]) -> None:
    make_bundle(bundle.parent / "coronal", plane="coronal", intensity={"map": "window", "low": -1000, "high": 1000})
    with raises(ConfigError, where="auxiliary_bundle coronal", got={"map": "window", "low": -1000, "high": 1000}):
        load_auxiliaries("../coronal", load_score_network(bundle), bundle)


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_metadata_keeps_to_the_schema_of_the_model_zoo(name: str, tmp_path: Path) -> None:
    # MONAI downloads the schema unless the file is there.
    shutil.copyfile(SCHEMA, tmp_path / "schema.json")
    verify_metadata(
        meta_file=str(BUNDLES / name / "configs/metadata.json"),
        filepath=str(tmp_path / "schema.json"),
        hash_val=sha256_file(SCHEMA),
        hash_type="sha256",
    )
    metadata = read_metadata(BUNDLES / name)
    assert metadata["version"] in metadata["changelog"]
    assert metadata["diffrecon"]["plane"] in name or name in ONE_NETWORK
    if (auxiliary := metadata["diffrecon"].get("auxiliary")) is not None:
        assert read_metadata(BUNDLES / auxiliary)["diffrecon"]["plane"] != metadata["diffrecon"]["plane"]


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_network_takes_and_gives_what_the_metadata_says(name: str) -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(BUNDLES / name / "configs/metadata.json"),
        config_file=str(BUNDLES / name / "configs/inference.json"),
        device="cpu",
        n=2,
        bundle_root=str(BUNDLES / name),
    )


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_weights_denoise(name: str) -> None:
    if not (BUNDLES / name / "models/model.pt").is_file():
        pytest.fail("the bundle is committed without its weights or metadata")
    network = load_score_network(BUNDLES / name).network
    axes = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 48), indexing="ij")
    clean = ((axes[0].square() + axes[1].square()) < 0.6).float()[None, None] * 0.7
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    errors = [float((x - clean).square().mean()) for x in (network(noisy, 0.1), noisy)]
    assert errors[0] < errors[1] / 3


@pytest.mark.parametrize("name", COMMITTED)
def test_deprecated_bundles_name_their_successor(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Once for a family, in the card, too; the other bundles warn of nothing."""
    with caplog.at_level(logging.WARNING):
        score = load_score_network(BUNDLES / name, device="cpu")
        assert len(load_auxiliaries("auto", score, BUNDLES / name)) == (name not in ONE_NETWORK)
    successor = SUCCESSORS.get(name)
    assert score.successor == successor
    assert [record.args for record in caplog.records] == ([] if successor is None else [(name, successor)])
    first = (BUNDLES / name / "docs/README.md").read_text(encoding="utf-8").splitlines()[2]
    assert first.startswith("**Deprecated.**") == (successor is not None)
    if successor is not None:
        assert f"`{successor}`" in first
        assert read_metadata(BUNDLES / successor)["diffrecon"]["intensity"] == score.intensity


def test_a_deprecated_auxiliary_is_warned_of(
    bundle: Path, make_bundle: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    for plane in ("coronal", "sagittal"):
        make_bundle(bundle.parent / plane, plane=plane, successor="knee")
    with caplog.at_level(logging.WARNING):
        load_auxiliaries(["../coronal", "../sagittal"], load_score_network(bundle), bundle)
    assert [record.args for record in caplog.records] == [("coronal", "knee")]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].removesuffix("_axial"))
def test_committed_bundles_differ_in_plane_and_training_alone(pair: tuple[str, str]) -> None:
    """The wider a network and the longer its training, the better it is; how it is used is the same."""
    axial, coronal = (BUNDLES / name / "configs" for name in pair)
    names = sorted(str(p.relative_to(axial)) for p in axial.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(coronal)) for p in coronal.rglob("*") if p.is_file())
    for name in names:
        if name == "metadata.json":
            continue
        # Each names the other as the one beside it.
        texts = [(axial / name).read_text(), (coronal / name).read_text().replace(f'"../{pair[0]}"', f'"../{pair[1]}"')]
        if name.endswith(".json"):
            configs = [json.loads(text) for text in texts]
            for config in configs:
                for key in ("plane", "max_epochs", "decay_epochs") if name == "train.json" else ():
                    config.pop(key)
                config.get("network_def", {}).pop("channels", None)
                if name == "inference.json":
                    del config["bundle_root"]  # names the bundle
            texts = [json.dumps(config) for config in configs]
        assert texts[0] == texts[1], name
