# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Checking the command line of ``monai.bundle run`` before anything is computed or written."""

from __future__ import annotations

import inspect
import io
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.options.known_ids import is_known, nearest, present_id
from monai_diffrecon.options.typed_option import TEXTS, TypedOption, typed_options
from monai_diffrecon.presets.overlays import ALIASES, METHOD, overlays

#: Prefixes of values that MONAI interprets: an expression, a reference, a macro.
_MARKS = ("$", "@", "%")


def check_command_line() -> None:
    """Check the command line of this process, if it is ``python -m monai.bundle run``, and restore its texts.

    A bundle calls it from ``initialize``, which MONAI runs first. MONAI and fire, which parses the command line, change
    strings: ``101_1`` becomes 1011, ``scan#1.nii`` becomes ``scan``, ``/data/run#1`` becomes ``/data/run::1``. Paths
    and names are restored as typed.

    Raises:
        ConfigError: an id that no configuration file defines, or a path that cannot be told from MONAI's own marks.
    """
    for stream in (sys.stdout, sys.stderr):  # MONAI logs every option, and a path may be no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    program, words = Path(sys.argv[0]).parts[-3:], sys.argv[1:]
    texts: dict[str, Any] = {}
    if program == ("monai", "bundle", "__main__.py") and words[:1] in (["run"], ["run_workflow"]):
        texts = check_arguments(words[1:])
    workflow = _workflow()
    if workflow is not None:
        _restore(workflow.parser, texts)


def check_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Check what follows the word ``run`` on a command line; return the paths and names: id -> as they were typed.

    Args:
        arguments: the words.

    Raises:
        InputError: a configuration file that does not exist or cannot be read.
        ConfigError: an id that no configuration file defines, or a path that cannot be told from MONAI's own marks.
    """
    options = {option.name: option for option in typed_options(arguments)}
    if "args_file" in options:
        (content,) = _contents([options["args_file"].value], "args_file")
        options = {name: TypedOption(name, value) for name, value in content.items()} | options
    own = _own_arguments(options)
    if "config_file" not in options:
        raise ConfigError("no configuration file", where="config_file", mend="pass --config_file FILE")
    for name in ("meta_file", "logging_file"):
        if name in options and isinstance(options[name].value, str):
            _existing(options[name].value, name)
    config = _merged(options["config_file"].value)
    given = [option for option in options.values() if option.name not in own]
    unknown: dict[str, str | None] = {}
    texts: dict[str, Any] = {}
    for option in given:
        name = present_id(config.get(), option.name)
        if not is_known(config.get(), name):
            unknown[option.name] = nearest(config.get(), name, own)
            continue
        if option.is_text:
            texts[option.name] = _text(option, config.get())
        try:
            config[name] = option.value
        except (KeyError, IndexError, ValueError, TypeError):
            unknown[option.name] = None
    if unknown:
        close = [repr(name) for name in unknown.values() if name is not None]
        raise ConfigError(
            "no configuration file defines it" if len(unknown) == 1 else "no configuration file defines them",
            where=", ".join(unknown),
            mend=f"did you mean {', '.join(close)}?" if close else "leave it out",
        )
    # Texts of the files too: MONAI replaces every # in them.
    top = {name: value for name, value in config.get().items() if name in TEXTS and _has_hash(value)}
    return top | texts


def with_present_ids(arguments: Sequence[str]) -> list[str]:
    """Return a checked command line with options of plugins that were renamed as they are called now.

    Args:
        arguments: the words.
    """
    options = {option.name: option.value for option in typed_options(arguments)}
    if "config_file" not in options:
        return list(arguments)
    config, words = _merged(options["config_file"]).get(), list(arguments)
    for index, word in enumerate(words):
        name, equals, text = word.partition("=")
        id_ = name.lstrip("-").replace("-", "_").replace("::", "#")
        if name.startswith("-") and (present := present_id(config, id_)) != id_:
            words[index] = f"--{present}{equals}{text}"
    return words


def _own_arguments(options: Mapping[str, TypedOption]) -> set[str]:
    """Return the names of the arguments that are MONAI's and no ids of a configuration."""
    from monai import bundle
    from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

    functions = (bundle.run, bundle.run_workflow, bundle.create_workflow, bundle.ConfigWorkflow.__init__)
    names = {p.name for f in functions for p in inspect.signature(f).parameters.values() if p.kind is not p.VAR_KEYWORD}
    if "tracking" in options:  # its settings
        names.update(*(settings["configs"] for settings in DEFAULT_EXP_MGMT_SETTINGS.values()))
    return names


def _merged(files: Any) -> Any:
    """Return a parser with the configuration files merged as MONAI does it."""
    from monai.bundle import ConfigParser
    from monai.bundle.utils import merge_kv

    if isinstance(files, str) and not Path(files).is_file() and "," in files:
        files = files.split(",")
    config = ConfigParser(config={"_meta_": {}})
    for content in _contents([files] if isinstance(files, str) else list(files or ()), "config_file"):
        try:
            for name, value in content.items():
                merge_kv(config, name, value)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise ConfigError("overlays that do not match", where="config_file", got=str(error)[:100]) from None
    return config


def _contents(files: Sequence[Any], where: str) -> list[dict[str, Any]]:
    """Return the content of configuration files; messages may name these, since they are not scans."""
    from monai.bundle import ConfigParser

    found = []
    for file in files:
        path = _existing(file, where)
        try:
            content = ConfigParser.load_config_file(str(path))
        except Exception as error:
            raise InputError("cannot be read as JSON or YAML", where=where, got=f"{path.name}: {error}") from None
        if not isinstance(content, dict):
            raise InputError("not an object", where=where, expected="{id: value}", got=path.name)
        found.append(content)
    return found


def _existing(file: Any, where: str) -> Path:
    path = Path(str(file))
    if not path.is_file():
        shared = overlays(METHOD) if path.parent.name == METHOD else {}
        preset = shared.get(path.stem) or shared.get(ALIASES.get(path.stem, ""))
        close = _nearest_file(path) if preset is None else str(preset)
        raise InputError(
            "no such file", where=where, got=str(file), mend=f"did you mean {close}?" if close else "check the path"
        )
    return path


def _nearest_file(path: Path) -> str | None:
    """Return the file that a mistyped path most likely means, or None."""
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    top = next((p for p in (folder, *folder.parents) if p.name == "configs"), folder)
    there = {str(p): p.stem for pattern in ("*.json", "*/*.json", "*.y*ml", "*/*.y*ml") for p in top.glob(pattern)}
    if close := get_close_matches(str(path), there, n=1, cutoff=0.8):
        return close[0]
    names = get_close_matches(path.stem, there.values(), n=1)
    return next((p for p, stem in there.items() if names and stem == names[0]), None)


def _text(option: TypedOption, config: Mapping[str, Any]) -> Any:
    """Return what a path or a name means; a reference or an expression stays one.

    Raises:
        ConfigError: it begins as one, and refers to nothing that is known.
    """
    meant = option.meant
    if isinstance(meant, str) and meant.startswith(_MARKS):
        from monai.bundle import ReferenceResolver

        references = ReferenceResolver.match_refs_pattern(ReferenceResolver.normalize_id(meant))
        if meant[0] == "%" or not references or not all(is_known(config, r.replace("::", "#")) for r in references):
            raise ConfigError(
                f"begins with {meant[0]!r}, which marks an expression, a reference or a macro in MONAI",
                where=option.name,
                expected="a path or a name, or a reference to a known id",
                mend=f"write ./{meant[0]}... for a file or folder with this name",
            )
    return meant


def _has_hash(value: Any) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(v, str) and "#" in v and not v.startswith(_MARKS) for v in values)


def _workflow() -> Any:
    """Return MONAI's workflow that this is called from, or None: an expression has no other way to it."""
    from monai.bundle import ConfigWorkflow

    frame = inspect.currentframe()
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), ConfigWorkflow):
            return frame.f_locals["self"]
        frame = frame.f_back
    return None


def _restore(parser: Any, texts: Mapping[str, Any]) -> None:
    """Put texts into a configuration that is parsed already, so that MONAI changes them no more.

    Raises:
        ConfigError: a path or a name that MONAI has changed, and nobody knows how it was.
    """
    for name, text in texts.items():
        values = text if isinstance(text, list | tuple) else [text]
        if all(isinstance(v, str) and not v.startswith(_MARKS) for v in values):
            parser[name] = _expression(text)
    for name in TEXTS:
        value = parser.get(name)
        if isinstance(value, str) and "::" in value and not value.startswith("$"):
            raise ConfigError(
                "contains # or ::, which MONAI treats as a separator of ids",
                where=name,
                expected="a path or a name without them",
                mend="rename it, or give it on the command line",
            )


def _expression(value: Any) -> str:
    """Return texts as a Python expression in which nothing is left that MONAI replaces."""
    return "$" + ascii(value).translate({ord(mark): f"\\x{ord(mark):02x}" for mark in "#@%$:"})
