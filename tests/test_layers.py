# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Imports run downwards only: the contracts of pyproject.toml hold, and they can fail."""

import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]


def lint(cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(LINT, cwd=cwd, capture_output=True, text=True, check=False)


def test_no_circle_of_imports() -> None:
    """Files are in an order in which each imports only those before it, for types too."""
    graph = grimp.build_graph("monai_diffrecon", cache_dir=None)
    imports = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    order = list(TopologicalSorter(imports).static_order())  # raises a CycleError that names the circle
    assert order.index("monai_diffrecon.errors") < order.index("monai_diffrecon.engine.inferer")
    imports["monai_diffrecon.errors"].add("monai_diffrecon.engine.inferer")
    with pytest.raises(CycleError):
        list(TopologicalSorter(imports).static_order())


def test_no_folder_is_too_full() -> None:
    files = [
        path for part in ("monai_diffrecon", "plugins", "scripts", "tests") for path in (ROOT / part).rglob("*.py")
    ]
    full = {folder: n for folder, n in Counter(path.parent.relative_to(ROOT) for path in files).items() if n > 14}
    assert not full
    assert len(files) > 300


def test_contracts_hold() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("numerics/rogue.py", "import monai_diffrecon.engine", "Imports run downwards only"),
        ("priors/rogue.py", "import monai_diffrecon.samplers", "Imports run downwards only"),
        ("stray.py", "", "Imports run downwards only"),
        ("engine/rogue.py", "import monai_diffrecon.priors", "The engine asks the registry"),
        ("engine/rogue.py", "import mlflow", "mlflow only in tracking"),
        ("engine/rogue.py", "import itk", "itk, pydicom and h5py only in io"),
        ("engine/rogue.py", "import h5py", "itk, pydicom and h5py only in io"),
        ("engine/rogue.py", "import entrypoints", "entrypoints only in the registry"),
        ("samplers/rogue.py", "def f():\n    import monai.networks", "The lower layers stay free of monai"),
        ("testing/rogue.py", "import monai_diffrecon.engine", "The test kit for plugin authors needs no engine"),
        ("engine/rogue.py", "import monai_diffrecon.testing", "Nothing imports the test kit"),
        ("engine/problem/rogue.py", "import monai_diffrecon.engine.cases", "The rooms of the engine"),
        ("engine/rogue.py", "", "The rooms of the engine"),
        ("engine/cases/rogue.py", "import monai_diffrecon.engine.cases.ring", "No circles"),
    ],
)
def test_each_contract_can_fail(tmp_path: Path, module: str, line: str, broken: str) -> None:
    """The contracts on a skeleton of the package with one forbidden import in it."""
    package = tmp_path / "monai_diffrecon"
    for path in (ROOT / "monai_diffrecon").rglob("*.py"):
        copy = package / path.relative_to(ROOT / "monai_diffrecon")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.touch()
    (package / "registry" / "discovery.py").write_text("import entrypoints\n")
    (package / "engine/cases/ring.py").write_text(
        "import monai_diffrecon.engine.cases.rogue\n" if "ring" in line else ""
    )
    (package / module).write_text(line + "\n")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    result = lint(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert [name for name in result.stdout.splitlines() if name.startswith(broken) and "BROKEN" in name], result.stdout
