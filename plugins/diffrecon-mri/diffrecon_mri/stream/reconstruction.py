# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""From a scan that arrived to its images, as ``diffrecon reconstruct`` makes them of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffrecon_mri.ismrmrd.acquisitions import directions_ras, sorted_acquisitions
from diffrecon_mri.ismrmrd.reader import ISMRMRDReader
from diffrecon_mri.stream.choices import Offer
from diffrecon_mri.stream.images import StreamImage, images_of
from diffrecon_mri.stream.scan import Scan
from diffrecon_mri.stream.wire import WHERE
from monai_diffrecon import registry
from monai_diffrecon._version import __version__
from monai_diffrecon.api.choice import choose
from monai_diffrecon.api.reconstructor import Reconstructor, load
from monai_diffrecon.bundle.places import find_bundle
from monai_diffrecon.engine.run_report import RunReport

#: Name of the case, which the noise depends on.
CASE = "stream"


class StreamReconstruction:
    """A bundle that reconstructs scans of streams.

    Attributes:
        offer: what clients may choose.
    """

    def __init__(
        self,
        bundle: str,
        *,
        task: str | None = None,
        method: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        reader: Mapping[str, Any] | None = None,
        whole: bool = False,
        dtype: str = "float32",
    ) -> None:
        """Load the networks and check everything.

        Args:
            bundle: name or path.
            task: task of the bundle; None chooses one by the scan, as ``diffrecon reconstruct``.
            method: preset of a method.
            overrides: config id -> value.
            reader: options of the reader ``ismrmrd``.
            whole: send one 3D image instead of one for each slice.
            dtype: of the images, ``float32`` or ``uint16``.

        Raises:
            ConfigError: no such bundle, task, method, id or option.
            IntegrityError: weights that were changed, or a configuration that runs untrusted code.
        """
        self._root, self._task, self._method = find_bundle(bundle), task, method
        self._overrides, self._whole, self._dtype = dict(overrides or {}), whole, dtype
        built = registry.build("readers", {"name": "ismrmrd", **(reader or {})}, where="reader")
        assert isinstance(built, ISMRMRDReader)
        self._reader, self.offer = built, Offer(self._root)
        self._wanted = (task, method, self._overrides)
        self._loaded: Reconstructor = load(self._root, task=task, method=method, overrides=self._overrides)

    def images(self, scan: Scan) -> tuple[list[StreamImage], tuple[str, ...]]:
        """Return the images of a scan and notices for its user.

        Args:
            scan: the scan.

        Raises:
            DiffReconError: it cannot be read or reconstructed.
        """
        assert scan.header is not None
        acquisitions = sorted_acquisitions(scan.header, scan.table(), self._reader.counters, WHERE)
        measured = self._reader.measurement_of(acquisitions, source=scan.sha256(), where=WHERE)
        given = scan.choices
        task = choose(measured, str(self._root), given.get("task", self._task), find=find_bundle).task
        method = given.get("method", self._method)
        numbers = {"sampler#steps": given.get("steps"), "num_samples": given.get("samples")}
        overrides = {**self._overrides, **{name: value for name, value in numbers.items() if value is not None}}
        if (task, method, overrides) != self._wanted:
            self._loaded = load(self._root, task=task, method=method, overrides=overrides)
            self._wanted = (task, method, overrides)
        result = self._loaded.reconstruct(measured, case=CASE)
        report = result.report
        images = images_of(
            result.volume,
            result.geometry,
            directions_ras(acquisitions.heads, WHERE),
            acquisitions.heads[0],
            self._about(report, task, method),
            whole=self._whole,
            dtype=self._dtype,
        )
        return images, (*report.notices, *report.fallbacks)

    def _about(self, report: RunReport, task: str | None, method: str | None) -> dict[str, str | list[str]]:
        """Return the meta attributes that say how the images were made."""
        said: dict[str, str | list[str] | None] = {
            "version": __version__,
            "bundle": self._root.name,
            "task": task,
            "method": method,
            "sampler": report.options["sampler"]["name"],
            "seed": str(report.seed),
            "weights": [f"{name} {sha256}" for name, sha256 in report.weights.items()],
            "source_sha256": report.source_sha256,
            "warnings": [*report.notices, *report.fallbacks],
        }
        return {f"diffrecon_{name}": value for name, value in said.items() if value}
