# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Plugins given as objects: an instance is used as it is, a class is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai_diffrecon import registry
from monai_diffrecon.bundle.score_network import ScoreNetwork
from monai_diffrecon.protocols import Plugin

Spec = dict[str, Any]


class ObjectSpec(Spec):
    """Takes the place of a spec; its record form is ``{"name": "module:Class", **options}``.

    Args:
        plugin: the instance or the class.
        options: options of a class.
    """

    def __init__(self, plugin: Any, **options: Any) -> None:
        super().__init__(name=_name_of(plugin), **options)
        self.plugin: Any = plugin


def spec_of(plugin: object, kind: str) -> Spec | None:
    """Return the spec of an instance, a class or ``{"name": class, **options}``, or None for anything else.

    A registered class is equivalent to its name.
    """
    options = dict(plugin) if isinstance(plugin, dict) else {}
    plugin = options.pop("name", None) if options else plugin
    if not _is_object(plugin) or (options and not isinstance(plugin, type)):
        return None
    name = registry.name_of(kind, plugin) if isinstance(plugin, type) else None
    return ObjectSpec(plugin, **options) if name is None else {"name": name, **options}


def plugin_of(spec: Spec) -> Any:
    """Return what the registry builds from: the object of a spec, otherwise the spec."""
    if not isinstance(spec, ObjectSpec):
        return spec
    return {**spec, "name": spec.plugin} if isinstance(spec.plugin, type) else spec.plugin


def described(value: Any) -> Any:
    """Return nested specs with every object replaced by ``{"name": "module:Class"}``."""
    if _is_object(value):
        return {"name": _name_of(value)}
    if isinstance(value, Mapping):
        named = {"name": _name_of(value["name"])} if _is_object(value.get("name")) else {}
        return {key: described(inner) for key, inner in value.items()} | named
    return [described(inner) for inner in value] if isinstance(value, list | tuple) else value


def object_notice(specs: Mapping[str, Spec]) -> tuple[str, ...]:
    """Return one notice about plugins given as objects, if any."""
    names = ", ".join(dict.fromkeys(_objects(dict(specs))))
    if not names:
        return ()
    return (
        f"{names}: given as an object; the run cannot be resumed or repeated from its record (use a registered class "
        "by its name for that)",
    )


def distributions_of(composition: Mapping[str, Any], scores: Sequence[ScoreNetwork] = ()) -> set[str]:
    """Return the distributions whose plugins take part, nested ones included.

    Args:
        composition: config id (``operator``, ``prior``, ...) -> spec.
        scores: networks, for their denoisers.
    """
    kind_of = {where: kind for kind, (where, _) in registry.KINDS.items()}
    specs = [(kind_of[where], spec) for where, spec in composition.items()]
    specs += [("denoisers", score.denoiser) for score in scores]
    found: set[str] = set()
    while specs:
        kind, spec = specs.pop()
        if isinstance(spec, ObjectSpec):
            continue
        name = spec if isinstance(spec, str) else spec["name"]
        options: Mapping[str, Any] = {} if isinstance(spec, str) else spec
        found.add(registry.distribution_of(kind, name))
        cls = registry.load(kind, name)
        for option, nested_kind in cls.plugin_options.items():
            value = options.get(option)
            words = getattr(cls, "plugin_literals", {}).get(option, ())
            inner = value if isinstance(value, list | tuple) else [value]
            specs += [(nested_kind, v) for v in inner if _is_named(v) and v not in words]
    return found


def _is_named(spec: object) -> bool:
    return isinstance(spec, str) or (isinstance(spec, dict) and isinstance(spec.get("name"), str))


def _objects(value: Any) -> Iterator[str]:
    if _is_object(value):
        yield _name_of(value)
    if isinstance(value, ObjectSpec):
        yield value["name"]
    if isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _objects(inner)


def _is_object(value: object) -> bool:
    return isinstance(value, Plugin) or (isinstance(value, type) and issubclass(value, Plugin))


def _name_of(plugin: object) -> str:
    cls = plugin if isinstance(plugin, type) else type(plugin)
    return f"{cls.__module__}:{cls.__qualname__}"
