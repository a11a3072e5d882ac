# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What ``diffrecon check`` finds in a bundle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monai_diffrecon.bundle.former_names import former_names
from monai_diffrecon.bundle.inspection.inspect_bundle import inspect_bundle, read_config
from monai_diffrecon.bundle.inspection.named_plugins import NamedPlugin, former_plugins, named_plugins
from monai_diffrecon.bundle.inspection.policy import Refusal, policy_for
from monai_diffrecon.bundle.inspection.require_trusted import refusals
from monai_diffrecon.bundle.inspection.use import Use, one_line
from monai_diffrecon.bundle.metadata import read_metadata
from monai_diffrecon.bundle.weights import read_weights
from monai_diffrecon.errors import DiffReconError, IntegrityError

_WIDEST = 72


@dataclass(frozen=True)
class BundleReport:
    """Properties of a bundle, collected without running any of it.

    Attributes:
        name: name of its folder.
        version: its version.
        plane: plane of its slices, or an empty string.
        weights_file: file of its weights, relative to its root, or an empty string.
        sha256: hash of the weights, or an empty string when they were refused.
        uses: what it would import and execute.
        refused: the refused uses, and why.
        plugins: the plugins that it names.
        fault: the fault of its metadata or weights, or None.
        former: what it names by a module that may move, or by a former name, and the name to write.
    """

    name: str
    version: str
    plane: str
    weights_file: str
    sha256: str
    uses: tuple[Use, ...]
    refused: tuple[tuple[Use, Refusal], ...]
    plugins: tuple[NamedPlugin, ...]
    fault: DiffReconError | None
    former: tuple[tuple[str, str], ...] = ()

    @property
    def exit_code(self) -> int:
        """0 if everything is trusted and intact, 4 if something is refused or was changed, 2 for other faults."""
        if self.refused:
            return IntegrityError.exit_code
        return 0 if self.fault is None else self.fault.exit_code

    def lines(self) -> list[str]:
        """Return the report for a terminal: packages, uses (the refused ones first, with what to do), plugins."""
        whole = f"sha256 {self.sha256[:16]}... as the metadata says" if self.sha256 else "NOT READ"
        why, bad = dict(self.refused), Counter(use.package for use, _ in self.refused)
        counts = sorted(Counter(use.package for use in self.uses).items())
        packages = [(p, str(n), f"{bad[p]} REFUSED" if bad[p] else "trusted") for p, n in counts]
        plugins = [(p.kind, p.name, ", ".join(p.providers) or "NOT INSTALLED") for p in self.plugins]
        judged = [(use, f"REFUSED: {r.reason}; {r.mend}") for use, r in self.refused]
        judged += [(use, "trusted") for use in self.uses if use not in why]
        rows = dict.fromkeys((use.where, one_line(use.text, _WIDEST), use.package, said) for use, said in judged)
        return [
            one_line(f"{self.name} {self.version}: {self.plane or 'unknown'} plane"),
            one_line(f"weights {self.weights_file or '(not named)'}: {whole}"),
            *([one_line(f"REFUSED {self.fault}")] if self.fault is not None else []),
            *_table(("PACKAGE", "USES", ""), packages),
            *_table(("CONFIG ID", "WOULD RUN", "PACKAGE", ""), rows),
            *_table(("KIND", "PLUGIN", "PROVIDED BY"), plugins),
            "",
            *(f"{old}: use {new}, the public name" for old, new in self.former),
            self.verdict(),
        ]

    def verdict(self) -> str:
        """Return one line that sums up."""
        if self.refused:
            return f"REFUSED: {len(self.refused)} of {len(self.uses)} uses are not trusted; nothing was run"
        if self.fault is not None:
            return "REFUSED: see above; nothing was run"
        return f"all {len(self.uses)} uses are trusted; nothing was run"

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        why = dict(self.refused)
        return {
            "name": self.name,
            "version": self.version,
            "plane": self.plane,
            "weights": {"file": self.weights_file, "sha256": self.sha256 or None},
            "fault": None if self.fault is None else str(self.fault),
            "uses": [
                {**asdict(u), "package": u.package, "refused": why[u].reason if u in why else None} for u in self.uses
            ],
            "plugins": [asdict(p) for p in self.plugins],
            "trusted": self.exit_code == 0,
        }


def report_on(root: str | Path, trust: Iterable[str] = ()) -> BundleReport:
    """Return the report of a bundle; nothing is imported or evaluated.

    Args:
        root: root folder of the bundle.
        trust: packages that the user trusts beside the default ones.

    Raises:
        InputError: no bundle.
        ConfigError: ``trust`` holds something other than a package name.
    """
    root = Path(root)
    if not (root / "configs" / "metadata.json").is_file():
        read_metadata(root)  # says so
    uses = inspect_bundle(root)
    metadata: dict[str, Any] = {}
    digest, fault = "", None
    try:
        metadata = read_metadata(root)
        digest = read_weights(root, metadata["diffrecon"]["weights"], f"bundle {root.name}")[1]
    except DiffReconError as error:
        fault = error
    block = _mapping(metadata, "diffrecon")
    # Configurations that are too large or too deep are not walked through.
    configs = [] if any(use.kind == "file" for use in uses) else _configs(root)
    plugins = named_plugins(configs)
    return BundleReport(
        name=root.resolve().name,
        version=str(metadata.get("version", "?")),
        plane=str(block.get("plane", "")),
        weights_file=str(_mapping(block, "weights").get("file", "")),
        sha256=digest,
        uses=uses,
        refused=tuple(refusals(uses, policy_for(trust, root))),
        plugins=plugins,
        fault=fault,
        former=tuple(sorted({pair for config in configs for pair in former_names(config)} | former_plugins(plugins))),
    )


def _mapping(of: Any, key: str) -> dict[str, Any]:
    value = of.get(key) if isinstance(of, dict) else None
    return value if isinstance(value, dict) else {}


def _configs(root: Path) -> list[Any]:
    """Return the JSON configurations, all readable, and our part of the metadata."""
    paths = sorted((root / "configs").rglob("*.json"))
    return [_mapping(read_config(p), "diffrecon") if p.name == "metadata.json" else read_config(p) for p in paths]


def _table(head: tuple[str, ...], body: Iterable[tuple[str, ...]]) -> list[str]:
    rows = [head, *body]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    return ["", *("  ".join([*map(str.ljust, row[:-1], widths), row[-1]]).rstrip() for row in rows)]
