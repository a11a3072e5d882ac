# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reads the file of a cohort; each mistake is a one-line error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from monai_diffrecon.comparison.visual_information import check_available
from monai_diffrecon.engine.cases.list_cases import case_key
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import path_option
from monai_diffrecon.evaluation.cohort.spec import CohortCase, CohortMethod, CohortSpec
from monai_diffrecon.io.file_validation import check_keys, read_json, validated
from monai_diffrecon.numerics.hashing import keyed_name
from monai_diffrecon.presets.overlays import METHOD, TASK, overlay_path

#: What stands for the name of the case in the path of volumes.
CASE = "{case}"


def read_cohort(
    path: str | Path, output_dir: str | Path, default_bundle: str | Path | None = None, *, key: str | None = None
) -> CohortSpec:
    """Read and check a cohort's file; no scan is read and no network loaded.

    Paths in it are relative to its folder.

    Args:
        path: JSON file: ``cases`` (a list, or ``{"datalist": file, "section": name}`` for a MONAI data list),
            ``methods``, and optionally ``title``, ``baseline``, ``seed``, ``simulate``, ``data_range``, ``vif`` and
            ``resamples``.
        output_dir: folder that keeps the key of the cases' names.
        default_bundle: bundle of methods that do not name one.
        key: key of the cases' names; None takes that of ``output_dir``.

    Raises:
        InputError: no such file, or not JSON.
        ConfigError: a key or a value that is wrong.
    """
    path = path_option(path, "cohort")
    return cohort_of(read_json(path, path.name), path.name, path.resolve().parent, output_dir, default_bundle, key=key)


def cohort_of(
    given: Any,
    where: str,
    base: Path,
    output_dir: str | Path,
    default_bundle: str | Path | None = None,
    *,
    key: str | None = None,
) -> CohortSpec:
    """Check the content of a cohort's file, see :func:`read_cohort`.

    Args:
        given: the content.
        where: what messages call it.
        base: folder that paths are relative to.
        output_dir: as of :func:`read_cohort`, as all that follow.
        default_bundle: bundle of methods that do not name one.
        key: key of the cases' names.

    Raises:
        InputError: no such file, or not JSON.
        ConfigError: a key or a value that is wrong.
    """
    given = check_keys(given, where, [f.name for f in fields(CohortSpec)], ("cases", "methods"))
    scans = base
    content = {"title": "Comparison of reconstructions", "baseline": "", **given}
    if isinstance(content["cases"], dict):
        scans, content["cases"] = _from_datalist(content["cases"], base)
    if isinstance(content["methods"], list) and default_bundle is not None:
        for method in content["methods"]:
            if isinstance(method, dict) and method.get("bundle") is None and method.get("volumes") is None:
                method["bundle"] = str(Path(default_bundle).resolve())
    spec = validated(CohortSpec, content, "")
    methods: list[CohortMethod] = []
    for number, method in enumerate(spec.methods):
        if slug(method.label) in {slug(m.label) for m in methods}:
            raise ConfigError("a label twice", where=f"methods#{number}#label", got=repr(method.label))
        place = _placed_method if method.volumes is None else _placed_volumes
        methods.append(place(method, base, f"methods#{number}"))
    labels = [method.label for method in methods]
    baseline = spec.baseline if "baseline" in given else labels[0]
    if baseline not in labels:
        raise ConfigError("no such method", where="baseline", expected=" or ".join(labels), got=repr(baseline))
    if spec.vif:
        check_available()
    unnamed = next((number for number, case in enumerate(spec.cases) if not case.name), None)
    if unnamed is not None and any(method.volumes for method in methods):
        raise ConfigError(
            "a case without a name, by which its volumes are found",
            where=f"cases#{unnamed}#name",
            mend="name each case; never by a patient's name",
        )
    cases = _placed_cases(spec.cases, scans, case_key(output_dir) if key is None else key)
    return replace(spec, cases=cases, methods=tuple(methods), baseline=baseline)


def slug(label: str) -> str:
    """Return a label as a name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "method"


def _from_datalist(said: dict[str, Any], base: Path) -> tuple[Path, list[Any]]:
    """Return the folder of a MONAI data list, and the cases of its section."""
    keys, where = ("datalist", "section"), "cases#datalist"
    section = check_keys(said, "cases", keys, keys)["section"]
    file = path_option(base / path_option(said["datalist"], where), where)
    content = read_json(file, file.name)
    if not isinstance(content, dict) or not isinstance(section, str) or section not in content:
        found = ", ".join(content) if isinstance(content, dict) else "a list"
        raise ConfigError("no such section", where="cases#section", expected=found, got=repr(section))
    entries = validated(list[Any], content[section], "cases#section")
    # MONAI's data lists have further keys, such as the label or the fold.
    known = [f.name for f in fields(CohortCase)]
    return file.parent, [
        {k: v for k, v in e.items() if k in known} if isinstance(e, dict) else {"image": e} for e in entries
    ]


def _placed_cases(cases: Sequence[CohortCase], base: Path, key: str) -> tuple[CohortCase, ...]:
    placed: list[CohortCase] = []
    for number, case in enumerate(cases):
        where = f"cases#{number}"
        given = {"image": case.image, "reference": case.reference, "mask": case.mask}
        paths: dict[str, Any] = {
            k: path_option(base / path, f"{where}#{k}") for k, path in given.items() if path is not None
        }
        for name, path in paths.items():
            if not path.exists():
                raise InputError("no such file", where=f"{where}#{name}")
        noise = f"-{case.realization}" if case.realization else ""
        name = case.name or f"case-{keyed_name(str(paths['image'].resolve()), key)}{noise}"
        if name in {other.name for other in placed}:
            raise ConfigError("a case twice", where=f"{where}#name", mend="give each a unique name")
        placed.append(replace(case, name=name, **paths))
    return tuple(placed)


def _placed_volumes(method: CohortMethod, base: Path, where: str) -> CohortMethod:
    for name in ("bundle", "task", "preset", "auxiliary_bundle", "overrides"):
        if getattr(method, name):
            raise ConfigError(
                "not an option of volumes that are given", where=f"{where}#{name}", mend="omit it, or omit volumes"
            )
    path = path_option(base / path_option(method.volumes, f"{where}#volumes"), f"{where}#volumes")
    if CASE not in str(method.volumes):
        raise ConfigError(
            "one path for all cases", where=f"{where}#volumes", expected=f"a path with {CASE} for the name of the case"
        )
    return replace(method, volumes=str(path))


def _placed_method(method: CohortMethod, base: Path, where: str) -> CohortMethod:
    if method.bundle is None:
        raise ConfigError("missing", where=f"{where}#bundle", mend="name a bundle, or volumes of other software")
    root = _folder(method.bundle, (base,), f"{where}#bundle")
    auxiliary = method.auxiliary_bundle
    if auxiliary not in (None, "none"):
        names = auxiliary if isinstance(auxiliary, list) and auxiliary else [auxiliary]
        auxiliary = [str(_folder(name, (root, base), f"{where}#auxiliary_bundle").resolve()) for name in names]
    given = (("task", TASK, method.task), ("preset", METHOD, method.preset))
    found: dict[str, Any] = {
        k: overlay_path(kind, name, root, where=f"{where}#{k}").stem for k, kind, name in given if name is not None
    }
    return replace(method, bundle=root.resolve(), auxiliary_bundle=auxiliary, **found)


def _folder(name: object, bases: Sequence[Path], where: str) -> Path:
    for base in bases:
        if (folder := base / path_option(name, where)).is_dir():
            return folder
    raise InputError("no bundle", where=where, expected="the root folder of a bundle", got=Path(str(name)).name)
