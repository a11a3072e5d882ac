# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The MONAI evaluator that reconstructs cases one by one and records each."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import zip_longest
from typing import Any, TypeVar

import torch
from monai.data import MetaTensor
from monai.engines import Evaluator
from monai.utils import CommonKeys
from torch import Tensor, nn

from monai_diffrecon import distributed
from monai_diffrecon.engine.calibration.calibration_file import read_calibration
from monai_diffrecon.engine.calibration.intervals import read_region
from monai_diffrecon.engine.cases.case_recorder import CaseRecorder
from monai_diffrecon.engine.cases.list_cases import nothing_to_reconstruct
from monai_diffrecon.engine.cases.loaded_cases import LoadedCases, raise_for
from monai_diffrecon.engine.cases.metrics_of_cases import MetricsOfCases
from monai_diffrecon.engine.cases.postprocessing import Postprocessing
from monai_diffrecon.engine.cases.run_case import run_case
from monai_diffrecon.engine.cases.termination import stop_on_sigterm
from monai_diffrecon.engine.handlers.preview_pictures import PreviewPictures
from monai_diffrecon.engine.inferer import DiffReconInferer
from monai_diffrecon.errors import BusyError, ConfigError, DiffReconError, InputError, ResourceError
from monai_diffrecon.errors.options import check_device, check_flag, check_integer, path_option
from monai_diffrecon.io.measurement.metatensor import affine_of

logger = logging.getLogger(__name__)
T = TypeVar("T")


class ReconstructionEvaluator(Evaluator):
    """Reconstructs every case of a loader; one iteration is one case.

    ``engine.state.output`` holds ``pred`` (the volume, (1, X, Y, Z) MetaTensor), ``case``, ``metrics``,
    ``report`` (None for a case that was already done) and ``spread`` (None for one sample). Each case is written,
    tracked and recorded by :func:`~monai_diffrecon.engine.cases.run_case.run_case`. A failed case does not stop
    the others: ``failures`` keeps its error, and ``state.output`` then holds ``pred`` None and ``error``.
    ``engine.state.metrics`` holds the latest case's metrics and, at the end of the epoch, their means, as in MONAI.

    With the inferer's ``share: cases`` each process of ``torchrun`` takes every n-th case, writes and records it;
    ``state.output`` then holds ``pred`` None for the others' cases. At the end every process knows all results.

    Args:
        device: device of the networks.
        val_data_loader: batches of one case: ``image`` (a measurement), ``case`` (its name) and, for metrics,
            ``reference``.
        network: the primary score network.
        inferer: the inferer.
        output_dir: folder for volumes, records, pictures and the MLflow store.
        track: track the runs in MLflow.
        tracking_uri: MLflow's store; None is ``sqlite:///<output_dir>/mlflow.db``.
        experiment: MLflow's experiment.
        preview_every: steps between preview pictures; 0 for none. With several samples, the last sample's remain.
        output_format: ``nifti``, or a format written in addition to the NIfTI file that the record describes: the name
            of a writer, such as ``dicom`` (also called ``both``), ``{"name": ..., **options}``, or a list of these.
        tracking_required: an MLflow failure ends the run; otherwise a warning is logged and the run continues.
        resume: ``auto`` continues an interrupted run of the same case, configuration, weights and versions, and skips
            a case whose record verifies; ``require`` refuses to start a case from scratch; ``never`` computes
            everything again.
        checkpoint_every: steps between checkpoints; 0 writes one only at an interrupt; None spends about 1 % of the
            wall time on them.
        resample_reference: resample a reference on another grid to that of the reconstruction; otherwise it is
            refused.
        postprocessing: MONAI dictionary transform applied to ``pred`` before it is written and compared; with several
            samples, to their mean only.
        calibration: file of ``diffrecon calibrate``: intervals of its nominal level are written, and a case outside of
            what was calibrated is refused.
        region: mask on the grid of the reconstruction, for the interval of its mean; needs a calibration.
        view: write ``<case>_view.html``, a page that shows the volumes of a case in a browser.
        val_handlers: further handlers of this evaluator.

    Raises:
        InputError: ``output_dir`` is not a path.
        ConfigError: an option out of its range, or MONAI's own MLflow handler, which would merge the cases in one run.
    """

    def __init__(
        self,
        device: torch.device | str,
        val_data_loader: Iterable[Any],
        network: nn.Module,
        inferer: DiffReconInferer,
        output_dir: str,
        *,
        track: bool = True,
        tracking_uri: str | None = None,
        experiment: str = "monai_diffrecon",
        preview_every: int = 0,
        output_format: Any = "nifti",
        tracking_required: bool = False,
        resume: str = "auto",
        checkpoint_every: int | None = None,
        resample_reference: bool = False,
        postprocessing: Callable[[dict[str, Any]], Any] | None = None,
        calibration: str | None = None,
        region: str | None = None,
        view: bool = True,
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        _refuse_monai_tracking(val_handlers)
        super().__init__(
            device=torch.device(check_device(device, "device") or "cpu"),
            val_data_loader=val_data_loader,
            val_handlers=[MetricsOfCases(self._of_all), *(val_handlers or ())],
            decollate=False,
        )
        self.network, self.inferer = network, inferer
        self.postprocessing = Postprocessing(postprocessing)
        self.calibration = None if calibration is None else read_calibration(calibration)
        self.region = None if region is None else read_region(region, self.calibration)
        self.output_dir = path_option(output_dir, "output_dir")
        self.resample_reference = check_flag(resample_reference, "resample_reference")
        self.preview_every = check_integer(preview_every, "evaluator#preview_every", low=0)
        self.recorder = CaseRecorder(
            self.output_dir,
            track=track,
            tracking_uri=tracking_uri,
            experiment=experiment,
            output_format=output_format,
            hounsfield=inferer.score.intensity["map"] == "window",
            tracking_required=tracking_required,
            resume=resume,
            checkpoint_every=checkpoint_every,
            anatomy=inferer.score.anatomy,
            view=view,
        )
        self.data_loader = LoadedCases(val_data_loader)
        self.results: list[dict[str, Any]] = []
        self.failures: list[DiffReconError] = []
        self._outcomes: list[dict[str, Any] | DiffReconError] = []

    def run(self, global_epoch: int = 1) -> None:
        """Reconstruct all cases that are not done yet, within one MLflow run if there are several.

        Raises:
            InputError: there is no case.
            ResourceError: not enough memory or disk space; the remaining cases are not tried.
            DiffReconError: one or more cases failed; the others are done.
        """
        if self.state.epoch_length == 0:
            raise nothing_to_reconstruct("neither")
        self.failures, self._outcomes, before = [], [], len(self.results)
        with stop_on_sigterm(), self._joined(), self.recorder.cohort(self.state.epoch_length) as parent:
            super().run(global_epoch)
            if self._apart:
                self._gather(before)
            if parent is not None:
                self.recorder.summarize(parent, self.results[before:], len(self.failures))
            for done in self.results[before:] if distributed.is_first() else ():
                logger.info("case %s: %s", done["case"], _summary(done))
            raise_for(self.failures, len(self.failures) + len(self.results) - before)

    @property
    def _apart(self) -> bool:
        """Whether each process has cases of its own."""
        return self.data_loader.apart

    @contextmanager
    def _joined(self) -> Iterator[None]:
        """Context in which this process takes part in the run of its group."""
        share, cases = self.inferer.share, self.state.epoch_length
        with distributed.joined(share):
            self.data_loader.apart = share == "cases" and distributed.processes() > 1
            with distributed.together() if self._apart else nullcontext():
                if self._apart and distributed.from_first(cases) != cases:
                    raise ConfigError("the processes of this run do not see the same cases", where="cases", got=cases)
                if self._apart and cases is not None and cases < distributed.processes() and distributed.is_first():
                    logger.warning("%d cases for %d processes: some compute nothing", cases, distributed.processes())
                yield

    def _of_all(self, mine: list[T]) -> list[T]:
        """Return the entries of all processes, in the order of the loader, given those of the cases of this one."""
        if not self._apart:
            return mine
        # Boxed, since an entry may be None.
        turns = zip_longest(*distributed.in_turn([(entry,) for entry in mine]))
        return [box[0] for turn in turns for box in turn if box is not None]

    def _gather(self, before: int) -> None:
        """Know what became of the cases of all processes, and let the first track them."""
        outcomes = self._of_all(self._outcomes)
        self.results[before:] = [outcome for outcome in outcomes if isinstance(outcome, dict)]
        self.failures[:] = [outcome for outcome in outcomes if isinstance(outcome, DiffReconError)]
        for notes in distributed.in_turn(self.recorder.notes):
            for note in notes if distributed.is_first() else ():
                self.recorder.log(note)

    def _iteration(self, engine: Any, batchdata: dict[str, Any] | DiffReconError | None) -> dict[str, Any]:
        if batchdata is not None:
            with distributed.alone(self._apart):
                return self._case(engine, batchdata)
        engine.state.output = {CommonKeys.PRED: None}
        return engine.state.output

    def _case(self, engine: Any, batchdata: dict[str, Any] | DiffReconError) -> dict[str, Any]:
        try:
            if not distributed.is_first():
                return self._help(engine, batchdata)
            with distributed.Leading() as leading:
                if isinstance(batchdata, DiffReconError):
                    raise batchdata
                return self._reconstruct(engine, batchdata, leading)
        except DiffReconError as error:
            # A full disk or memory affects the next case as well; a case locked by another process does not.
            hopeless = isinstance(error, ResourceError) and not isinstance(error, BusyError)
            if hopeless or engine.state.epoch_length == 1:
                raise
            logger.error("%s", error)
            self.failures.append(error)
            self._outcomes.append(error)
        engine.state.output = {CommonKeys.PRED: None, "error": str(self.failures[-1])}
        return engine.state.output

    def _help(self, engine: Any, batchdata: dict[str, Any] | DiffReconError) -> dict[str, Any]:
        """Reconstruct the case along with the first process of the run, which compares, writes and records it."""
        if distributed.told_to_start():
            if isinstance(batchdata, DiffReconError):
                distributed.agree(batchdata)
                raise batchdata
            name, image, _ = _single(batchdata)
            self.inferer.reconstruct(self.inferer.pose(image, self.network, case=name), case=name)
        engine.state.output = {CommonKeys.PRED: None}
        return engine.state.output

    def _reconstruct(self, engine: Any, batchdata: dict[str, Any], leading: distributed.Leading) -> dict[str, Any]:
        name, image, reference = _single(batchdata)
        folder = self.output_dir / name
        done = run_case(
            self.inferer,
            self.inferer.pose(image, self.network, case=name),
            self.recorder,
            reference=reference,
            resample_reference=self.resample_reference,
            reader=_word(batchdata, f"{CommonKeys.IMAGE}_reader"),
            preparation=json.loads(_word(batchdata, f"{CommonKeys.IMAGE}_preparation") or "[]"),
            postprocessing=self.postprocessing,
            calibration=self.calibration,
            region=self.region,
            handlers=[PreviewPictures(str(folder / "preview"), self.preview_every)] if self.preview_every else [],
            starting=leading.start,
        )
        pred = MetaTensor(done.volume, affine=torch.as_tensor(affine_of(done.geometry)))
        output = {CommonKeys.PRED: pred, "case": name, "metrics": done.metrics}
        output |= {"report": done.report, "spread": done.spread}
        self.results.append({"case": name, "metrics": done.metrics, "output": str(done.output)})
        self._outcomes.append(self.results[-1])
        engine.state.output = output
        return output


def _summary(done: dict[str, Any]) -> str:
    """Return where a volume was written and its metrics, in one line."""
    metrics: dict[str, float] = done["metrics"]
    words = [f"the volume is in {done['output']}"]
    if "psnr" in metrics:
        planes = ", ".join(f"{k[5:]} {v:.4f}" for k, v in metrics.items() if k.startswith("ssim_"))
        words.append(f"PSNR {metrics['psnr']:.2f} dB, SSIM {planes}")
    return "; ".join(words)


def _refuse_monai_tracking(handlers: Sequence[Any] | None) -> None:
    for handler in handlers or ():
        if type(handler).__name__ == "MLFlowHandler":
            raise ConfigError(
                "MONAI's MLFlowHandler records several patients and their file paths in one run",
                where="handlers",
                expected="no handler for MLflow: every case is tracked in a run of its own",
                mend="leave --tracking out",
            )


def _word(batch: dict[str, Any], key: str) -> str | None:
    """Return a string of a batch of one, or None when it is missing."""
    value = batch.get(key)
    return value if value is None or isinstance(value, str) else str(value[0])


def _single(batch: dict[str, Any]) -> tuple[str, Tensor, Tensor | None]:
    """Split a batch of one into name, measurement and reference, without the batch axis."""
    image = batch[CommonKeys.IMAGE]
    if image.shape[0] != 1:
        raise InputError("several cases in a batch", where="dataloader#batch_size", expected=1, got=image.shape[0])
    reference = batch.get("reference")
    case = batch.get("case", "case")
    return (case if isinstance(case, str) else case[0]), image[0], None if reference is None else reference[0]
