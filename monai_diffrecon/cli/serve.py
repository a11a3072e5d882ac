# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The subcommand ``diffrecon serve``; what it needs is imported when it runs."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable


def serve(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Reconstruct series that arrive at an Orthanc server, and return derived series to it."""
    parser.add_argument("--orthanc", required=True, metavar="URL", help="its REST API, https://HOST:8042")
    parser.add_argument("--rules", required=True, metavar="RULES.json", help="which series, and how")
    parser.add_argument("--work", required=True, metavar="FOLDER", help="folder for this worker; several may share it")
    parser.add_argument("--credentials", metavar="FILE", help='private file: {"user": "...", "password": "..."}')
    parser.add_argument("--ca-file", metavar="FILE.pem", help="certificates by which the server is verified")
    parser.add_argument("--client-certificate", metavar="FILE.pem", help="private file of certificate and key")
    parser.add_argument("--plain-http", action="store_true", help="allow http:// to another machine")
    parser.add_argument("--once", action="store_true", help="end when all is done that is there")
    parser.add_argument("--every", type=float, default=5.0, metavar="S", help="seconds between looks at the feed (5)")
    parser.add_argument("--from-now", action="store_true", help="first start: leave out what is there already")
    parser.add_argument("--retry", action="store_true", help="try again what has failed")

    def run(arguments: argparse.Namespace) -> int:
        from monai_diffrecon.errors.options import check_number, path_option
        from monai_diffrecon.serve.connection import Connection
        from monai_diffrecon.serve.rules import read_rules
        from monai_diffrecon.serve.worker import Worker

        # Only our own lines: other packages log addresses and paths, and quote what they were given. A level of the
        # root logger would not do, since pydicom's has its own and quotes headers.
        handler = logging.StreamHandler(sys.stdout)
        handler.addFilter(logging.Filter("monai_diffrecon"))
        logging.basicConfig(format="%(asctime)s %(message)s", handlers=[handler])
        warnings.simplefilter("ignore")
        logging.getLogger("monai_diffrecon").setLevel(logging.WARNING)
        logging.getLogger("monai_diffrecon.serve").setLevel(logging.INFO)
        every = check_number(arguments.every, "--every", low=0.1)
        folder, rules = path_option(arguments.work, "--work"), read_rules(arguments.rules)
        connection = Connection(
            arguments.orthanc,
            credentials=arguments.credentials,
            ca_file=arguments.ca_file,
            client_certificate=arguments.client_certificate,
            plain_http=arguments.plain_http,
        )
        worker = Worker(connection, rules, folder)
        worker.run(once=arguments.once, every=every, from_now=arguments.from_now, retry=arguments.retry)
        return 0

    return run
