# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reading the file of a cohort, every mistake one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.evaluation.cohort_spec import CohortCase, CohortMethod, CohortSpec
from monai_diffrecon.evaluation.visual_information import check_available
from monai_diffrecon.io.cases import case_key, check_case_name
from monai_diffrecon.io.hashing import keyed_name
from monai_diffrecon.io.path_option import path_option
from monai_diffrecon.numerics.option_checks import check_flag, check_integer, check_number
from monai_diffrecon.presets.overlays import METHOD, TASK, overlay_path

_COHORT = ("title", "cases", "methods", "baseline", "seed", "simulate", "data_range", "vif", "resamples")
_CASE = ("image", "reference", "mask", "name")
_METHOD = ("label", "bundle", "task", "preset", "auxiliary_bundle", "overrides")
_SIMULATE = ("noise", "photons", "electronic_std", "unit")


def read_cohort(path: str | Path, output_dir: str | Path, default_bundle: str | Path | None = None) -> CohortSpec:
    """Read and check a cohort's file; no scan is read and no network loaded.

    Paths in it are relative to its folder.

    Args:
        path: JSON file: ``cases`` (a list, or ``{"datalist": file, "section": name}`` for a MONAI data list),
            ``methods``, and optionally ``title``, ``baseline``, ``seed``, ``simulate``, ``data_range``, ``vif`` and
            ``resamples``.
        output_dir: folder that keeps the key of the cases' names.
        default_bundle: bundle of methods that do not name one.

    Raises:
        InputError: no such file, or not JSON.
        ConfigError: a key or a value that is wrong.
    """
    path = Path(path).expanduser()
    content = _mapping(_json(path), path.name, _COHORT, ("cases", "methods"))
    base = path.resolve().parent
    methods = tuple(_methods(content["methods"], base, default_bundle))
    labels = [method.label for method in methods]
    baseline = content.get("baseline", labels[0])
    if baseline not in labels:
        raise ConfigError("no such method", where="baseline", expected=" or ".join(labels), got=repr(baseline))
    vif = check_flag(content.get("vif", False), "vif")
    if vif:
        check_available()
    data_range = content.get("data_range")
    return CohortSpec(
        title=_text(content.get("title", "Comparison of reconstructions"), "title"),
        cases=tuple(_cases(content["cases"], base, output_dir)),
        methods=methods,
        baseline=str(baseline),
        seed=check_integer(content.get("seed", 0), "seed", low=0),
        simulate=_simulate(content.get("simulate")),
        data_range=None if data_range is None else check_number(data_range, "data_range", low=0.0, open_low=True),
        vif=vif,
        resamples=check_integer(content.get("resamples", 10000), "resamples", low=100),
    )


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return a hint at the known word that is most like another, or None."""
    close = get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else None


def slug(label: str) -> str:
    """Return a label as a name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "method"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError("no such file", where=path.name) from None
    except ValueError as error:
        raise InputError("not JSON", where=path.name, got=str(error)) from None


def _mapping(value: Any, where: str, known: Sequence[str], required: Sequence[str] = ()) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError("not an object", where=where, expected="{" + ", ".join(known) + "}", got=type(value).__name__)
    for key in value:
        if key not in known:
            raise ConfigError(
                "unknown key", where=f"{where}#{key}", expected=", ".join(known), mend=did_you_mean(str(key), known)
            )
    for key in required:
        if value.get(key) in (None, [], ""):
            raise ConfigError("missing", where=f"{where}#{key}")
    return dict(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError("not a text", where=where, got=repr(value))
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ConfigError("not a list", where=where, expected="a list of at least one entry", got=repr(value)[:60])
    return value


def _cases(value: Any, base: Path, output_dir: str | Path) -> list[CohortCase]:
    known = set(_CASE)
    if isinstance(value, Mapping):
        value = _mapping(value, "cases", ("datalist", "section"), ("datalist", "section"))
        file = base / Path(_text(value["datalist"], "cases#datalist")).expanduser()
        base, content = file.parent, _json(file)
        section = value["section"]
        if not isinstance(content, Mapping) or section not in content:
            found = ", ".join(content) if isinstance(content, Mapping) else "a list"
            raise ConfigError("no such section", where="cases#section", expected=found, got=repr(section))
        # MONAI's data lists say more than we need, the label or the fold for instance.
        entries = [
            {k: v for k, v in entry.items() if k in known} if isinstance(entry, Mapping) else {"image": entry}
            for entry in _list(content[section], "cases#section")
        ]
    else:
        entries = _list(value, "cases")
    key, cases, names = case_key(output_dir), [], set()
    for number, entry in enumerate(entries):
        where = f"cases#{number}"
        entry = _mapping(entry, where, _CASE, ("image",))
        paths = {k: _file(entry.get(k), base, f"{where}#{k}") for k in ("image", "reference", "mask")}
        image = paths["image"]
        assert image is not None
        name = entry.get("name")
        if name is None:
            name = f"case-{keyed_name(str(image.resolve()), key)}"
        else:
            name = check_case_name(name, f"{where}#name")
        if name in names:
            raise ConfigError("a case twice", where=f"{where}#name", mend="give each a name of its own")
        names.add(name)
        cases.append(CohortCase(name, image, paths["reference"], paths["mask"]))
    return cases


def _file(value: Any, base: Path, where: str) -> Path | None:
    if value is None:
        return None
    path = path_option(base / path_option(_text(value, where), where), where)
    if not path.exists():
        raise InputError("no such file", where=where)
    return path


def _methods(value: Any, base: Path, default_bundle: str | Path | None) -> list[CohortMethod]:
    methods: list[CohortMethod] = []
    for number, entry in enumerate(_list(value, "methods")):
        where = f"methods#{number}"
        entry = _mapping(entry, where, _METHOD, ("label",))
        label = _text(entry["label"], f"{where}#label")
        if slug(label) in {slug(m.label) for m in methods}:
            raise ConfigError("a label twice", where=f"{where}#label", got=repr(label))
        bundle = entry.get("bundle")
        if bundle is None and default_bundle is None:
            raise ConfigError("missing", where=f"{where}#bundle", expected="the root of a bundle")
        root = Path(str(default_bundle)) if bundle is None else _folder(bundle, (base,), f"{where}#bundle")
        auxiliary = entry.get("auxiliary_bundle")
        if auxiliary not in (None, "none"):
            names = [auxiliary] if isinstance(auxiliary, str) else _list(auxiliary, f"{where}#auxiliary_bundle")
            auxiliary = [str(_folder(n, (root, base), f"{where}#auxiliary_bundle").resolve()) for n in names]
        overrides = entry.get("overrides") or {}
        if not isinstance(overrides, Mapping):
            raise ConfigError("not an object", where=f"{where}#overrides", expected='{"id": value}')
        methods.append(
            CohortMethod(
                label=label,
                bundle=root.resolve(),
                task=_overlay(TASK, entry.get("task"), root, f"{where}#task"),
                preset=_overlay(METHOD, entry.get("preset"), root, f"{where}#preset"),
                auxiliary_bundle=auxiliary,
                overrides=dict(overrides),
            )
        )
    return methods


def _folder(value: Any, bases: Sequence[Path], where: str) -> Path:
    name = Path(_text(value, where)).expanduser()
    for base in bases:
        if (base / name).is_dir():
            return base / name
    raise InputError("no bundle", where=where, expected="the root folder of a bundle", got=name.name)


def _overlay(kind: str, value: Any, root: Path, where: str) -> str | None:
    return None if value is None else overlay_path(kind, value, root, where=where).stem


def _simulate(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        return {"simulate": check_flag(value, "simulate")}
    options = _mapping(value, "simulate", _SIMULATE)
    return {"simulate": True, **{f"simulate_{name}": option for name, option in options.items()}}
