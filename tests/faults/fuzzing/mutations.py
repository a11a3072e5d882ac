# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Seeded mutations of bytes and of JSON values."""

from __future__ import annotations

import copy
import math
import random
import struct
from typing import Any

#: What stands where something else is expected.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 0.5, 1.5, -0.5, 10**9, 10**18, -(10**9), 10**400, 1e308, -1e308, 1e-308,
    5e-324, math.nan, math.inf, -math.inf, "", " ", "x", "auto", "../../x", "/etc/hostname", "..", "a\0b",
    "two\nlines\u2028three", "x" * 5000, "diffrecon-mri:", ":", "1e3", "nan", [], [1], [1, 2, 3], [0, 0, 0], [[1,
    0], [0, 1]], [None], [math.nan] * 3, ["x", {}], {}, {"name": "x"}, {"name": None}, {"name": "z_tv"}, {"name":
    "slices", "x": 1}, {"$array": "../x"}, {"x": {}},
)  # fmt: skip


def nested(depth: int) -> Any:
    """Return lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def any_value(rng: random.Random) -> Any:
    """Return a value that is probably wrong."""
    kind = rng.random()
    if kind < 0.8:
        return copy.deepcopy(rng.choice(VALUES))
    if kind < 0.85:
        return nested(rng.choice((5, 50)))
    if kind < 0.95:
        return rng.choice((1, -1)) * 10.0 ** rng.uniform(-12, 12)
    return rng.randint(-(2**63), 2**63)


def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in nested dicts and lists."""
    found = [at] if at else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found += places(value, (*at, key))
    return found


def mutate_tree(rng: random.Random, tree: Any, where: tuple[Any, ...] = ()) -> Any:
    """Return a copy of nested dicts and lists with one thing wrong, below ``where``."""
    tree = copy.deepcopy(tree)
    choices = [p for p in places(tree) if p[: len(where)] == where]
    if not choices:
        return any_value(rng)
    path = rng.choice(choices)
    holder = tree
    for key in path[:-1]:
        holder = holder[key]
    key, kind = path[-1], rng.random()
    if kind < 0.6:
        holder[key] = any_value(rng)
    elif kind < 0.7:
        del holder[key]
    elif kind < 0.8 and isinstance(holder, dict):
        holder[rng.choice((f"{key}s", f"{key}"[:-1] or "q", "x", "__class__", "../x"))] = any_value(rng)
    elif kind < 0.9:
        holder[key] = rng.choice(([holder[key]], {"name": holder[key]}, {"x": holder[key]}, str(holder[key])))
    else:
        other = tree
        for step in rng.choice(choices):
            other = other[step]
        holder[key] = copy.deepcopy(other)
    return tree


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """Return bytes with one to three damages; most of them near the beginning, where headers are."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        size = len(data)
        if not size:
            break
        at = min(int(size * rng.random() ** rng.choice((1, 4))), size - 1)
        length = min(rng.choice((1, 2, 4, 8, 64, 512)), size - at)
        kind = rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + length] = bytes(length)
        elif kind == 2:
            data[at : at + length] = b"\xff" * length
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            data[at:at] = rng.randbytes(length)
        elif kind == 5:
            data[at : at + length] = rng.randbytes(length)
        else:
            number = rng.choice((0, 1, -1, 2**31 - 1, 2**63 - 1, -(2**63), 10**12, 65535))
            width = min(rng.choice((2, 4, 8)), size - at)
            data[at : at + width] = struct.pack("<q", number)[:width]
    return bytes(data)
