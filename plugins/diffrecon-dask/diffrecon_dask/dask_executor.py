# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Tasks on the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

from distributed import Client, Future, as_completed
from distributed.client import FutureCancelledError
from distributed.comm import CommClosedError
from distributed.scheduler import KilledWorker

from diffrecon_dask.clusters import CLUSTERS, start_cluster, threads_of
from monai_diffrecon.errors import ConfigError, ResourceError
from monai_diffrecon.protocols import Executor
from monai_diffrecon.protocols.evaluation.executor import Result, Task

_CONNECTING = 30.0  # seconds
_LOST = (CancelledError, FutureCancelledError, CommClosedError, OSError, TimeoutError)


class DaskExecutor(Executor):
    """Workers of a Dask cluster: one that runs, or one that is started in a batch system.

    A task whose worker died is run again by another one, as often as Dask's ``distributed.scheduler.allowed-failures``
    says.

    Args:
        address: of a scheduler that runs, such as ``tcp://node1:8786``; its workers have one thread each.
        cluster: name of a cluster to start: ``local``, ``slurm``, ``pbs``, ``lsf``, ``sge``, ``htcondor``, ``moab``,
            ``oar`` or ``kubernetes``.
        workers: number of workers to start; in a batch system one a job.
        options: arguments of the cluster's class; those of a batch system go over dask-jobqueue's configuration file.
        threads: threads of torch in a worker; by default the cores of a job, or the share of a local worker.

    Raises:
        ConfigError: neither an address nor a cluster, both, or a number that is too small.
    """

    def __init__(
        self,
        address: str | None = None,
        cluster: str | None = None,
        workers: int = 2,
        options: Mapping[str, Any] | None = None,
        threads: int | None = None,
    ) -> None:
        if (address is None) == (cluster is None):
            raise ConfigError("a Dask cluster", where="executor", expected="either address or cluster")
        if cluster is not None and cluster not in CLUSTERS:
            raise ConfigError("no such cluster", where="executor#cluster", expected=", ".join(CLUSTERS), got=cluster)
        if not isinstance(options, Mapping | None):
            raise ConfigError("not options", where="executor#options", expected="a mapping", got=repr(options))
        for name, value in (("workers", workers), ("threads", threads)):
            if not ((value is None and name == "threads") or (isinstance(value, int) and value >= 1)):
                raise ConfigError("not a number", where=f"executor#{name}", expected="1 or more", got=repr(value))
        self.address, self.cluster, self.workers, self.options = address, cluster, workers, dict(options or {})
        self.threads = threads_of(cluster, workers, self.options) if threads is None else threads

    def run(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Generator[tuple[Task, Result | Exception], None, None]:
        """Run the tasks, see the base class."""
        if not tasks:
            return
        with self._client() as client:
            futures = client.map(partial(_with_threads, self.threads, function), tasks, pure=False)
            task_of = dict(zip(futures, tasks, strict=True))
            for future in as_completed(futures, loop=client.loop):
                yield task_of[future], _result(future)

    @contextmanager
    def _client(self) -> Iterator[Client]:
        if self.cluster is not None:
            with closing(start_cluster(self.cluster, self.workers, self.options)) as cluster, Client(cluster) as client:
                yield client
            return
        try:
            client = Client(self.address, timeout=_CONNECTING, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ResourceError(
                "no scheduler answers",
                where="executor#address",
                got=type(error).__name__,
                mend="start one (dask scheduler), or correct the address",
            ) from None
        with client:
            yield client


def _result(future: Future) -> Any:
    """Return what a task returned or raised.

    Raises:
        ResourceError: the scheduler is lost.
    """
    try:
        error = None if future.cancelled() else future.exception()
        if error is None:
            return future.result()
        if future.cancelled():  # in the meantime; then its error is returned, not raised
            raise error
    except _LOST as lost:
        raise ResourceError(
            "the scheduler was lost",
            where="executor",
            got=type(lost).__name__,
            mend="start it and give the same command, which resumes",
        ) from None
    if isinstance(error, KilledWorker):
        return ResourceError(
            "the workers died", where="executor", mend="see if memory or time ran out; the same command resumes"
        )
    return error


def _with_threads(threads: int | None, function: Callable[[Any], Any], task: Any) -> Any:
    """Run a task in a worker with so many threads of torch."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return function(task)
