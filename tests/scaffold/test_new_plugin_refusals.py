# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What ``diffrecon new-plugin`` refuses: in one line, with nothing left behind; and names that Python has already."""

from __future__ import annotations

import ast
import errno
import os
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

from monai_diffrecon.cli import main as cli
from monai_diffrecon.errors import ConfigError, InputError, ResourceError
from monai_diffrecon.scaffold.new_plugin import new_plugin

from ..raising import raises


@pytest.mark.parametrize(
    ("kind", "near"),
    [
        ("operatr", "operator"),
        ("Sampler", "sampler"),
        ("regulariser", "regularizer"),
        ("importer", None),  # a kind without a template
        ("xyz", None),
        ("", None),
    ],
)
def test_an_unknown_kind(tmp_path: Path, kind: str, near: str | None) -> None:
    with raises(ConfigError, where="KIND", expected=..., got=None) as caught:
        new_plugin(kind, "mine", tmp_path)
    assert (near is None and caught.value.mend is None) or repr(near) in str(caught.value.mend)
    assert not list(tmp_path.iterdir())


def test_both_names_of_a_kind(tmp_path: Path) -> None:
    one, other = (new_plugin(kind, f"mine_{kind}", tmp_path) for kind in ("metric", "metrics"))
    texts = [(p / "setup.cfg").read_text() for p in (one, other)]
    assert texts[0] == texts[1].replace("mine_metrics", "mine_metric").replace("MineMetrics", "MineMetric").replace(
        "mine-metrics", "mine-metric"
    )


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("MyBinning", "my_binning"),
        ("my-binning", "my_binning"),
        ("_mine", "mine"),
        ("a__b", "a_b"),
        ("a b\n", "a_b"),
        ("../up", "up"),
        ("2d", None),
        ("größe", "gr_e"),
        ("", None),
        ("a" * 41, None),
        ("mine\n", "mine"),
        ("a\0b", "a_b"),
    ],
)
def test_no_name(tmp_path: Path, name: str, near: str | None) -> None:
    with raises(ConfigError, where="NAME", expected=..., got=repr(name)) as caught:
        new_plugin("operator", name, tmp_path)
    assert caught.value.mend == (None if near is None else f"use {near!r}")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("sampler", "ddim"),
        ("sampler", "annealed"),  # what one was called before
        ("prior", "z_tv"),  # regularizers were priors
        ("regularizer", "slices"),
        ("operator", "cone_beam_ct"),  # of a package of ours, installed or not
        ("metric", "wavelets"),  # diffrecon-wavelets
        ("metric", "bundles"),
        ("reader", "auto"),
    ],
)
def test_a_name_that_is_taken(tmp_path: Path, kind: str, name: str) -> None:
    with raises(ConfigError, where="NAME", got=...) as caught:
        new_plugin(kind, name, tmp_path)
    assert repr(name) in caught.value.got
    assert not list(tmp_path.iterdir())


def test_the_name_of_another_kind_is_free(tmp_path: Path) -> None:
    assert new_plugin("writer", "ddim", tmp_path).is_dir()


@pytest.mark.parametrize("there", ["folder", "file", "link to nothing"])
def test_what_is_there_stays(tmp_path: Path, there: str) -> None:
    target = tmp_path / "diffrecon-my-mean"
    if there == "folder":
        target.mkdir()
    elif there == "file":
        target.write_text("mine")
    else:
        target.symlink_to("nowhere")
    with raises(InputError, where="diffrecon-my-mean", mend=...):
        new_plugin("metric", "my_mean", tmp_path)
    assert list(tmp_path.iterdir()) == [target]
    assert not target.is_dir() or not list(target.iterdir())


def test_no_folder_to_write_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "missing", tmp_path / "file"):
        with raises(InputError, where="--output", got=output.name):
            new_plugin("metric", "mine", output)
    with raises(InputError, where="--output"):
        new_plugin("metric", "mine", "a\0b")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EACCES, InputError), (errno.EROFS, InputError), (errno.ENOSPC, ResourceError)]
)
@pytest.mark.parametrize("method", ["mkdir", "write_text", "rename"])
def test_nothing_is_left_of_what_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], method: str
) -> None:
    """It fails at the third file, or at the end."""
    calls: list[Any] = []
    owner: Any = os if method == "rename" else Path
    done = getattr(owner, method)

    def fails(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if method == "rename" or len(calls) == 3:
            raise OSError(number, os.strerror(number))
        return done(*args, **options)

    monkeypatch.setattr(owner, method, fails)
    with raises(kind, where="diffrecon-mine"):
        new_plugin("metric", "mine", tmp_path)
    assert calls
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("author", ["", "  ", "A\nversion = 9", "half \ud800"])
def test_no_author(tmp_path: Path, author: str) -> None:
    with raises(ConfigError, where="--author", got=repr(author.strip())):
        new_plugin("metric", "mine", tmp_path, author=author)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("author", ["Zoë Müller <zoe@example.org>", "100 % $kind; # [x]"])
def test_an_author_is_written_as_it_is(tmp_path: Path, author: str) -> None:
    setup = ConfigParser(interpolation=None)
    setup.read_string((new_plugin("metric", "mine", tmp_path, author=author) / "setup.cfg").read_text(encoding="utf-8"))
    assert setup["metadata"]["author"] == author


@pytest.mark.parametrize(
    ("kind", "name", "cls"),
    [
        ("operator", "tensor", "TensorOperator"),
        ("operator", "volume_geometry", "VolumeGeometryOperator"),
        ("prior", "score_prior", "ScorePriorPrior"),
        ("executor", "exception", "ExceptionExecutor"),
        ("sampler", "true", "TrueSampler"),
        ("reader", "ct_2", "Ct2"),
    ],
)
def test_a_class_has_a_name_of_its_own(tmp_path: Path, kind: str, name: str, cls: str) -> None:
    folder = new_plugin(kind, name, tmp_path)
    tree = ast.parse((folder / f"diffrecon_{name}.py").read_text())
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert [node.name for node in tree.body if isinstance(node, ast.ClassDef)] == [cls]
    assert cls not in imported
    assert f"{name} = diffrecon_{name}:{cls}\n" in (folder / "setup.cfg").read_text()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new-plugin", "reader", "my_format", "--author", "A"]) == 0
    said = capsys.readouterr().out
    assert "diffrecon_my_format.py" in said
    assert "cd diffrecon-my-format" in said
    assert cli.main(["new-plugin", "reader", "my_format"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: diffrecon-my-format: ")
    assert error.count("\n") == 1
