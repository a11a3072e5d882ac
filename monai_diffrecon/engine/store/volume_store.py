# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What of a volume lies on the disk: the states of its slabs, arrays of whole volumes, and the result."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_diffrecon import distributed
from monai_diffrecon.engine.resume.run_checkpoint import RunCheckpoint
from monai_diffrecon.engine.resume.state_file import read_state, write_state
from monai_diffrecon.errors import ConfigError, IntegrityError
from monai_diffrecon.errors.options import check_number
from monai_diffrecon.io.atomic import make_folder, told
from monai_diffrecon.protocols import SamplerState
from monai_diffrecon.slabs import Slab

_WHERE = "inferer#volume_store"
#: Memory (GB) that a slab may take by default; side (voxels) of the chunks of an array across the slabs.
_SLAB_GB, CHUNK = 0.25, 64


def check_store(value: Any) -> dict[str, Any] | None:
    """Return the option volume_store with all its entries.

    Args:
        value: None, ``"zarr"`` or ``{"name": "zarr", "slab_gb": ...}``.

    Raises:
        ConfigError: another value, or zarr is not installed.
    """
    if value is None:
        return None
    spec = {"name": value} if isinstance(value, str) else value
    if not isinstance(spec, Mapping) or spec.get("name") != "zarr" or not spec.keys() <= {"name", "slab_gb"}:
        raise ConfigError(
            "not a volume store", where=_WHERE, expected='null, "zarr" or {"name": "zarr", "slab_gb": 0.25}', got=value
        )
    size = check_number(spec.get("slab_gb", _SLAB_GB), f"{_WHERE}#slab_gb", low=0.0, open_low=True)
    if importlib.util.find_spec("zarr") is None:
        mend = "pip install 'zarr>=3.1'"
        raise ConfigError("zarr is not installed", where=_WHERE, expected="zarr 3", mend=mend)
    return {"name": "zarr", "slab_gb": size}


class VolumeStore:
    """A folder that holds a volume while it is reconstructed; it contains a patient's voxels.

    Args:
        folder: the folder, made when it is first used; None: a temporary one.
        slab_gb: memory that a slab may take.
    """

    def __init__(self, folder: Path | None, slab_gb: float) -> None:
        self.slab_gb = slab_gb
        self._folder, self._temporary = folder, folder is None

    @property
    def folder(self) -> Path:
        """The folder.

        Raises:
            InputError: it may not be made.
        """
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="diffrecon-"))
        return make_folder(self._folder)

    def write(self, step: int, index: int, state: SamplerState) -> None:
        """Write the state of a slab after a step."""
        kept = {"sigma": state.sigma, "step": state.step, "seed": state.seed, "case": state.case}
        write_state(self._file(step, index), {**kept, "x": state.x, "memory": state.memory})

    def read(self, step: int, index: int) -> SamplerState:
        """Return the state of a slab after a step.

        Raises:
            IntegrityError: the file was changed or removed.
        """
        path = self._file(step, index)
        if not path.is_file():
            raise IntegrityError(
                "a part of the volume is missing",
                where=_WHERE,
                got="a checkpoint without the folder that belongs to it",
                mend="set resume to never to start from scratch",
            )
        return SamplerState(**read_state(path))

    def keep(self, step: int | None) -> None:
        """Remove everything but the states after a step; None removes these too."""
        if self._folder is not None and self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.name != (None if step is None else f"step_{step:05d}"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def drop(self, name: str) -> None:
        """Remove an array."""
        shutil.rmtree(self.folder / f"{name}.zarr", ignore_errors=True)

    def put(self, name: str, x: Tensor, part: Slab, first: Slab) -> None:
        """Write a part of an array of a whole volume, which is made when it is not there.

        Its chunks are as thick as a slab, and 64 voxels wide: slabs and slices of all planes consist of whole chunks.

        Args:
            name: name of the array.
            x: the part, (C, X, Y, Z).
            part: where it lies.
            first: the first slab of the volume.

        Raises:
            ResourceError: the disk is full.
        """
        import zarr  # optional

        path, shape = self.folder / f"{name}.zarr", list(x.shape)
        shape[part.dim] = part.count
        chunks = [shape[0], *(min(size, CHUNK) for size in shape[1:])]
        chunks[first.dim] = len(first)
        try:
            if path.is_dir():
                array = zarr.open_array(path, mode="r+")
            else:
                dtype = str(x.dtype).removeprefix("torch.")
                array = zarr.create_array(path, shape=shape, chunks=chunks, dtype=dtype, compressors=None, filters=None)
            array[_region(part)] = x.numpy()
        except OSError as error:
            raise told(error, "volume_store") from error

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array."""
        import zarr  # optional

        return tuple(zarr.open_array(self.folder / f"{name}.zarr", mode="r").shape)

    def get(self, name: str, part: Slab) -> Tensor:
        """Return a part of an array."""
        import zarr  # optional

        array = zarr.open_array(self.folder / f"{name}.zarr", mode="r")
        return torch.from_numpy(np.ascontiguousarray(array[_region(part)]))

    def volume(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a volume whose voxels lie in a file of the folder, and in memory only as long as there is room."""
        path, numbers = self.folder / "volume.bin", torch.empty((), dtype=dtype).numpy().dtype
        path.unlink(missing_ok=True)  # an earlier one may be in use
        return torch.from_numpy(np.memmap(path, dtype=numbers, mode="w+", shape=shape))

    def remove(self, *, temporary: bool = False) -> None:
        """Remove the folder; volumes that it returned stay.

        Args:
            temporary: only if it is a temporary one.
        """
        if self._folder is not None and (self._temporary or not temporary):
            shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, step: int, index: int) -> Path:
        return make_folder(self.folder / f"step_{step:05d}") / f"slab_{index:05d}.pt"


@contextmanager
def stored(
    volume_store: Mapping[str, Any] | None, checkpoint: RunCheckpoint | None = None
) -> Iterator[VolumeStore | None]:
    """Context with the disk where a volume lies, or None if it is kept in memory.

    Args:
        volume_store: the option, complete.
        checkpoint: beside it the volume stays until the checkpoint is removed; None removes it at the end.

    Raises:
        ConfigError: several processes.
    """
    if volume_store is None:
        yield None
        return
    if distributed.processes() > 1:
        raise ConfigError(
            "a volume on the disk is reconstructed by one process",
            where=_WHERE,
            expected="one process",
            got=f"{distributed.processes()} processes",
            mend="run without torchrun, or set volume_store to null",
        )
    store = VolumeStore(None if checkpoint is None else checkpoint.folder, volume_store["slab_gb"])
    try:
        yield store
    finally:
        store.remove(temporary=True)


def _region(slab: Slab) -> tuple[slice, ...]:
    return (*(slice(None),) * slab.dim, slice(slab.first, slab.end))
