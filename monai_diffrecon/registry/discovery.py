# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Plugins that are installed: found by their entry points, loaded when asked for, and checked when loaded.

Built-in plugins come through the same door as a third party's. Neither importing this module nor
:func:`available` imports torch or the code of a plugin.
"""

from __future__ import annotations

import importlib
import logging
import re
import warnings
from configparser import Error as ConfigParserError
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, reduce
from importlib import metadata
from pathlib import Path
from typing import Any

import entrypoints

from monai_diffrecon.errors import PluginError
from monai_diffrecon.registry import contract
from monai_diffrecon.registry.contract import KINDS, check_kind

logger = logging.getLogger(__name__)

#: (kind, name) -> the distribution known to provide it, for those who have not installed it.
KNOWN_PROVIDERS: dict[tuple[str, str], str] = {
    ("regularizers", "wavelet_l1"): "diffrecon-wavelets",
    ("operators", "noncartesian_mri"): "diffrecon-mri",
    ("readers", "ismrmrd"): "diffrecon-mri",
    ("readers", "fastmri"): "diffrecon-mri",
    ("readers", "bart"): "diffrecon-mri",
    ("consistency", "refined_coil_maps"): "diffrecon-mri",
    ("readers", "twix"): "diffrecon-twix",
    ("readers", "rtk_projections"): "diffrecon-rtk",
    ("operators", "cone_beam_ct"): "diffrecon-rtk",
    ("runtimes", "openvino"): "diffrecon-openvino",
    ("operators", "rotation_ct"): "diffrecon-published",
    ("noises", "sequential"): "diffrecon-published",
    ("samplers", "published_predictor_corrector"): "diffrecon-published",
    ("consistency", "published_dps"): "diffrecon-published",
    ("importers", "ncsnpp"): "diffrecon-ncsnpp",
    ("importers", "guided_diffusion"): "diffrecon-ncsnpp",
    ("importers", "diffusers"): "diffrecon-ncsnpp",
    ("executors", "dask"): "diffrecon-dask",
}


@dataclass(frozen=True)
class PluginInfo:
    """What is known of a plugin without importing it.

    Attributes:
        name: name of the entry point, ``"?"`` when that cannot be read.
        kind: one of :data:`KINDS`.
        distribution: the installed distribution that provides it, ``"?"`` when that is unknown.
        version: version of the distribution, or an empty string.
        summary: first line of the class's docstring, or an empty string.
        error: why it cannot be used; None if it can, or if it was not loaded yet.
    """

    name: str
    kind: str
    distribution: str
    version: str
    summary: str = ""
    error: str | None = None


@dataclass(frozen=True)
class _Entry:
    """One entry point."""

    kind: str
    name: str
    distribution: str
    version: str
    module: str
    attribute: str
    extras: tuple[str, ...] = ()


#: Regularizers used to be priors: declarations and look-ups under the old kind still work for one release.
_FORMERLY_ONE = {"priors": "regularizers", "regularizers": "priors"}
_classes: dict[_Entry, Any] = {}
_failures: dict[_Entry, str] = {}


def available(kind: str | None = None, *, check: bool = False) -> list[PluginInfo]:
    """List the installed plugins of one kind, or of all, without importing their code.

    Args:
        kind: one of :data:`KINDS`, or None for all of them; or a kind of folders.
        check: import each plugin, so that ``error`` says of every one whether it can be used.

    Raises:
        ConfigError: unknown kind.
    """
    infos = []
    for k in KINDS if kind is None else (kind if kind in contract.FOLDERS else check_kind(kind),):
        if check and k in contract.FOLDERS:
            folders(k)
        entries, unreadable = _entries(k)
        for entry in sorted(entries, key=lambda e: (e.name, e.distribution)):
            if check and k in KINDS:
                with suppress(PluginError):  # noted in _failures
                    load_entry(k, entry, KINDS[k][0])
            summary = contract.definition(entry.module, entry.attribute)[1]
            infos.append(
                PluginInfo(entry.name, k, entry.distribution, entry.version, summary, error=_failures.get(entry))
            )
        infos += [PluginInfo("?", k, "?", "", error=reason) for reason in unreadable]
    return infos


def load(kind: str, name: str, *, where: str | None = None) -> Any:
    """Import a plugin class, once, and check that it keeps the contract.

    Args:
        kind: one of :data:`KINDS`.
        name: name of the plugin, or ``distribution:name``.
        where: the config id for messages; that of the kind unless given.

    Returns:
        A concrete class that derives from a base of the kind.

    Raises:
        ConfigError: unknown kind.
        PluginError: the plugin is unknown, broken, or provided by two distributions.
    """
    where = where or KINDS[check_kind(kind)][0]
    return load_entry(kind, find_entry(kind, name, where), where)


def distribution_of(kind: str, name: str) -> str:
    """Return the distribution that provides a plugin, without importing it.

    Args:
        kind: one of :data:`KINDS`.
        name: name of the plugin, or ``distribution:name``.

    Raises:
        ConfigError: unknown kind.
        PluginError: the plugin is unknown, or provided by two distributions.
    """
    return find_entry(check_kind(kind), name, KINDS[kind][0]).distribution


def name_of(kind: str, cls: type) -> str | None:
    """Return the full name under which a class is registered, or None; nothing is imported.

    Args:
        kind: one of :data:`KINDS`.
        cls: the class.
    """
    entries = _entries(check_kind(kind))[0]
    named = (e for e in entries if e.attribute == cls.__qualname__)
    found = (e for e in named if contract.definition(e.module, e.attribute)[0] == cls.__module__)
    return next((f"{e.distribution}:{e.name}" for e in found), None)


@cache
def folders(kind: str) -> tuple[tuple[str, Path], ...]:
    """Return the folders that installed packages ship: distribution and path, in the order of their names.

    An entry point names a path, a package (its own folder), or a function that returns one of these. For one that
    gives no folder, a warning is logged and the others are used.

    Args:
        kind: one of :data:`~monai_diffrecon.registry.contract.FOLDERS`.
    """
    found = []
    for entry in sorted(_entries(kind)[0], key=lambda e: (e.distribution, e.name)):
        try:
            given: Any = importlib.import_module(entry.module)
            given = reduce(getattr, entry.attribute.split("."), given) if entry.attribute else given
            given = given() if callable(given) else given
            path = Path(given.__path__[0] if hasattr(given, "__path__") else given)
            reason = None if path.is_dir() else "no such folder"
        except (Exception, SystemExit) as error:  # an import may raise anything
            reason = f"{type(error).__name__}: {error}"
        if reason is None:
            found.append((entry.distribution, path))
        else:
            _failures[entry] = " ".join(reason.split())
            logger.warning("no %s from %s: its %r is broken: %s", kind, entry.distribution, entry.name, reason)
    return tuple(found)


def current_name(kind: str, name: str) -> str:
    """Return what a plugin is called now, for a former name of ours; any other name as it is. Nothing is imported.

    Args:
        kind: one of :data:`KINDS`.
        name: name of the plugin, or ``distribution:name``.
    """
    distribution, _, plain = name.rpartition(":")
    new, of = contract.FORMER_NAMES.get(kind, {}).get(plain), canonical(distribution)
    if new is None or of not in ("", "monai-diffrecon"):
        return name
    if any(e.name == plain and of in ("", e.distribution) for e in _entries(kind)[0]):
        return name  # a third party's, or of an installation that is to be renewed
    return f"{distribution}:{new}" if distribution else new


def refresh() -> None:
    """Clear the cache, so that newly installed plugins are found."""
    _entries.cache_clear()
    folders.cache_clear()
    contract.definition.cache_clear()
    _classes.clear()
    _failures.clear()
    importlib.invalidate_caches()


def canonical(distribution: str) -> str:
    """Return the normalized name of a distribution (PEP 503): ``Diffrecon_Wavelets`` -> ``diffrecon-wavelets``."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@cache
def _entries(kind: str) -> tuple[tuple[_Entry, ...], tuple[str, ...]]:
    """Return the entry points of a kind, and what was wrong with those that cannot be read."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            points = entrypoints.get_group_all(f"monai_diffrecon.{kind}")
        except (ConfigParserError, UnicodeDecodeError) as error:
            raise PluginError(
                f"an installed distribution has an unreadable entry_points.txt: {error}",
                mend="reinstall or uninstall that distribution",
            ) from error
    found: dict[tuple[str, str], _Entry] = {}
    for point in points:
        distribution = canonical(point.distro.name) if point.distro else "?"
        version = (point.distro.version if point.distro else None) or _version(distribution)
        extras = tuple(point.extras or ())
        entry = _Entry(kind, point.name, distribution, version, point.module_name, point.object_name or "", extras)
        # A checkout on sys.path shows its distribution a second time (egg-info beside dist-info): the first one
        # on sys.path is the one Python imports.
        found.setdefault((entry.distribution, entry.name), entry)
    return tuple(found.values()), tuple(str(warning.message) for warning in caught)


def _version(distribution: str) -> str:
    try:
        found = metadata.metadata(distribution)
    except (metadata.PackageNotFoundError, FileNotFoundError):  # the latter where importlib_metadata took over
        return ""
    # An egg-info may lack its PKG-INFO.
    return found["Version"] if "Version" in found else ""  # noqa: SIM401 - the stubs know no get


def find_entry(kind: str, name: str, where: str, literals: tuple[str, ...] = ()) -> _Entry:
    """Return the one entry called ``name`` or ``distribution:name``."""
    name = present_name(kind, name)
    distribution, _, plain = name.rpartition(":")
    entries = _entries(kind)[0]
    named = [e for e in entries if e.name == plain]
    if not named and kind in _FORMERLY_ONE:
        named = [e for e in _entries(_FORMERLY_ONE[kind])[0] if e.name == plain]
    matches = [e for e in named if not distribution or e.distribution == canonical(distribution)]
    if len(matches) == 1:
        return matches[0]
    role, in_full = KINDS[kind][0], " or ".join(repr(f"{e.distribution}:{e.name}") for e in named)
    if matches:
        raise PluginError(
            f"{role} {plain!r} is provided by {' and by '.join(e.distribution for e in matches)}",
            where=where,
            mend=f"give the full name, {in_full}",
        )
    known = sorted({*(e.name for e in entries), *literals})
    provider = KNOWN_PROVIDERS.get((kind, plain))
    elsewhere = [k for k in KINDS if k != kind and any(e.name == plain for e in _entries(k)[0])]
    if named:
        mend = f"use {in_full}"
    elif provider:
        mend = f"install the package that provides it, {provider}"
    elif close := get_close_matches(plain, known, n=3):
        mend = f"did you mean {' or '.join(map(repr, close))}?"
    elif elsewhere:
        mend = f"{plain!r} is one of the {elsewhere[0]}; give one of the {kind}"
    else:
        mend = "install the package that provides it (`diffrecon plugins` lists those found)"
    raise PluginError(f"unknown {role} {name!r}", where=where, expected=", ".join(known) or None, mend=mend)


def present_name(kind: str, name: str) -> str:
    """Return :func:`current_name`, with a warning where it is another one."""
    if (present := current_name(kind, name)) != name:
        contract.warn_of_former(KINDS[kind][0], name, present)
    return present


def load_entry(kind: str, entry: _Entry, where: str) -> Any:
    """Return the class of an entry, imported and checked once; note why when it is broken."""
    if entry not in _classes:
        _import(entry, where)
    cls = _classes[entry]
    if not issubclass(cls, contract.bases(kind)):
        role, other = KINDS[kind][0], entry.kind
        mend = f"{entry.name!r} is one of the {other}; give one of the {kind}"
        raise PluginError(f"unknown {role} {entry.name!r}", where=where, mend=mend)
    return cls


def _import(entry: _Entry, where: str) -> None:
    cause, mend = None, f"update or uninstall {entry.distribution}"
    try:
        cls: Any = reduce(getattr, entry.attribute.split("."), importlib.import_module(entry.module))
        reason = contract.breach(entry.kind, cls)
    except (Exception, SystemExit) as error:  # a failing import must not affect other plugins
        cause, reason = error, f"{type(error).__name__}: {error}"
        if isinstance(error, ImportError) and entry.extras:
            mend = f"pip install '{entry.distribution}[{','.join(entry.extras)}]'"
    if reason:
        _failures[entry] = " ".join(reason.split())
        origin = f"{entry.distribution} {entry.version}".strip()
        raise PluginError(f"plugin {entry.name!r} of {origin} is broken: {reason}", where=where, mend=mend) from cause
    _failures.pop(entry, None)
    _classes[entry] = cls
    if entry.kind == "priors" and issubclass(cls, contract.bases("regularizers")):
        warnings.warn(
            f"{entry.distribution} declares the regularizer {entry.name!r} under monai_diffrecon.priors; the next "
            "release will find it under monai_diffrecon.regularizers only",
            DeprecationWarning,
            stacklevel=2,
        )
