# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The application: selects a series, reconstructs it, writes the derived series. For research, not for clinical use."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holoscan.conditions import CountCondition
from holoscan.logger import LogLevel, set_log_level
from monai.deploy.core import AppContext, Application
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator

from diffrecon_deploy.app.settings import Settings, find_bundle, read_settings
from diffrecon_deploy.reconstruction_operator import ReconstructionOperator
from diffrecon_deploy.series_writer_operator import SeriesWriterOperator
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError
from monai_diffrecon.io.file_validation import read_json

_HERE = Path(__file__).resolve().parent


class _Selector(DICOMSeriesSelectorOperator):
    """The selector of the SDK, which fails in many ways by rules that it does not understand."""

    def filter(self, *args: Any, **kwargs: Any) -> Any:
        """Return what matches the rules.

        Raises:
            ConfigError: the rules cannot be applied.
        """
        try:
            return super().filter(*args, **kwargs)
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError("cannot be applied to the series", where="reconstruction#rules", got=said) from error


class ReconstructionApp(Application):
    """Loader and selector of the SDK, reconstruction and writer of this package.

    Args:
        context: input, output and models, from the command line or the environment.
        settings: the settings.
    """

    def __init__(self, context: AppContext, settings: Settings) -> None:
        self._context, self._settings = context, settings
        super().__init__()

    def compose(self) -> None:
        """Connect the operators."""
        context, said = self._context, self._settings
        rules = _HERE / said.rules  # a path that is absolute stays as it is
        if not read_json(rules, rules.name):
            raise ConfigError("no rules", where=rules.name, expected='{"selections": [...]}')
        if not Path(context.input_path).is_dir():
            raise InputError("no such folder", where="input", mend="give the folder of the DICOM files, -i")
        # Without a study the list is empty, which the reconstruction refuses like one that does not match.
        loader = DICOMDataLoaderOperator(
            self, CountCondition(self, 1), input_folder=Path(context.input_path), must_load=False, name="loader"
        )
        selector = _Selector(self, rules=rules.read_text(encoding="utf-8"), all_matched=True, name="selector")
        reconstruction = ReconstructionOperator(
            self,
            bundle=find_bundle(Path(context.model_path), said.bundle),
            task=said.task,
            method=said.method,
            overrides=said.overrides,
            case=said.case,
        )
        writer = SeriesWriterOperator(self, output_folder=context.output_path, keep_identity=said.keep_identity)
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, reconstruction, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(reconstruction, writer, {("reconstruction", "reconstruction")})


def main(argv: Sequence[str]) -> int:
    """Run the application and return its exit code; an error of the user's is one line.

    Args:
        argv: the command line as the SDK reads it: the program, ``-i``, ``-o``, ``-m``, ``-l``. What is missing is
            taken from the environment, ``HOLOSCAN_INPUT_PATH`` and so on.
    """
    # At its own level the SDK logs paths, descriptions and UIDs.
    context = Application.init_app_context([argv[0], "-l", "WARN", *argv[1:]])
    if not os.environ.get("HOLOSCAN_LOG_LEVEL"):
        set_log_level(LogLevel.OFF)  # errors come out as exceptions too
    try:
        settings = read_settings(Path(os.environ.get("HOLOSCAN_CONFIG_PATH", _HERE / "app.yaml")))
        ReconstructionApp(context, settings).run()
    except DiffReconError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0
