# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Writes the package of a new plugin, which passes the laws of its kind at once."""

from __future__ import annotations

import builtins
import importlib.util
import keyword
import os
import re
import secrets
import shutil
from difflib import get_close_matches
from pathlib import Path
from string import Template

from monai_diffrecon._version import __version__
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import path_option
from monai_diffrecon.io.atomic import told
from monai_diffrecon.registry import KNOWN_PROVIDERS, available
from monai_diffrecon.registry.contract import FOLDERS, FORMER_NAMES

TEMPLATES = Path(__file__).parent / "templates"
_COMMON = "common"
_NAME, _LONGEST = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*"), 40
#: Words that a configuration has in the place of a plugin's name, and names of packages of ours.
_RESERVED = frozenset({"auto", "noise", "none", *FOLDERS})
#: Their plugins share one name space for one release.
_ONE_SPACE = {"priors": ("priors", "regularizers"), "regularizers": ("priors", "regularizers")}


def kinds() -> dict[str, str]:
    """Return what a kind with a template may be called -> its name in the registry: ``operator`` and ``operators``."""
    found = sorted(folder.name for folder in TEMPLATES.iterdir() if folder.name != _COMMON)
    return {word: kind for kind in found for word in (kind.removesuffix("s"), kind)}


def new_plugin(kind: str, name: str, output: str | Path = ".", *, author: str | None = None) -> Path:
    """Write the package ``diffrecon-NAME`` (with ``-`` for ``_``) of a plugin, in one step.

    Args:
        kind: a key of :func:`kinds`.
        name: name of the plugin: lower-case letters, digits and single underscores.
        output: an existing folder, for the folder of the package.
        author: author in the metadata; None for one that can be replaced later.

    Returns:
        The folder of the package.

    Raises:
        ConfigError: unknown kind, no such name, or one that is taken.
        InputError: no such output folder, one that cannot be written, or the package is there.
        ResourceError: the disk is full.
    """
    kind = _checked_kind(kind)
    distribution, module = f"diffrecon-{name}".replace("_", "-"), f"diffrecon_{name}"
    _check_name(kind, name, distribution, module)
    author = f"The {distribution} authors" if author is None else author.strip()
    if not author or not author.isprintable():
        raise ConfigError("not a name of an author", where="--author", expected="one line of text", got=repr(author))
    parent = path_option(output, "--output")
    if not parent.is_dir():
        raise InputError("no such folder", where="--output", got=parent.name, mend="create the folder first")
    if os.path.lexists(parent / distribution):
        raise InputError("is there already", where=distribution, mend="choose another NAME or --output")
    texts = {
        "setup.cfg": _template(_COMMON, "setup.cfg"),
        "pyproject.toml": _template(_COMMON, "pyproject.toml"),
        "README.md": _template(_COMMON, "README.md"),
        f"{module}.py": _template(kind, "plugin.py"),
        f"tests/test_{name}.py": _template(kind, "test_plugin.py"),
    }
    major, minor = map(int, __version__.split(".")[:2])
    fields = {
        "kind": kind,
        "name": name,
        "distribution": distribution,
        "module": module,
        "cls": _class_name(name, kind, " ".join(texts.values())),
        "author": author,
        "requires": f">={major}.{minor},<{major}.{minor + 1}",
        "usage": Template(_template(kind, "usage.md").rstrip()).substitute(name=name),
    }
    _write(parent / distribution, {target: Template(text).substitute(fields) for target, text in texts.items()})
    return parent / distribution


def _template(folder: str, file: str) -> str:
    return (TEMPLATES / folder / f"{file}.template").read_text(encoding="utf-8")


def _checked_kind(word: str) -> str:
    known = kinds()
    if word not in known:
        close = get_close_matches(word.lower(), known, n=1)
        raise ConfigError(
            f"no template for a plugin of the kind {word!r}",
            where="KIND",
            expected=", ".join(sorted({kind.removesuffix("s") for kind in known})),
            mend=f"did you mean {close[0]!r}?" if close else None,
        )
    return known[word]


def _check_name(kind: str, name: str, distribution: str, module: str) -> None:
    """Refuse what is no name, and what a plugin of this kind, a package or a module has."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        near = re.sub(r"[^a-z0-9]+", "_", words).strip("_")
        raise ConfigError(
            "not a name of a plugin",
            where="NAME",
            expected=f"a letter, then letters, digits and single underscores, lower case, up to {_LONGEST}",
            got=repr(name),
            mend=f"use {near!r}" if _NAME.fullmatch(near) and len(near) <= _LONGEST else None,
        )
    space = _ONE_SPACE.get(kind, (kind,))
    installed = available()
    owners = {info.name: info.distribution for info in installed if info.kind in space}
    owners |= {plugin: owner for (of, plugin), owner in KNOWN_PROVIDERS.items() if of in space}
    owners |= {former: "monai-diffrecon" for of in space for former in FORMER_NAMES.get(of, {})}
    packages = {*KNOWN_PROVIDERS.values(), *(info.distribution for info in installed)}
    if name in owners:
        taken = f"a plugin of {owners[name]}"
    elif name in _RESERVED:
        taken = "a word with a meaning of its own"
    elif distribution in packages or importlib.util.find_spec(module) is not None:
        taken = f"the package {distribution}"
    else:
        return
    raise ConfigError(
        "the name is taken", where="NAME", expected="a new name", got=f"{name!r}, {taken}", mend="choose another"
    )


def _class_name(name: str, kind: str, text: str) -> str:
    """Return the name in CamelCase; with the kind behind it where the template or Python uses it already."""
    camel = "".join(word.capitalize() for word in name.split("_"))
    if camel in {*re.findall(r"\w+", text), *keyword.kwlist, *dir(builtins)}:
        camel += kind.removesuffix("s").capitalize()
    return camel


def _write(folder: Path, texts: dict[str, str]) -> None:
    """Write the files of a folder that is not there, in one step."""
    temporary = folder.with_name(f".{secrets.token_hex(6)}.tmp")
    try:
        for target, text in texts.items():
            path = temporary / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        os.rename(temporary, folder)
    except OSError as error:
        raise told(error, folder.name) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
