# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Builds plugins from specs, with checked options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from monai_diffrecon.errors import ConfigError, DiffReconError, PluginError, ResourceError
from monai_diffrecon.registry import contract
from monai_diffrecon.registry.contract import KINDS, check_kind
from monai_diffrecon.registry.discovery import find_entry, load, load_entry, present_name

_NOTHING: Mapping[str, Any] = {}


def current(kind: str, spec: Any) -> Any:
    """Return a spec with current names of plugins and options, nested ones too; a warning is given for former names.

    Args:
        kind: one of :data:`KINDS`.
        spec: as in :func:`build`; anything else is returned unchanged.
    """
    return _current(check_kind(kind), spec)


def create(kind: str, name: str, /, **options: Any) -> Any:
    """Return a new plugin of this kind and name; options as in :func:`build`.

    Raises:
        ConfigError: unknown kind, a mistyped or a missing option.
        PluginError: the plugin is unknown, broken, or provided by two distributions.
    """
    return _construct(load(kind, name), options, _NOTHING, KINDS[kind][0])


def build(kind: str, spec: object, *, where: str | None = None, **context: Any) -> Any:
    """Return the plugin that a configuration describes.

    Args:
        kind: one of :data:`KINDS`.
        spec: a plugin (returned as it is), its name or class, or ``{"name": ..., **options}`` with one of these. An
            option that the class lists in ``plugin_options`` holds a spec too, or a list of specs, or None.
        where: the config id for messages; that of the kind unless given.
        context: arguments that the framework gives to the constructor beside the user's options.

    Raises:
        ConfigError: no spec, a mistyped or a missing option.
        PluginError: the plugin is unknown, broken, or provided by two distributions.
    """
    where = where or KINDS[check_kind(kind)][0]
    return _build(check_kind(kind), spec, where, context=context)


def check_options(kind: str, spec: object, *, where: str | None = None, context: Iterable[str] = ()) -> None:
    """Check a spec before there is all that its plugin needs: names of plugins and options, nested ones too.

    Args:
        kind: one of :data:`KINDS`.
        spec: as in :func:`build`.
        where: the config id for messages; that of the kind unless given.
        context: names of the arguments that the framework will give.

    Raises:
        ConfigError: no spec, or a mistyped option. Required options may still be missing.
        PluginError: the plugin is unknown, broken, or provided by two distributions.
    """
    where = where or KINDS[check_kind(kind)][0]
    _check(check_kind(kind), spec, where, context=context)


def _resolve(kind: str, spec: object, where: str, literals: tuple[str, ...] = ()) -> tuple[Any, dict[str, Any]]:
    """Return the class and the options that a spec names."""
    if isinstance(spec, str) or (isinstance(spec, type) and issubclass(spec, contract.bases(kind))):
        spec = {"name": spec}
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str | type):
        raise ConfigError(
            f"not a {KINDS[kind][0]}",
            where=where,
            expected=f'a {" or ".join(KINDS[kind][1])}, its name, or {{"name": ..., options}}',
            got=f"{type(spec).__name__} {spec!r:.80}",
        )
    options = dict(spec)
    name = options.pop("name")
    if isinstance(name, type):
        if reason := contract.breach(kind, name):
            raise PluginError(f"plugin {name.__qualname__} is broken: {reason}", where=where)
        return name, options
    return load_entry(kind, find_entry(kind, name, where, literals), where), options


def _check(kind: str, spec: object, where: str, literals: tuple[str, ...] = (), *, context: Iterable[str] = ()) -> None:
    if not isinstance(spec, contract.bases(kind)):
        cls, options = _resolve(kind, spec, where, literals)
        options = contract.with_present_options(cls, options)
        contract.check_option_names(cls, options, context, where)
        _map_nested(cls, options, where, _check)


def _build(
    kind: str, spec: object, where: str, literals: tuple[str, ...] = (), *, context: Mapping[str, Any] = _NOTHING
) -> Any:
    if isinstance(spec, contract.bases(kind)):
        return spec
    cls, options = _resolve(kind, spec, where, literals)
    return _construct(cls, options, context, where)


def _construct(cls: Any, options: Mapping[str, Any], context: Mapping[str, Any], where: str) -> Any:
    """Check the options against the constructor, build nested plugins, and call it."""
    options = contract.with_present_options(cls, options)
    contract.check_option_names(cls, options, context, where)
    contract.check_required(cls, [*options, *context], where)
    nested = _map_nested(cls, options, where, _build)
    try:
        return cls(**{**options, **nested}, **context)
    except DiffReconError as error:
        error.move(where)
        raise
    except MemoryError as error:
        raise ResourceError(f"{cls.__name__} needs more memory than is available", where=where) from error
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError) as error:
        # A plugin's author may not know our exceptions.
        raise ConfigError(f"{cls.__name__} refused its options: {error}", where=where) from error


def _current(kind: str, spec: Any, where: str = "", literals: tuple[str, ...] = ()) -> Any:
    if isinstance(spec, str):
        return present_name(kind, spec)
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        return spec
    options = {**spec, "name": present_name(kind, spec["name"])}
    try:
        cls = load(kind, options["name"])
    except PluginError:
        return options  # building it reports the error
    options = contract.with_present_options(cls, options)
    return {**options, **_map_nested(cls, options, where, _current)}


def _map_nested(
    cls: Any, options: Mapping[str, Any], where: str, apply: Callable[[str, object, str, tuple[str, ...]], Any]
) -> dict[str, Any]:
    """Apply ``(kind, spec, where, literals)`` to each spec in the options that hold plugins.

    None, and the words that an option takes beside plugins, are kept.
    """

    def visit(kind: str, value: object, at: str, words: tuple[str, ...]) -> Any:
        if value is None or (isinstance(value, str) and value in words):
            return value
        if isinstance(value, (list, tuple)):
            return [visit(kind, item, f"{at}#{i}", words) for i, item in enumerate(value)]
        return apply(kind, value, at, words)

    return {
        option: visit(kind, options[option], f"{where}#{option}", contract.literals(cls, option))
        for option, kind in contract.nested_options(cls).items()
        if option in options
    }
