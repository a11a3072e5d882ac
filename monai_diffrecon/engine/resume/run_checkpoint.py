# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The checkpoint of a run: where it is kept, when it is written, and whether a run may resume from it."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from monai_diffrecon.engine.resume.run_identity import differences
from monai_diffrecon.engine.resume.run_point import RunPoint
from monai_diffrecon.engine.resume.state_file import read_state, write_state
from monai_diffrecon.errors import DiffReconError, InputError, IntegrityError, ResumeMismatchError
from monai_diffrecon.errors.options import check_choice, check_integer
from monai_diffrecon.io.atomic import make_folder

logger = logging.getLogger(__name__)

RESUME = ("auto", "never", "require")
#: Version of the file; others are refused.
_FORMAT = 1
#: Fraction of the wall time that checkpoints may take when their interval is automatic.
_SHARE = 0.01
#: Assumed disk speed (bytes per second) before the first measurement.
_SPEED = 2e8


class RunCheckpoint:
    """Keeps the latest state of one run in one file, and removes it when the run is done.

    Args:
        path: the file; its folder is made when first written.
        resume: ``auto`` resumes from an existing file and refuses one that belongs to another run; ``require`` refuses
            to start from scratch; ``never`` starts from scratch.
        every: steps between checkpoints; 0 writes one only at an interrupt; None spends about 1 % of the wall time
            on them.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(self, path: str | Path, *, resume: str = "auto", every: int | None = None) -> None:
        self.path = Path(path)
        self.resume = check_choice(resume, "resume", RESUME)
        self.every = None if every is None else check_integer(every, "checkpoint_every", low=0)
        self._identity: dict[str, str] = {}
        self._cost: float | None = None
        self._written = time.perf_counter()
        self._latest: tuple[int, int] | None = None
        self._off = False

    def open(self, identity: Mapping[str, str], *, resumable: bool = True) -> RunPoint | None:
        """Return where an earlier run of the same identity stopped, or None to start from scratch.

        Args:
            identity: what determines the voxels (:func:`~monai_diffrecon.engine.resume.run_identity.run_identity`).
            resumable: False for a run that depends on earlier random draws and so has no checkpoint.

        Raises:
            ResumeMismatchError: the checkpoint belongs to another run, or a required one is missing.
            IntegrityError: a required checkpoint is damaged.
        """
        self._identity, self._written, self._off = dict(identity), time.perf_counter(), not resumable
        found = self.path.is_file() and self.resume != "never" and resumable
        if not found:
            if self.resume == "require":
                raise ResumeMismatchError(
                    "no checkpoint to resume from" if resumable else "such a run has no checkpoint",
                    where="resume",
                    expected=self.path.name,
                    mend="set resume to auto to start from scratch",
                )
            return None
        try:
            saved = read_state(self.path)
        except (InputError, IntegrityError) as error:
            if self.resume == "require":
                raise IntegrityError(
                    "the checkpoint is damaged",
                    where=self.path.name,
                    got=error.what,
                    mend="set resume to never to start from scratch",
                ) from error
            logger.warning("%s is damaged: the run starts from scratch", self.path.name)
            return None
        changed = [f"format ({saved.get('format')}, now {_FORMAT})"] if saved.get("format") != _FORMAT else []
        changed = changed or differences(saved["identity"], self._identity)
        if changed:
            more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise ResumeMismatchError(
                "the checkpoint belongs to another run",
                where=self.path.name,
                got=f"other {', '.join(changed[:4])}{more}",
                mend="restore what changed, set resume to never to start from scratch, or choose another output_dir",
            )
        point = RunPoint.from_state_dict(saved["point"])
        self._latest = (point.sample, point.state.step)
        logger.info("resuming after step %d", point.state.step)
        return point

    def due(self, step: int, size: int) -> bool:
        """Say whether a checkpoint is due after a step.

        Args:
            step: completed steps of the sample.
            size: bytes of a checkpoint.
        """
        if self._off or self.every == 0:
            return False
        if self.every is not None:
            return step % self.every == 0
        cost = size / _SPEED if self._cost is None else self._cost
        return time.perf_counter() - self._written >= cost / _SHARE

    def write(self, point: RunPoint) -> None:
        """Replace the checkpoint, unless it already holds this step.

        Raises:
            InputError: the folder may not be written.
            ResourceError: the disk is full; the previous checkpoint is kept.
        """
        at = (point.sample, point.state.step)
        if self._off or at == self._latest:
            return
        started = time.perf_counter()
        make_folder(self.path.parent)
        write_state(self.path, {"format": _FORMAT, "identity": self._identity, "point": point.state_dict()})
        self._written, self._latest = time.perf_counter(), at
        self._cost = self._written - started

    def rescue(self, point: RunPoint) -> None:
        """Write during another exception, which a disk error must not replace."""
        try:
            self.write(point)
        except (DiffReconError, OSError) as error:
            logger.warning("the last checkpoint could not be written: %s", type(error).__name__)

    @property
    def folder(self) -> Path:
        """Folder of what belongs to the checkpoint and is too large for the file (``volume_store``)."""
        return self.path.with_suffix(".store")

    def remove(self) -> None:
        """Remove the file and its folder: the run is done and its output is written."""
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
