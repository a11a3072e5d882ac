# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A scheduler and a worker in one process that can be killed; the address goes to the file in the first argument."""

import sys
import time
from pathlib import Path

from distributed import LocalCluster

if __name__ == "__main__":
    # The tasks are unpickled here, by the name under which pytest imported their module.
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[3])]
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address=None
    ) as cluster:
        new = Path(f"{sys.argv[1]}.new")
        new.write_text(cluster.scheduler_address)
        new.replace(sys.argv[1])
        time.sleep(600)
