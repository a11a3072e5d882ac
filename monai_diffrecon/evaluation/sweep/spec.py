# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Reads the file of a sweep, and makes the cohort of each of its points; each mistake is a one-line error."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from monai_diffrecon.comparison.metric_info import COST
from monai_diffrecon.comparison.third_party_metrics import metric_infos
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_choice, path_option
from monai_diffrecon.evaluation.cohort.read import cohort_of
from monai_diffrecon.evaluation.cohort.spec import CohortCase, CohortMethod, CohortSpec
from monai_diffrecon.evaluation.image_quality.study.measured import phantom_metrics
from monai_diffrecon.evaluation.image_quality.study.spec import checked_study
from monai_diffrecon.io.file_validation import Text, at, check_keys, needed_keys, read_json, validated

#: What stands for the value in the path of volumes.
VALUE = "{value}"
_SIMULATE = "simulate#"
_LONGEST = 60  # letters of a folder's name


@dataclass(frozen=True)
class SweepContent:
    """The keys of a sweep's file.

    Attributes:
        vary: one id -> its values.
        cohort: path of a cohort's file, or its content.
        study: path of the file of a study of image quality, or its content, instead of a cohort.
        title: heading of the page.
        metrics: keys of the metrics that are shown; empty for all by which methods are compared.
    """

    vary: dict[Text, Annotated[list[Any], Field(min_length=1)]]
    cohort: Text | dict[str, Any] | None = None
    study: Text | dict[str, Any] | None = None
    title: Text = ""
    metrics: tuple[Text, ...] = ()


@dataclass(frozen=True)
class Point:
    """One value, and the cohort or the study with it.

    Attributes:
        name: name of its folder.
        value: the value.
        content: of the cohort's file with absolute paths, or of the study's.
    """

    name: str
    value: Any
    content: dict[str, Any]

    @property
    def text(self) -> str:
        """The value as a text."""
        return value_text(self.value)


@dataclass(frozen=True)
class SweepSpec:
    """A sweep.

    Attributes:
        title: heading of the page.
        parameter: the id that varies.
        points: the points, in the order of the file.
        metrics: as in the file.
        labels: of the methods.
        base: folder that paths of a study are relative to; None for a sweep of a cohort.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """

    title: str
    parameter: str
    points: tuple[Point, ...]
    metrics: tuple[str, ...]
    labels: tuple[str, ...]
    base: Path | None = None
    seed: int = 0
    resamples: int = CohortSpec.resamples


def read_sweep(path: str | Path, output_dir: str | Path) -> SweepSpec:
    """Read and check a sweep's file; no scan is read and no network loaded.

    Paths in it are relative to its folder, and those of a cohort's file to the folder of that.

    Args:
        path: JSON file, see :class:`SweepContent`.
        output_dir: folder that keeps the key of the cases' names.

    Raises:
        InputError: no such file, or not JSON.
        ConfigError: a key or a value that is wrong.
    """
    path = path_option(path, "sweep")
    known, needed = [f.name for f in fields(SweepContent)], needed_keys(SweepContent)
    said = validated(SweepContent, check_keys(read_json(path, path.name), path.name, known, needed), "")
    if len(said.vary) != 1:
        raise ConfigError("not one setting", where="vary", expected="one id and its values", got=", ".join(said.vary))
    ((parameter, values),) = said.vary.items()
    kind = "cohort" if said.study is None else "study"
    if (said.cohort is None) == (said.study is None):
        raise ConfigError("neither a cohort nor a study, or both", where=path.name, expected="cohort or study")
    base, where = path.resolve().parent, at(path.name, kind)
    given: Any = said.cohort if said.study is None else said.study
    if isinstance(given, str):
        file = path_option(base / path_option(given, kind), kind)
        base, where, given = file.resolve().parent, file.name, read_json(file, file.name)
    if kind == "study":
        study = checked_study(given, where)
        found = phantom_metrics(study.metrics)
        for metric in said.metrics:
            check_choice(metric, "metrics", [key for one in found for key in one.quantities])
        if parameter.startswith(_SIMULATE) and given.get("simulate") is False:
            raise ConfigError("varied, but nothing is simulated", where=at("vary", parameter), mend="set simulate")
        title = said.title or f"{parameter}: {study.title}"
        made = [_study_point(parameter, value, given, title) for value in values]
        labels = tuple(str(method.get("label")) for method in study.methods)
        spec = SweepSpec(title, parameter, tuple(made), said.metrics, labels, base)
    else:
        keys = [info.key for info in metric_infos() if info.group != COST]
        for metric in said.metrics:
            check_choice(metric, "metrics", keys)
        cohort = cohort_of(given, where, base, output_dir)
        title = said.title or f"{parameter}: {cohort.title}"
        made = [_point(parameter, value, cohort, given, title) for value in values]
        labels = tuple(method.label for method in cohort.methods)
        spec = SweepSpec(title, parameter, tuple(made), said.metrics, labels, None, cohort.seed, cohort.resamples)
    names = [point.name.lower() for point in spec.points]  # some file systems take a and A for one
    for name in names:
        if names.count(name) > 1:
            raise ConfigError("two points of one name", where=at("vary", parameter), got=name)
    return spec


def value_text(value: Any) -> str:
    """Return a value as a text: as JSON, but a word as it is."""
    return value if isinstance(value, str) else json.dumps(value)


def _point(parameter: str, value: Any, cohort: CohortSpec, given: dict[str, Any], title: str) -> Point:
    text = value_text(value)
    content = {key: said for key, said in given.items() if key not in ("cases", "methods", "simulate")}
    content |= {"title": f"{title}, {text}", "baseline": cohort.baseline, "simulate": given.get("simulate")}
    methods = cohort.methods
    if parameter.startswith(_SIMULATE):
        if cohort.simulate.get("simulate") is False:
            raise ConfigError("varied, but nothing is simulated", where=at("vary", parameter), mend="set simulate")
        content["simulate"] = _simulated(given, parameter, value)
    else:
        methods = tuple(m if m.volumes else replace(m, overrides=_laid(m, parameter, value)) for m in methods)
    methods = tuple(
        replace(m, volumes=_volumes(m.volumes, number, parameter, text)) if m.volumes else m
        for number, m in enumerate(methods)
    )
    content |= {"cases": [_plain(case) for case in cohort.cases], "methods": [_plain(method) for method in methods]}
    return Point(_name(parameter, text), value, {key: said for key, said in content.items() if said is not None})


def _study_point(parameter: str, value: Any, given: dict[str, Any], title: str) -> Point:
    text, content = value_text(value), {**given}
    content["title"] = f"{title}, {text}"
    methods = [dict(method) for method in given["methods"]]
    for number, method in enumerate(methods):
        if isinstance(method.get("volumes"), str):
            method["volumes"] = _volumes(method["volumes"], number, parameter, text)
        elif not parameter.startswith(_SIMULATE):
            overrides = method.get("overrides") or {}
            if not isinstance(overrides, dict):
                raise ConfigError("not an object", where=f"methods#{number}#overrides", got=type(overrides).__name__)
            method["overrides"] = overrides | {parameter: value}
    content["methods"] = methods
    if parameter.startswith(_SIMULATE):
        content["simulate"] = _simulated(given, parameter, value)
    return Point(_name(parameter, text), value, content)


def _name(parameter: str, text: str) -> str:
    """Return the name of a point's folder."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", f"{parameter.rpartition('#')[2]}-{text}").strip("-.")[:_LONGEST]


def _simulated(given: dict[str, Any], parameter: str, value: Any) -> dict[str, Any]:
    """Return the measurement of a file with the value."""
    simulate = given.get("simulate")
    return (simulate if isinstance(simulate, dict) else {}) | {parameter.removeprefix(_SIMULATE): value}


def _volumes(path: str, number: int, parameter: str, text: str) -> str:
    """Return the path of volumes of other software for a value.

    Raises:
        ConfigError: it does not depend on the value.
    """
    if VALUE not in path:
        raise ConfigError(
            "the same volumes for all values",
            where=f"methods#{number}#volumes",
            expected=f"a path with {VALUE} for the value of {parameter}",
            mend="or omit this method: a sweep shows what depends on the value",
        )
    return path.replace(VALUE, text)


def _laid(method: CohortMethod, parameter: str, value: Any) -> dict[str, Any]:
    """Return the overrides of a method with the value, the last to be applied."""
    return {key: said for key, said in method.overrides.items() if key != parameter} | {parameter: value}


def _plain(part: CohortCase | CohortMethod) -> dict[str, Any]:
    """Return a case or a method as in a cohort's file, without what is not set."""
    said = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(part).items()}
    return {
        key: value for key, value in said.items() if value not in (None, "", {}) and (key, value) != ("realization", 0)
    }
