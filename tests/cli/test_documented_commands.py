# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The commands of README and guide run as written, on small files of their names; those of other pages parse."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire
import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
import torch.distributed.run

from diffrecon_mri.stream import __main__ as stream
from diffrecon_ncsnpp.ncsnpp import NCSNpp
from diffrecon_ncsnpp.ncsnpp_layout import published_shapes
from monai_diffrecon.cli import main as cli
from monai_diffrecon.errors import DiffReconError
from monai_diffrecon.errors.uncaught import users_error
from monai_diffrecon.options.command_line import check_arguments
from monai_diffrecon.presets.overlays import overlays

ROOT = Path(__file__).parents[2]
README, GUIDE = ROOT / "README.md", ROOT / "docs" / "guide.md"
PAGES = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("bundles/*/docs/*.md"), *ROOT.glob("plugins/*/README.md")])
MONAI = ["python", "-m", "monai.bundle", "run"]
#: What a run is given besides, to be quick and to leave the terminal alone.
QUICK = ["--sampler#steps", "2", "--logging_file", "False", "--device", "cpu", "--inferer#progress", "False"]
#: Commands and packages of others, which are not checked.
OTHERS = {"source", "mkdir", "cp", "monailabel", "monai-deploy"}
PACKAGES = {"monai-diffrecon", "torch", "torchvision", "setuptools", "wheel", "holoscan-cli"}
#: A command that consists of options only goes with this one.
BASE = "python -m monai.bundle run --bundle_root $B --image volume.nii.gz --output_dir outputs/more"

RECORDER = r"""
exec 3>&1; SLURM_ARRAY_TASK_ID=1 SLURM_ARRAY_TASK_COUNT=20
said() { printf '%s\x1f' "$@" >&3; printf '\x1e' >&3; }
for name in source mkdir cp python torchrun pip sbatch mlflow monailabel monai-deploy ./scripts/{demo,test}.sh; do
    eval "function $name { said $name \"\$@\"; }"
done
function diffrecon {
    if [[ "$1 ${2-}" == "methods --path" ]]; then "$PYTHON" -m monai_diffrecon "$@"; else said diffrecon "$@"; fi
}
"""


def blocks(page: Path) -> list[str]:
    """Return the blocks of commands of a page."""
    return re.findall(r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands(text: list[str]) -> list[list[str]]:
    """Return the words of the commands in blocks, as bash reads them; nothing is run."""
    script = RECORDER
    for block in text:
        if block.startswith("--"):
            config = "" if "--config_file" in block else " --config_file $B/configs/inference.json"
            block = f"{BASE}{config} {block}"
        script += block + "\n"
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", "-euc", script], capture_output=True, text=True, check=True, timeout=30, cwd="/", env=environment
    )
    return [command.split("\x1f")[:-1] for command in done.stdout.split("\x1e")[:-1]]


def ball(path: Path, spacing: tuple[float, float, float], low: float, high: float, size: int = 24) -> None:
    shape = [round(size / s * min(spacing)) for s in spacing]
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = (sum(a**2 for a in axes) < 0.7) * (1 + 0.2 * np.cos(5 * axes[0]))
    volume = (low + (high - low) * inside / 1.2).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, np.diag([*spacing, 1.0])), path)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Callable[[Path], Path]) -> Path:
    """A folder with the bundles and scripts of the repository, and small files of the names that both pages use."""
    shutil.copytree(ROOT / "bundles", tmp_path / "bundles")
    for name in ("scripts", "plugins", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    ball(tmp_path / "scan_with_thick_slices.nii.gz", (1, 1, 3), 0, 800)
    shutil.copyfile(tmp_path / "scan_with_thick_slices.nii.gz", tmp_path / "scan.nii.gz")
    ball(tmp_path / "volume.nii.gz", (1, 1, 1), 0, 800, size=16)
    ball(tmp_path / "chest_hu.nii.gz", (1.5, 1.5, 1.5), -1000, 200, size=16)
    ball(tmp_path / "slices.nii.gz", (1, 1, 1), -1000, 200)
    torch.save(published(), tmp_path / "checkpoint_185.pth")
    for output in ("outputs/mine", "outputs/more", "bundles/brain_mr/eval", "bundles/body_ct/eval"):
        empty_store(tmp_path / output)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFRECON_CASE_KEY", "key")
    return tmp_path


def published() -> dict[str, Any]:
    """Return a checkpoint as the published training of NCSN++ writes it, tiny and with random weights."""
    options = {"in_channels": 1, "channels": 8, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_levels": []}
    with torch.device("meta"):
        shapes = {k: shape for k, (_, shape) in published_shapes(NCSNpp(**options)).items()}
    generator = torch.Generator().manual_seed(0)

    def weight(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * (0.3 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5)

    model = {"module.sigmas": torch.from_numpy(np.geomspace(378.0, 0.01, 2000))}
    model |= {f"module.{k}": weight(shape) for k, shape in shapes.items()}
    averaged = [weight(shape) for k, shape in shapes.items() if k != "all_modules.0.W"]
    return {"model": model, "ema": {"decay": 0.999, "num_updates": 7, "shadow_params": averaged}, "step": 7}


def execute(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of ours in this process, or see that another one could be run."""
    if words[: len(MONAI)] == MONAI:
        given = [*words[len(MONAI) :], *QUICK]
        monkeypatch.setattr(sys, "argv", [str(Path(monai.bundle.__file__).with_name("__main__.py")), "run", *given])
        try:
            fire.Fire(monai.bundle.run, command=given)
        except Exception as error:
            raise users_error(error) or error from error
    elif words[0] == "diffrecon":
        quick = [f"{id_.lstrip('-')}={value}" for id_, value in zip(QUICK[::2], QUICK[1::2], strict=True)]
        more = [word for pair in quick for word in ("--set", pair)] if words[1] == "reconstruct" else []
        assert cli.main([*words[1:], *more]) == 0, words
    else:
        foresee(words)


def foresee(words: list[str]) -> None:
    """See that a command exists and has the options that it is given."""
    if words[0] == "torchrun":
        launcher = words[1 : words.index("-m")]
        torch.distributed.run.get_args_parser().parse_args([*launcher, "script"])
        words = ["python", *words[words.index("-m") :]]
    if words[: len(MONAI)] == MONAI:
        check_arguments(words[len(MONAI) :])
    elif words[0] == "diffrecon":
        cli.build_parser().parse_args(words[1:])
    elif words[0] == "sbatch":
        if "--wrap" in words:
            foresee(words[words.index("--wrap") + 1].split())
    elif words[:2] == ["pip", "install"]:
        for word in words[2:]:
            name = re.split(r"[\[<>=]", word)[0]
            assert (
                word.startswith("-") or name in PACKAGES or any(p.exists() for p in (Path(name), Path("plugins", name)))
            )
    elif words[:3] == ["python", "-m", "diffrecon_mri.stream"]:
        stream.build_parser().parse_args(words[3:])
    elif words[:2] == ["python", "-m"] and words[2] != "venv":  # of an environment of its own
        assert list(Path("plugins").glob(f"*/{words[2].replace('.', '/')}/__main__.py")), words
    elif words[0] in OTHERS or words[:2] in (["python", "-m"], ["python", "-c"]):
        pass
    elif words[0] == "mlflow":
        assert words[1:3] == ["ui", "--backend-store-uri"], words
    elif words[0] == "python":
        text = Path(words[1]).read_text(encoding="utf-8")
        assert all(word.partition("=")[0] in text for word in words[2:] if word.startswith("--")), words
    else:
        assert Path(words[0]).stat().st_mode & 0o100, words
        twin = Path(words[0]).with_suffix(".py")  # which takes the script's arguments
        assert all(word.startswith("--") and f'"{word}"' in twin.read_text(encoding="utf-8") for word in words[1:]), (
            words
        )
        subprocess.run(["bash", "-n", words[0]], check=True, timeout=30)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_the_commands_of_readme_and_guide_run(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = commands([*blocks(README), *blocks(GUIDE)])
    assert len(found) >= 19
    runs = [words for words in found if words[: len(MONAI)] == MONAI]
    for words in found:
        if words == [*MONAI, "..."]:
            words = runs[0]
        if "RECORD" in words:
            (record,) = (checkout / "outputs/mine").glob("*.provenance.json")
            words = [str(record) if word == "RECORD" else word for word in words]
        execute(words, monkeypatch)
    assert (checkout / "bundles/aapm_axial/configs/metadata.json").is_file()
    for folder in ("outputs/mine", "outputs/more", "bundles/brain_mr/eval", "bundles/body_ct/eval"):
        assert list((checkout / folder).glob("*_recon.nii.gz")), folder


@pytest.mark.parametrize("page", [p for p in PAGES if p != GUIDE and blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_commands_of_other_pages_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(page.parents[1] if page.parent.name == "docs" and page.parents[2].name == "bundles" else ROOT)
    if page.name == "evaluation_protocol.md":  # within a bundle
        monkeypatch.chdir(ROOT / "bundles/brain_mr")
    if page.parents[2].name == "bundles":
        monkeypatch.chdir(ROOT)
    imported = "bundles/ct_axial/configs/inference.json"
    template = str(Path(cli.__file__).parents[1] / "bundle/importing/template/configs/inference.json")
    for words in commands(blocks(page)):
        foresee([template if word == imported else word for word in words])


def test_options_within_the_text_exist() -> None:
    known = set()
    for parser in cli.build_parser()._subparsers._group_actions[0].choices.values():  # type: ignore[union-attr]
        known |= set(parser._option_string_actions)
    bundle = ROOT / "bundles/brain_mr/configs"
    found = [path for kind in ("tasks", "methods") for path in overlays(kind, bundle.parent).values()]
    files = str([str(path) for path in (bundle / "inference.json", *found)])
    text = README.read_text(encoding="utf-8") + GUIDE.read_text(encoding="utf-8")
    for span in re.findall(r"`(--[^`]+)`", text):
        name = span.split()[0]
        if name in known or name == "--pretrained":
            continue
        check_arguments(["--config_file", files, *span.split()])
    training = re.findall(r"`python -m monai.bundle run ([^`]*train\.json[^`]*)`", text)
    for words in training:
        given = [str(ROOT / w) if w.startswith("bundles/") else w for w in words.split()]
        check_arguments([*given, "--pretrained", "model.pt"])
    assert training


@pytest.mark.parametrize(
    "block",
    [
        "diffrecon import-checkpoint a.pth --to b --plane axial",
        "diffrecon verify --shema",
        "diffrecon explain a",
        "python -m monai.bundle run --config_file bundles/none/configs/inference.json",
        "python -m monai.bundle run --config_file bundles/brain_mr/configs/inference.json --imag a.nii",
        "./scripts/demo.sh extra",
        "torchrun --no-such-flag 2 -m monai.bundle run --config_file bundles/body_ct/configs/inference.json",
        "torchrun --nproc-per-node 2 -m monai.bundle run --config_file bundles/none/configs/inference.json",
        "./scripts/demo.sh --no-such-flag",
        "pip install -e plugins/none",
        "python scripts/demo.py --no-such-flag",
        "mlflow ui --backend-stor-uri sqlite:///results/mlflow.db",
    ],
)
def test_a_command_that_is_wrong_is_found(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (words,) = commands([block + "\n"])
    with pytest.raises((DiffReconError, SystemExit, AssertionError, OSError)):
        foresee(words)
