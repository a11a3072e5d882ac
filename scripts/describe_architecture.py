# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Count and draw the structure of the package, from its imports and from one default run.

    python scripts/describe_architecture.py [--before CHECKOUT] [--write]

Prints a table: modules, lines, circles of imports and so on, of another checkout and of this one. ``--write`` puts the
table into ``docs/architecture.md`` and draws ``docs/pictures/architecture.png``: a box for each folder in the row
of its layer, an arrow for each dependency that no other arrows imply, and the order in which a default run of the
example scan first enters the folders.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "monai_diffrecon"
PAGE, PICTURE = ROOT / "docs" / "architecture.md", ROOT / "docs" / "pictures" / "architecture.png"
MARKS = "<!-- figures: begin -->", "<!-- figures: end -->"
Graph = dict[str, set[str]]

#: Runs the default on a crop, and writes the files of the package whose code ran, in the order of their first call.
TRACE = """
import json, os, runpy, sys
output, arguments = sys.argv[1], sys.argv[2:]
entered = {}

def note(frame, event, arg):
    path = frame.f_code.co_filename
    # Not of modules and bodies of classes, which run when they are imported: those of functions are optimized.
    if event == "call" and "/monai_diffrecon/" in path and frame.f_code.co_flags & 1:
        entered.setdefault(path, len(entered))

sys.argv = ["monai.bundle", "run", *arguments]
sys.setprofile(note)
try:
    runpy.run_module("monai.bundle", run_name="__main__")
except SystemExit as done:
    assert not done.code, done.code
finally:
    sys.setprofile(None)
json.dump(list(entered), open(output, "w"))
"""


def modules_of(root: Path) -> dict[str, Path]:
    """Return dotted name -> file of the package in a checkout."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(modules: Mapping[str, Path]) -> Graph:
    """Return module -> modules of the package that it imports, at its top or within functions."""
    graph: Graph = {}
    for name, path in modules.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                wanted = [one if one in modules else node.module for one in full]
            else:
                continue
            graph[name] |= {one for one in wanted if one in modules and one != name}
    return graph


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the groups of nodes that reach each other (Tarjan's strongly connected components of two and more)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[-len(group) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def folder_graph(graph: Graph, folder: Callable[[str], str]) -> Graph:
    """Return folder -> folders that its modules import."""
    merged: Graph = {}
    for name, wanted in graph.items():
        merged.setdefault(folder(name), set()).update(folder(one) for one in wanted)
    return {name: others - {name} for name, others in merged.items()}


def upward(graph: Graph) -> int:
    """Return how many imports have to go so that no circle of packages is left, as import-linter nominates them."""
    import grimp

    built = grimp.ImportGraph()
    for name in graph:
        built.add_module(name)
    for name, wanted in graph.items():
        for other in wanted:
            built.add_import(importer=name, imported=other)
    packages = {name.rpartition(".")[0] for name in graph if "." in name}
    return sum(len(built.nominate_cycle_breakers(package)) for package in sorted(packages))


def trace(root: Path) -> list[str]:
    """Run the default of a checkout on a crop of the example scan; return the files whose code ran, in order."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from hash_defaults import crop

    bundle = root / "bundles" / "brain_mr_t1_axial"
    with tempfile.TemporaryDirectory() as folder:
        image, output = Path(folder) / "crop.nii.gz", Path(folder) / "trace.json"
        crop(image, 1.0)
        configs = [str(bundle / "configs" / name) for name in ("inference.json", "tasks/z_super_resolution.json")]
        command = [sys.executable, "-W", "ignore", "-c", TRACE, str(output), "--config_file", str(configs)]
        command += ["--bundle_root", str(bundle), "--image", str(image), "--output_dir", str(Path(folder) / "out")]
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True)
        return list(json.loads(output.read_text(encoding="utf-8")))


def figures(root: Path) -> dict[str, str]:
    """Return what is counted of a checkout."""
    modules = modules_of(root)
    graph = imports_of(modules)
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in modules.values()]
    folders: dict[Path, int] = {}
    for where in (PACKAGE, "plugins", "scripts", "tests"):
        for path in (root / where).rglob("*.py"):
            folders[path.parent] = folders.get(path.parent, 0) + 1
    fullest = max(folders, key=lambda one: folders[one])
    rings = circles(graph)
    engine = [path for path in (root / PACKAGE / "engine").glob("*.py") if path.name != "__init__.py"]
    presets = [*(root / "bundles").rglob("*.json"), *(root / PACKAGE).rglob("*.json")]
    return {
        "modules of the core": str(len(modules)),
        "lines of the core": f"{sum(lines):,}",
        "median lines of a module": f"{statistics.median(lines):.0f}",
        "fullest folder (core, plugins, scripts, tests)": f"{folders[fullest]} ({fullest.relative_to(root)})",
        "files directly in `engine/`": str(len(engine)),
        "JSON files of bundles, presets and template": str(len(presets)),
        "circles of imports": str(len(rings)) + (f" ({max(map(len, rings))} files)" if rings else ""),
        "imports that run back up": str(upward(graph)),
        "files that run between `bundle run` and the NIfTI": str(len(trace(root))),
    }


def table(before: Mapping[str, str] | None, now: Mapping[str, str]) -> str:
    """Return the figures as Markdown."""
    if before is None:
        return "\n".join(["| | now |", "|---|---|", *(f"| {name} | {value} |" for name, value in now.items())])
    rows = [f"| {name} | {before[name]} | {value} |" for name, value in now.items()]
    return "\n".join(["| | before | now |", "|---|---|---|", *rows])


def layers() -> list[list[str]]:
    """Return the layers of the import contract, the highest first; a layer is a list of folders or modules."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    said = re.search(r'name = "Imports run downwards only".*?\nlayers = \[(.*?)\]', text, re.S)
    assert said is not None
    rows = [re.findall(r"[\w]+", line) for line in re.findall(r'"([^"]*)"', said.group(1))]
    return [row for row in rows if not row[0].startswith("_")]


def reduced(graph: Graph) -> Graph:
    """Return the arrows that no path of other arrows implies."""

    def reach(start: str, without: tuple[str, str]) -> set[str]:
        seen: set[str] = set()
        queue = [start]
        while queue:
            node = queue.pop()
            for other in graph[node]:
                if (node, other) != without and other not in seen:
                    seen.add(other)
                    queue.append(other)
        return seen

    return {a: {b for b in others if b not in reach(a, (a, b))} for a, others in graph.items()}


def draw(path: Path) -> None:
    """Draw the folders in their layers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    modules, rows = modules_of(ROOT), layers()

    def top(name: str) -> str:
        return [*name.split("."), ""][1]

    graph = folder_graph(imports_of(modules), top)
    shown = {name for row in rows for name in row}
    graph = {a: {b for b in others if b in shown} for a, others in graph.items() if a in shown}
    order: dict[str, int] = {}
    for file in trace(ROOT):
        parts = Path(file).parts
        name = parts[len(parts) - parts[::-1].index(PACKAGE) :][0].removesuffix(".py")
        order.setdefault(name, len(order) + 1)
    across = 1.25 * (max(len(row) for row in rows) + 1)
    figure, axes = plt.subplots(figsize=(1.1 * across, 0.95 * len(rows) + 0.6))
    place: dict[str, tuple[float, float]] = {}
    for level, row in enumerate(rows):
        for column, name in enumerate(row):
            place[name] = ((column + 1) / (len(row) + 1) * across, -float(level))
    width = {name: 1.1 if len(next(r for r in rows if name in r)) > 4 else 2.1 for name in place}
    for a, others in reduced(graph).items():
        for b in others:
            (x0, y0), (x1, y1) = place[a], place[b]
            ends = {"xy": (x1, y1 + 0.27), "xytext": (x0, y0 - 0.27)}
            axes.annotate("", **ends, arrowprops={"arrowstyle": "-|>", "color": "#9aa5b1", "lw": 1.0}, zorder=1)
    for name, (x, y) in place.items():
        files = [p for m, p in modules.items() if top(m) == name]
        count = sum(len(p.read_text(encoding="utf-8").splitlines()) for p in files)
        w = width[name]
        style = {"fc": "#d8e8f8" if name in order else "#f2f2f2", "ec": "#4a5a6a", "boxstyle": "round,pad=0.03"}
        axes.add_patch(FancyBboxPatch((x - w / 2, y - 0.24), w, 0.48, zorder=2, **style))
        label = name if w > 1.5 else name.replace("regularizers", "regular-\nizers")
        axes.text(x, y + 0.06, label, ha="center", va="center", fontsize=9 if w > 1.5 else 7, weight="bold", zorder=3)
        axes.text(x, y - 0.14, f"{len(files)} files, {count} lines", ha="center", va="center", fontsize=6, zorder=3)
        if name in order:
            badge = {"boxstyle": "circle,pad=0.2", "fc": "#1f5fa8", "ec": "none"}
            where = (x - w / 2, y + 0.24, str(order[name]))
            axes.text(*where, fontsize=7, color="white", ha="center", va="center", bbox=badge, zorder=4)
    axes.set_xlim(0, across)
    axes.set_ylim(-len(rows) + 0.5, 0.5)
    axes.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    """Print the table, and write page and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--write", action="store_true", help="write the table into the page, and the picture")
    args = parser.parse_args()
    text = table(None if args.before is None else figures(args.before.resolve()), figures(ROOT))
    print(text)
    if args.write:
        begin, end = MARKS
        head, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
        PAGE.write_text(f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")
        draw(PICTURE)


if __name__ == "__main__":
    main()
