# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""JSON files as dataclasses, checked by pydantic: every mistake is one line that names its place in the file."""

from __future__ import annotations

import json
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import MISSING, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import BeforeValidator, Field, StringConstraints, TypeAdapter, ValidationError

from monai_diffrecon.errors import ConfigError, DiffReconError, InputError

T = TypeVar("T")

#: A text that is not blank, and a finite number. Neither a text nor a truth value is a number.
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]

_DEEPEST = 100
#: What pydantic names by Python's types.
_CONTAINERS = {"tuple_type": "a list", "list_type": "a list", "dict_type": "an object", "dataclass_type": "an object"}


def read_json(path: Path, where: str) -> Any:
    """Return what a JSON file holds.

    Args:
        path: the file.
        where: what messages call it.

    Raises:
        InputError: no such file, one that cannot be read, not JSON, or nested more than 100 levels deep.
        ConfigError: a key twice in one object, of which JSON readers silently take the last.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, count in Counter(key for key, _ in pairs).items():
            if count > 1:
                raise ConfigError("a key twice", where=at(where, key), mend="take one of them out")
        return dict(pairs)

    try:
        level = [value := json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)]
        for _ in range(_DEEPEST):
            level = [v for x in level if isinstance(x, dict | list) for v in (x.values() if isinstance(x, dict) else x)]
        if level:
            raise RecursionError
    except (FileNotFoundError, IsADirectoryError):
        raise InputError("no such file", where=where) from None
    except OSError as error:
        raise InputError("cannot be read", where=where, got=error.strerror) from None
    except RecursionError:
        raise InputError("nested too deeply", where=where, expected=f"at most {_DEEPEST} levels") from None
    except ValueError as error:  # not UTF-8, not JSON, or a number of thousands of digits
        raise InputError("not JSON", where=where, got=str(error)) from None
    return value


def validated(kind: type[T], value: object, where: str, error: type[DiffReconError] = ConfigError) -> T:
    """Return a value as ``kind``, a dataclass or another type that pydantic knows.

    Args:
        kind: the type; its ``Annotated`` constraints are checked.
        value: content of a JSON file, or a part of it.
        where: its place for messages.
        error: what to raise for what pydantic itself refuses.

    Raises:
        DiffReconError: ``error``, or what a check (:func:`checked`) raised, with the place of the value.
    """
    adapter: TypeAdapter[T] = _adapter(cast(Any, kind))
    try:
        return adapter.validate_python(value)
    except ValidationError as refused:
        first = refused.errors(include_url=False)[0]
    where, given, raised = at(where, *first["loc"]), first["input"], first.get("ctx", {}).get("error")
    if isinstance(raised, ValueError) and isinstance(told := raised.args[0], DiffReconError):
        raise type(told)(told.what, where=at(where, told.where), expected=told.expected, got=told.got, mend=told.mend)
    if first["type"] == "missing":
        raise error("missing", where=where, expected="a value", got="none")
    said = re.sub(r"^\w+ should (be |have )?| after validation.*", "", first["msg"])
    wrong_type = first["type"].endswith("_type")
    # A text where something else is due may be a path, which no message repeats.
    hidden = isinstance(given, list | dict) or (wrong_type and isinstance(given, str))
    got = type(given).__name__ if hidden else reprlib.repr(given)
    raise error(
        "of the wrong type" if wrong_type else "out of range",
        where=where,
        expected=_CONTAINERS.get(first["type"], said),
        got=got,
    )


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Return what validates a type; pydantic takes much longer to build it than to use it."""
    return TypeAdapter(kind)


def checked(check: Callable[[Any, str], Any]) -> BeforeValidator:
    """Return a check of ours, ``check(value, where)``, for ``Annotated``; it returns the value to go on with."""

    def run(value: Any) -> Any:
        try:
            return check(value, "")
        except DiffReconError as error:
            raise ValueError(error) from None  # the one that pydantic collects

    return BeforeValidator(run)


def keys_of(kind: type) -> Callable[[Any, str], dict[str, Any]]:
    """Return a check that an object of a file has the keys of a dataclass: no other, and all without a default."""
    known = [f.name for f in fields(kind)]
    return lambda value, where: check_keys(value, where, known, needed_keys(kind))


def needed_keys(kind: type) -> list[str]:
    """Return the fields of a dataclass that have no default."""
    return [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]


def check_keys(value: object, where: str, known: Collection[str], needed: Collection[str] = ()) -> dict[str, Any]:
    """Return an object of a file that has no unknown key, and something behind each of those that it needs.

    Raises:
        ConfigError: it is not, with the known key that is most like the unknown one.
    """
    if not isinstance(value, dict):
        raise ConfigError("not an object", where=where, expected="{" + ", ".join(known) + "}", got=type(value).__name__)
    for key in value:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            mend = f"did you mean {near[0]!r}?" if near else None
            raise ConfigError("unknown key", where=at(where, key), expected=", ".join(known), mend=mend)
    for key in needed:
        if value.get(key) in (None, "", [], {}):
            raise ConfigError("missing", where=at(where, key))
    return value


def at(where: str | None, *steps: object) -> str:
    """Return the place of a value: that of what it is in, and the keys or numbers that lead to it."""
    return "#".join(str(step) for step in (where, *steps) if step not in (None, ""))
