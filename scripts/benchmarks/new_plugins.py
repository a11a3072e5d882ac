# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""How long it takes from ``diffrecon new-plugin`` to a plugin whose tests have passed, for each kind.

    python scripts/benchmarks/new_plugins.py

Prints a table: lines of the package, tests, and seconds from the command to the last test, each step in a process of
its own as a person runs it. Instead of ``pip install -e .``, which also asks a package index, the package is registered
by an egg-info in its folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from monai_diffrecon.scaffold.new_plugin import kinds

STEPS = (
    ["-m", "monai_diffrecon", "new-plugin", "KIND", "NAME"],
    ["-c", "import os, setuptools; os.chdir('FOLDER'); setuptools.setup(script_args=['-q', 'egg_info'])"],
    ["-m", "pytest", "-q", "-p", "no:cacheprovider", "FOLDER"],
)


def measure(kind: str, parent: Path) -> tuple[int, int, float]:
    """Return lines, tests, and seconds."""
    name = f"timed_{kind}"
    folder = parent / f"diffrecon-timed-{kind}"
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    given = {"KIND": kind, "NAME": name}
    begin, said = time.monotonic(), ""
    for step in STEPS:
        words = [given.get(word, word.replace("FOLDER", str(folder))) for word in step]
        done = subprocess.run(
            [sys.executable, *words], cwd=parent, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
        )
        said = done.stdout
        if done.returncode:
            raise SystemExit(said + done.stderr)
    seconds = time.monotonic() - begin
    files = [p for p in folder.rglob("*") if p.is_file() and not re.search(r"egg-info|__pycache__", str(p))]
    (tests,) = re.findall(r"(\d+) passed", said)
    return sum(len(p.read_text(encoding="utf-8").splitlines()) for p in files), int(tests), seconds


def main() -> None:
    """Print the table."""
    print("| kind | lines | tests | seconds |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as parent:
        for kind in sorted({*kinds().values()}):
            lines, tests, seconds = measure(kind, Path(parent))
            print(f"| {kind} | {lines} | {tests} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
