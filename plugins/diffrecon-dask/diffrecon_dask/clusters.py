# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Clusters by name: local processes, batch systems through dask-jobqueue, Kubernetes."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

from monai_diffrecon.errors import ConfigError, PluginError

#: Name -> (module, class).
CLUSTERS = {
    "local": ("distributed", "LocalCluster"),
    **{
        name: ("dask_jobqueue", f"{cls}Cluster")
        for name, cls in (
            ("slurm", "SLURM"),
            ("pbs", "PBS"),
            ("lsf", "LSF"),
            ("sge", "SGE"),
            ("htcondor", "HTCondor"),
            ("moab", "Moab"),
            ("oar", "OAR"),
        )
    },
    "kubernetes": ("dask_kubernetes.operator", "KubeCluster"),
}


def start_cluster(name: str, workers: int, options: Mapping[str, Any]) -> Any:
    """Start a cluster of so many workers, each of which runs one task at a time.

    Args:
        name: one of :data:`CLUSTERS`.
        workers: number of workers; of a batch system, one a job.
        options: further arguments of the cluster's class; of a batch system they go over its configuration file.

    Raises:
        PluginError: the package that provides it is missing.
        ConfigError: its class refuses an option.
    """
    module, cls = CLUSTERS[name]
    try:
        make = getattr(importlib.import_module(module), cls)
    except ImportError:
        extra = "kubernetes" if name == "kubernetes" else "jobqueue"
        raise PluginError(
            f"the cluster {name!r} needs {module.partition('.')[0]}",
            where="executor#cluster",
            mend=f"pip install 'diffrecon-dask[{extra}]'",
        ) from None
    given = dict(options)
    if name == "local":
        given = {"threads_per_worker": 1, "n_workers": workers, "dashboard_address": None, **given}
    elif module == "dask_jobqueue":
        # One worker a job, which takes one task at a time; its cores are for torch.
        more = [*given.get("worker_extra_args", ()), "--nthreads", "1"]
        given = {**given, "processes": 1, "worker_extra_args": more}
    try:
        cluster = make(**given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            "the cluster was refused", where="executor#options", got=str(error), mend="see its class in Dask's manual"
        ) from None
    if name != "local":
        cluster.scale(workers)
    return cluster


def threads_of(name: str | None, workers: int, options: Mapping[str, Any]) -> int | None:
    """Return the threads of torch in a worker; None leaves them as its environment says.

    Args:
        name: of the cluster; None for one that exists.
        workers: number of workers.
        options: of the cluster.
    """
    if name == "local":
        return max(1, (os.cpu_count() or 1) // workers)
    if name is not None and CLUSTERS[name][0] == "dask_jobqueue":
        import dask

        cores = options.get("cores", dask.config.get(f"jobqueue.{name}.cores", None))
        return None if cores is None else int(cores)
    return None
