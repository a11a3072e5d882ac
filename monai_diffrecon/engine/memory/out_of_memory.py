# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Detection of out-of-memory errors, fallbacks, and the error that ends a run when none helps."""

from __future__ import annotations

import errno
import re
from typing import Any

import torch

from monai_diffrecon.engine.memory.machine_memory import available_memory
from monai_diffrecon.errors import ResourceError

#: Messages of out-of-memory RuntimeErrors of torch and its libraries, which have no class of their own.
_MESSAGES = re.compile(
    r"""
    DefaultCPUAllocator:\ (can't\ allocate\ memory|not\ enough\ memory)
    | \b(CUDA|HIP|XPU|MPS\ backend)\ (error:\ )?out\ of\ memory
    | \bCU(BLAS|DNN|SOLVER|FFT|SPARSE)_(STATUS_)?ALLOC_FAILED
    # What cuDNN says when no algorithm's workspace fits.
    | [Uu]nable\ to\ find\ a\ valid\ cuDNN\ algorithm\ to\ run\ convolution
    # oneDNN, when there is no room for its generated code or its workspace. What it does not support at all fails one
    # step earlier: "could not create a primitive descriptor".
    | \Acould\ not\ (create\ a\ (primitive|memory)|execute\ a\ primitive)(\ object)?\Z
    | \Astd::bad_alloc\Z
    """,
    re.VERBOSE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the machine or a GPU ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _MESSAGES.search(str(error).strip()) is not None


def release_memory(device: torch.device | str) -> None:
    """Release the GPU memory that torch caches; the CPU's allocator reuses its own."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.empty_cache()
    elif kind == "mps":
        torch.mps.empty_cache()


def out_of_memory_error(error: BaseException, needed: str | None = None) -> ResourceError:
    """Return the error that ends a run when no fallback avoids running out of memory.

    Args:
        error: the error of the last attempt.
        needed: the memory that the run needs, as text, or None if unknown.
    """
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ ?(?:bytes|[KMGT]i?B))", str(error))
    what = "not enough memory, even for one slice at a time"
    if asked:
        what += f"; the allocation of {asked.group(1)} failed"
    free = available_memory()
    return ResourceError(
        what,
        where="inferer",
        expected=None if needed is None else f"roughly {needed} for the whole process",
        got=None if needed is None or free is None else f"{free / 1e9:.2f} GB free",
        mend="close other programs, reconstruct a part of the volume, or use a machine with more memory",
    )


class MemoryRelief:
    """Frees memory so that a step can be retried: smaller batches of slices, then the volume on the CPU.

    Handles out-of-memory errors only. The voxels stay the same, within the rounding of another batch size.

    Attributes:
        notes: the fallbacks used, as text.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []

    def relieve(self, error: Exception, engine: Any) -> None:
        """Free memory, or give up.

        Args:
            error: the error of a step.
            engine: the reconstruction engine.

        Raises:
            Exception: ``error`` itself, if it is another error.
            ResourceError: no fallback is left; the message has an estimate.
        """
        if not is_out_of_memory(error):
            raise error
        planes = engine.prior.planes if engine.prior is not None else ()
        # Guidance goes back through all batches at once, outside of the calls that halve by themselves.
        halved = [plane.halve() for plane in planes if hasattr(plane, "halve")]
        if any(halved):
            return
        device = engine.problem.measurement.device
        if engine.move_to_cpu():
            release_memory(device)
            self.notes.append("out of memory: the volume was moved to the CPU for the rest of the sample")
            return
        raise out_of_memory_error(error, engine.memory_needed) from error
