# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The registry's requirements of a plugin class: the right base, a known version, named options."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import warnings
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, cast

from monai_diffrecon.errors import ConfigError, PluginError

#: Kind of plugin -> (the config id that holds one, names of its bases in ``monai_diffrecon.protocols``).
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "denoisers": ("denoiser", ("Denoiser",)),
    "priors": ("prior", ("ScorePrior",)),
    "regularizers": ("regularizer", ("Regularizer",)),
    "operators": ("operator", ("Operator",)),
    "consistency": ("consistency", ("ConsistencyStep",)),
    "samplers": ("sampler", ("Sampler",)),
    "noises": ("noise", ("NoiseSource",)),
    "importers": ("importer", ("CheckpointImporter",)),
    "readers": ("reader", ("MeasurementReader",)),
    "writers": ("output_format", ("VolumeWriter",)),
    "metrics": ("metric", ("Metric", "PhantomMetric")),
    "runtimes": ("runtime", ("Runtime",)),
    "executors": ("executor", ("Executor",)),
}

#: Kind of what a package ships as a folder -> what the folder holds. Their entry points name no class.
FOLDERS = {"bundles": "bundles, or is one itself", "methods": "presets of methods, NAME.json"}

#: Former names of our plugins, understood for one release: kind -> former name -> name.
FORMER_NAMES: dict[str, dict[str, str]] = {
    "samplers": {"annealed": "pnp_hqs", "cg_sense": "cg_least_squares"},
    "operators": {"unmeasured": "unconditional"},
    "readers": {"container": "measurement_file"},
}

#: Arguments that the framework gives to plugins, and that are no options.
GIVEN = ("geometry", "network", "seed", "case")

#: What was said of former names -> the warning filters that were in force then.
_said: dict[str, Any] = {}
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def check_kind(kind: str) -> str:
    """Return ``kind`` if it is one of :data:`KINDS`.

    Raises:
        ConfigError: it is not.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown kind of plugin {kind!r}", expected=f"one of {', '.join(KINDS)}")
    return kind


def bases(kind: str) -> tuple[type, ...]:
    """Return the classes one of which a plugin of this kind derives from."""
    protocols = importlib.import_module("monai_diffrecon.protocols")  # lazily: torch comes with it
    names = KINDS[kind][1] + (KINDS["regularizers"][1] if kind == "priors" else ())  # the two were one kind
    return tuple(getattr(protocols, base) for base in names)


def breach(kind: str, cls: Any) -> str | None:
    """Return how a loaded object breaks the contract of its kind, or None."""
    from monai_diffrecon.protocols import API_VERSION

    if not (isinstance(cls, type) and issubclass(cls, bases(kind))):
        return f"{getattr(cls, '__qualname__', cls)!s} is not a subclass of {' or '.join(KINDS[kind][1])}"
    version = getattr(cls, "API_VERSION", None)
    if version != API_VERSION:
        return f"written for API_VERSION {version}, this package has {API_VERSION}"
    if inspect.isabstract(cls):
        return f"{cls.__name__} does not implement {', '.join(sorted(getattr(cls, '__abstractmethods__', ())))}"
    parameters = _parameters(cast(Any, cls))
    if vague := [str(p) for p in parameters.values() if p.kind not in _NAMED]:
        return f"the constructor of {cls.__name__} takes unnamed options: {', '.join(vague)}"
    nested = nested_options(cls)
    if strays := [option for option, k in nested.items() if option not in parameters or k not in KINDS]:
        return f"plugin_options of {cls.__name__} names unknown options or kinds: {', '.join(strays)}"
    return _family_breach(cls) if kind == "operators" else None


def _family_breach(cls: type) -> str | None:
    from monai_diffrecon.protocols.operator import FAMILIES

    family = getattr(cls, "family", None)
    if family is None or (isinstance(family, str) and family in FAMILIES):
        return None
    return f"{cls.__name__}.family is {family!r:.80}, not {', '.join(map(repr, FAMILIES))} or None"


def nested_options(cls: type) -> Mapping[str, str]:
    """Return the options of a class that hold plugins: option -> kind."""
    options: Mapping[str, str] = getattr(cls, "plugin_options", {})
    return options


def literals(cls: type, option: str) -> tuple[str, ...]:
    """Return the words that a plugin option takes beside the names of plugins (``plugin_literals``)."""
    words: Mapping[str, tuple[str, ...]] = getattr(cls, "plugin_literals", {})
    return tuple(words.get(option, ()))


def warn_of_former(what: str, former: str, name: str) -> None:
    """Warn the user that something has another name now: once a process, and again where a test sets its own filters.

    Args:
        what: kind of what it is.
        former: the name that was given.
        name: the name of today.
    """
    text = f"the {what} {former!r} is now called {name!r}; the next release will not accept the former name"
    if _said.get(text) is not warnings.filters:
        _said[text] = warnings.filters
        warnings.warn(text, FutureWarning, stacklevel=2)


def with_present_options(cls: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with those that the class has renamed (``former_options``) under their names of today.

    Of an option that is given under both names the latter counts, as of any that overlays give twice.
    """
    former: Mapping[str, str] = getattr(cls, "former_options", {})
    present: dict[str, Any] = {}
    for option, value in options.items():
        name = option
        if option in former and option not in inspect.signature(cls).parameters:  # which a subclass may still have
            name = former[option]
            warn_of_former(f"option of {cls.__name__}", option, name)
        present[name] = value
    return present


def check_option_names(cls: type, options: Iterable[str], context: Iterable[str], where: str) -> None:
    """Compare options with the signature of the constructor.

    Args:
        cls: the plugin class.
        options: names the user gave.
        context: names of the arguments that the framework gives.
        where: the config id for messages.

    Raises:
        ConfigError: a mistyped option.
        PluginError: the class does not take what the framework gives.
    """
    parameters, given = _parameters(cls), set(context)
    for name in sorted(given - parameters.keys()):
        raise PluginError(
            f"the constructor of {cls.__name__} does not accept {name!r}, which is passed to every plugin of its kind",
            where=where,
            mend="report it to the author of the plugin",
        )
    valid = [name for name in parameters if name not in given]
    for option in options:
        if option not in valid:
            close = get_close_matches(str(option), valid, n=1)
            raise ConfigError(
                f"{cls.__name__} has no option {option!r}",
                where=f"{where}#{option}",
                expected=f"one of {', '.join(valid)}" if valid else "no options",
                mend=f"did you mean {close[0]!r}?" if close else None,
            )


def check_required(cls: type, given: Iterable[str], where: str) -> None:
    """Check that no argument without a default is missing.

    Raises:
        ConfigError: one is.
    """
    names = set(given)
    required = [n for n, p in _parameters(cls).items() if p.default is inspect.Parameter.empty]
    if missing := [name for name in required if name not in names]:
        raise ConfigError(
            f"{cls.__name__} is missing {', '.join(map(repr, missing))}",
            where=where,
            expected=f"the required {', '.join(required)}",
            got=", ".join(sorted(names)) or "no options",
        )


@cache
def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a constructor; ``inspect`` takes milliseconds for one that a class inherits."""
    return inspect.signature(cls).parameters


@cache
def definition(module: str, attribute: str) -> tuple[str, str]:
    """Return where a class is defined and the first line of its docstring, from source files; nothing is imported.

    Args:
        module: the module that an entry point names.
        attribute: name of the class there; what the module imports by this name is followed.

    Returns:
        The defining module, as far as it is known, and the line, which may be empty.
    """
    package, *parts = module.split(".")
    try:
        spec = importlib.util.find_spec(package)  # of the top package alone: a submodule's would import its parents
        if spec is None:
            return module, ""
        stems = [Path(folder, *parts) for folder in spec.submodule_search_locations or ()]
        files = [f for stem in stems for f in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py")]
        if not parts and spec.origin:
            files = [Path(spec.origin)]
        source = next(f for f in files if f.is_file()).read_bytes()
        body = ast.parse(source).body
        for node in [*body, *(inner for top in body if isinstance(top, ast.If | ast.Try) for inner in top.body)]:
            if isinstance(node, ast.ClassDef) and node.name == attribute:
                return module, (ast.get_docstring(node) or "").strip().partition("\n")[0]
            if isinstance(node, ast.ImportFrom) and node.module and not node.level and node.module != module:
                names = [alias.name for alias in node.names if (alias.asname or alias.name) == attribute]
                if names:
                    return definition(node.module, names[0])
    except (StopIteration, ImportError, AttributeError, ValueError, SyntaxError, OSError, RecursionError):
        pass  # a list is useful without a summary; loading the plugin reports the error
    return module, ""
