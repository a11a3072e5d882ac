# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Several processes that reconstruct one volume together (``torchrun``), through ``ignite.distributed``.

Every process holds the volume and computes the same; only slices are shared out (:func:`share_rows`). A failure in one
process must not leave the others waiting, so every collective starts with the question whether all are well, and
:func:`agree` brings the processes back to the same place. In a single process all functions are trivial. Processes may
also compute samples or cases of their own (:func:`alone`), and exchange what came of them (:func:`in_turn`).
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import ignite.distributed as idist
import torch
from torch import Tensor

from monai_diffrecon.errors import DiffReconError, ResourceError, common_kind

T = TypeVar("T")

#: Attribute of an exception that all processes know of.
_KNOWN = "known_to_all_processes"
#: What processes share out: slices of the same volume or the volume itself, or what each computes by itself.
SHARES = ("slices", "slabs", "samples", "cases")
#: How long a process waits for another one that is computing by itself; a lost connection is noticed at once.
_PATIENCE = timedelta(days=7)
_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


class _InterruptedError(ResourceError):
    """Another process failed, and is about to say how."""


@contextmanager
def joined(shared: str = "slices") -> Iterator[None]:
    """Context in which a process that ``torchrun`` started belongs to the group of its run.

    It does nothing for a process started otherwise, or if the caller has set up ``torch.distributed``. Only the first
    process logs warnings, unless each has cases of its own.

    Args:
        shared: one of ``SHARES``. Samples and cases are exchanged by the host, which waits as long as it takes.
    """
    started = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
    if not started or torch.distributed.is_initialized():
        yield
        return
    hook = sys.excepthook
    if shared in ("slices", "slabs"):
        _call(idist.initialize, "nccl" if torch.cuda.is_available() else "gloo")
    else:
        if torch.cuda.is_available():  # as ignite does for nccl
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        _call(idist.initialize, "gloo", timeout=_PATIENCE)
    sys.excepthook = hook  # torch's own swallows a message whose hook also sets the exit code
    logger = logging.getLogger("monai_diffrecon")
    level = logger.level
    logger.setLevel(level if is_first() or shared == "cases" else logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        idist.finalize()


def processes() -> int:
    """Return the number of processes in the group; 1 without a group."""
    return int(torch.distributed.get_world_size()) if _grouped() else 1


def is_first() -> bool:
    """Return whether this process is the first of its group, which alone writes and logs."""
    return not _grouped() or rank() == 0


def rank() -> int:
    """Return the number of this process in its group, from 0, also while it is alone; 0 without a group."""
    return int(torch.distributed.get_rank()) if _started() else 0


@contextmanager
def alone(apart: bool = True) -> Iterator[None]:
    """Context in which this process computes as if there were no group; it does nothing unless ``apart``."""
    before = _ALONE.set(apart or _ALONE.get())
    try:
        yield
    finally:
        _ALONE.reset(before)


def share(count: int, unit: int) -> list[tuple[int, int]]:
    """Return the range (first, last + 1) of each process.

    Args:
        count: number of items.
        unit: items that stay together, so that a batch has the same items for any number of processes; a single one
            that is left over stays with the batch before.
    """
    batches, size = max(-(-(count - 1) // unit), 1) if unit > 1 else count, processes()
    cuts = [min(batches * number // size * unit, count) for number in range(size)]
    return list(pairwise([*cuts, count]))


def own_share(ranges: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the range of this process."""
    return ranges[rank() if _grouped() else 0]


def share_rows(rows: Tensor, ranges: Sequence[tuple[int, int]]) -> None:
    """Fill ``rows`` (N, ...) in place with what the other processes computed.

    Args:
        rows: the tensor, of which this process has filled its own range.
        ranges: range of each process, from :func:`share`.

    Raises:
        ResourceError: another process failed.
    """
    if processes() == 1:
        return
    _meet()
    for source, (first, end) in enumerate(ranges):
        if end > first:
            part = rows[first:end].contiguous()
            rows[first:end] = torch.as_tensor(_call(idist.broadcast, part, src=source))


def reduce(value: Tensor, operation: str) -> Tensor:
    """Return the sum or the maximum over the processes, entry by entry.

    Args:
        value: of this process.
        operation: ``SUM`` or ``MAX``.

    Raises:
        ResourceError: another process failed.
    """
    if processes() == 1:
        return value
    _meet()
    return torch.as_tensor(_call(idist.all_reduce, _sendable(value.clone()), operation)).to(value.device)


def swap(pieces: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Give each process a tensor, and return what each has for this one.

    Args:
        pieces: for each process, this one included.
        shapes: of what each process has for this one; the data type is that of ``pieces``.

    Raises:
        ResourceError: another process failed.
    """
    if processes() == 1:
        return list(pieces)
    _meet()
    me = torch.distributed.get_rank()
    sent = [_sendable(piece.contiguous()) for piece in pieces]
    received = [torch.empty(tuple(shape), dtype=sent[0].dtype, device=sent[0].device) for shape in shapes]
    transfers = [
        torch.distributed.P2POp(operation, _real(tensors[other]), other)
        for other in range(processes())
        for operation, tensors in ((torch.distributed.isend, sent), (torch.distributed.irecv, received))
        if other != me and tensors[other].numel()
    ]
    if transfers:
        for transfer in _call(torch.distributed.batch_isend_irecv, transfers):
            _call(transfer.wait)
    received[me] = pieces[me]
    return [piece.to(pieces[0].device) for piece in received]


def _sendable(x: Tensor) -> Tensor:
    """Return a tensor where the backend can reach it."""
    return x.to(idist.device()) if torch.distributed.get_backend() == "nccl" else x


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def from_first(value: T) -> T:
    """Return the first process's value in every process.

    Raises:
        ResourceError: another process failed.
    """
    if processes() == 1:
        return value
    _meet()
    box: list[Any] = [value]
    _call(torch.distributed.broadcast_object_list, box, src=0)
    return box[0]


def in_turn(value: T) -> Iterator[T]:
    """Yield the value of each process, in the order of the processes; one of them is in memory at a time.

    Tensors keep their strides, on which the last bit of a sum depends.

    Raises:
        ResourceError: another process failed.
    """
    if processes() == 1:
        yield value
        return
    sent = pickle.dumps(value)  # before the others wait for it
    for source in range(processes()):
        _meet()
        box = [sent if source == rank() else b""]
        _call(torch.distributed.broadcast_object_list, box, src=source)
        yield pickle.loads(box[0])


@contextmanager
def together() -> Iterator[None]:
    """Context that an exception in one process ends in all of them.

    Raises:
        DiffReconError: another process failed; of the same class as its error.
    """
    try:
        yield
    except Exception as error:
        agree(error)
        raise
    agree(None)


class Leading:
    """Context in which the first process decides whether the others join in (:func:`told_to_start`)."""

    def __init__(self) -> None:
        self._decided = processes() == 1

    def __enter__(self) -> Leading:
        return self

    def start(self) -> None:
        """Tell the other processes to start."""
        self._decide(True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # A process that was told to stop leaves at once; the lost connection tells the others.
        if error is None or isinstance(error, Exception):
            self._decide(False)

    def _decide(self, start: bool) -> None:
        if not self._decided:
            self._decided = True
            _call(idist.broadcast, float(start), src=0)


def told_to_start() -> bool:
    """Wait for the first process, and return whether it starts.

    Raises:
        ResourceError: the first process has ended.
    """
    return bool(_call(idist.broadcast, 0.0, src=0))


def agree(error: Exception | None, may_retry: Callable[[Exception], bool] | None = None) -> Exception | None:
    """Tell the other processes how an attempt ended, and return None if it succeeded in all of them.

    Args:
        error: the error of this process.
        may_retry: whether the attempt can be repeated after such an error. It is repeated by all processes or by none.

    Returns:
        None, or an error after which the attempt is to be repeated.

    Raises:
        Exception: ``error`` itself.
        DiffReconError: another process failed; of the same class as its error.
    """
    if processes() == 1:
        if error is None or (may_retry is not None and may_retry(error)):
            return error
        raise error
    if error is not None and getattr(error, _KNOWN, False):
        raise error
    interrupted = isinstance(error, _InterruptedError)
    if not interrupted and _all_well(error is None):
        return None
    retry = error is None or interrupted or (may_retry is not None and may_retry(error))
    mine = None if error is None or interrupted else (str(error), getattr(error, "exit_code", None))
    reports: list[Any] = [None] * processes()
    said = (mine, retry and may_retry is not None)
    _call(torch.distributed.all_gather_object, reports, said)
    if all(again for _, again in reports):
        return error if mine is not None else MemoryError("in another process of this run")
    if mine is not None and error is not None:
        setattr(error, _KNOWN, True)
        raise error
    raise _of_peer([(number, *report) for number, (report, _) in enumerate(reports) if report is not None])


def _of_peer(reports: list[tuple[int, str, int | None]]) -> DiffReconError:
    """Return the error of a process for the failures of others."""
    number, text, code = reports[0]
    kind = ResourceError if code is None else common_kind([code])
    error = kind("another process of this run failed", where=f"process {number}", got=text.splitlines()[0][:200])
    setattr(error, _KNOWN, True)
    return error


def _meet() -> None:
    if not _all_well(True):
        raise _InterruptedError("another process of this run failed", where="processes")


def _all_well(well: bool) -> bool:
    return bool(_call(idist.all_reduce, int(well), "MIN"))


def _call(collective: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Return the result of a collective.

    Raises:
        ResourceError: the connection to another process is lost.
    """
    try:
        return collective(*args, **kwargs)
    except RuntimeError as error:
        lost = ResourceError(
            "another process of this run has ended or cannot be reached",
            where="processes",
            mend="see its own message, then run the same command again; it continues",
        )
        setattr(lost, _KNOWN, True)
        raise lost from error


def _grouped() -> bool:
    return _started() and not _ALONE.get()


def _started() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
