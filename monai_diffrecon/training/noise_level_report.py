# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Loss at each noise level, tracked, and sample pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from matplotlib.figure import Figure
from torch import Tensor, nn

from monai_diffrecon.errors import ConfigError
from monai_diffrecon.io.atomic import atomic_write
from monai_diffrecon.numerics.noise import key_seed
from monai_diffrecon.tracking.export_run import TrackedRun


class NoiseLevelReport:
    """Handler that denoises fixed validation patches after every epoch, one noise level after the other.

    Appends a line to ``history.jsonl``, logs to MLflow and draws ``samples.png`` in ``output_dir``. One MLflow run
    is open from the start of the training to its end; a resumed training goes on with the run that
    ``mlflow_run_id.txt`` names.

    Args:
        patches: validation patches, indexable, each (1, H, W), or (4, H, W) with positions.
        network: the network to judge, the moving average for instance.
        output_dir: folder for the history, the picture and the MLflow store.
        name: name of the MLflow run.
        sigmas: noise levels, network units.
        count: validation patches used.
        seed: seed of the noise.
    """

    def __init__(
        self,
        patches: Sequence[Tensor],
        network: nn.Module,
        output_dir: str,
        name: str,
        sigmas: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0),
        count: int = 24,
        seed: int = 0,
    ) -> None:
        stacked = torch.stack([patches[i] for i in range(count)])
        self.clean, self.position = stacked[:, :1], stacked[:, 1:]
        self.network, self.sigmas, self.seed = network, tuple(sigmas), seed
        self.output_dir, self.name = Path(output_dir), name
        self.started = time.monotonic()
        self.loss_sum, self.loss_count = 0.0, 0
        self._run: TrackedRun | None = None

    def attach(self, engine: Any) -> None:
        """Attach to a trainer whose output holds the loss."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._accumulate)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _open(self, engine: Any) -> None:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        run_file = self.output_dir / "mlflow_run_id.txt"
        run_id = run_file.read_text().strip() if run_file.exists() else None
        self._run = TrackedRun(self.output_dir, self.name, experiment="training", run_id=run_id)
        self._run.__enter__()
        if self._run.run_id is not None:
            atomic_write(run_file, lambda path: path.write_text(str(self.run.run_id)))

    def _close(self, engine: Any) -> None:
        if self._run is not None:
            self._run.__exit__(None, None, None)
            self._run = None

    def _fail(self, engine: Any, error: BaseException) -> None:
        if self._run is not None:
            self._run.__exit__(type(error), error, error.__traceback__)
            self._run = None
        raise error

    @property
    def run(self) -> TrackedRun:
        """The MLflow run.

        Raises:
            ConfigError: the training is not running.
        """
        if self._run is None:
            raise ConfigError("used outside training", where="NoiseLevelReport", mend="attach it to a trainer")
        return self._run

    def _accumulate(self, engine: Any) -> None:
        self.loss_sum += float(torch.as_tensor(engine.state.output["loss"]).detach())
        self.loss_count += 1

    @torch.no_grad()
    def evaluate(self) -> tuple[dict[str, float], list[Tensor], list[Tensor]]:
        """Return PSNR (dB, data range 1) for each level, and the noisy and the denoised patches."""
        was_training = self.network.training
        self.network.eval()
        device = next(self.network.parameters()).device
        where = {"position": self.position.to(device)} if self.position.shape[1] else {}
        metrics: dict[str, float] = {}
        noisy, denoised = [], []
        for sigma in self.sigmas:
            generator = torch.Generator().manual_seed(key_seed(self.seed, "validation", sigma))
            noisy.append(self.clean + sigma * torch.randn(self.clean.shape, generator=generator))
            denoised.append(self.network(noisy[-1].to(device), sigma, **where).cpu())
            metrics[f"val_psnr_sigma_{sigma:g}"] = float(-10 * (denoised[-1] - self.clean).square().mean().log10())
        self.network.train(was_training)
        return metrics, noisy, denoised

    def __call__(self, engine: Any) -> None:
        """Evaluate, write the history and the picture, and log."""
        metrics, noisy, denoised = self.evaluate()
        metrics["train_loss"] = self.loss_sum / max(self.loss_count, 1)
        self.loss_sum, self.loss_count = 0.0, 0
        row = {"epoch": engine.state.epoch, "iteration": engine.state.iteration, **metrics}
        row["minutes"] = (time.monotonic() - self.started) / 60
        with (self.output_dir / "history.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        atomic_write(self.output_dir / "samples.png", lambda path: self._draw(path, noisy, denoised))
        self.run.log_metrics(metrics, step=engine.state.iteration)
        self.run.flush()
        self.run.log_artifact(self.output_dir / "samples.png")

    def _draw(self, path: Path, noisy: list[Tensor], denoised: list[Tensor]) -> None:
        columns = len(self.sigmas)
        figure = Figure(figsize=(2 * columns, 6.2), layout="constrained")
        axes = figure.subplots(3, columns, squeeze=False)
        shown = int(self.clean.std(dim=(1, 2, 3)).argmax())
        for j, sigma in enumerate(self.sigmas):
            for ax, image, title in zip(
                axes[:, j],
                (noisy[j], denoised[j], self.clean),
                (f"noisy, sigma {sigma:g}", "denoised", "clean"),
                strict=True,
            ):
                ax.imshow(image[shown, 0].T.flip(0).numpy(), cmap="gray", vmin=0, vmax=1.1)
                ax.set_title(title, fontsize=8)
                ax.set_axis_off()
        figure.savefig(path, dpi=90)
