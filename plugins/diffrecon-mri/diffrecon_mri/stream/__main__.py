# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m diffrecon_mri.stream``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from diffrecon_mri.stream.reconstruction import StreamReconstruction
from diffrecon_mri.stream.server import StreamServer, is_loopback
from diffrecon_mri.stream.wire import Limits
from monai_diffrecon.cli.run import overrides_of, reader_of
from monai_diffrecon.engine.cases.termination import stop_on_sigterm
from monai_diffrecon.errors import ConfigError, DiffReconError
from monai_diffrecon.errors.options import check_number

logger = logging.getLogger("diffrecon_mri.stream")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m diffrecon_mri.stream",
        description="Reconstruct MR scans that arrive in the ISMRMRD protocol or as MRD 2, and return images.",
    )
    parser.add_argument("--bundle", required=True, metavar="NAME", help="name or path of a bundle")
    parser.add_argument("--task", metavar="NAME", help="task of the bundle (by the scan)")
    parser.add_argument("--method", metavar="NAME", help="preset of a method")
    parser.add_argument(
        "--set", action="append", default=[], metavar="ID=VALUE", help="config id and value, as sampler.steps=20"
    )
    parser.add_argument("--reader", default="{}", metavar="JSON", help="options of the reader ismrmrd")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (a GPU if there is one)")
    parser.add_argument("--seed", type=int, metavar="N", help="seed (0)")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen at (127.0.0.1)")
    parser.add_argument("--port", type=int, default=9002, metavar="N", help="port (9002)")
    parser.add_argument("--open", action="store_true", help="allow an address that other machines reach")
    parser.add_argument("--volume", action="store_true", help="send one 3D image instead of slices")
    parser.add_argument("--data-type", choices=("float32", "uint16"), default="float32", help="of images (float32)")
    parser.add_argument("--memory", type=float, default=4.0, metavar="GIB", help="for scans that arrive (4)")
    parser.add_argument("--silence", type=float, default=120.0, metavar="S", help="longest pause of a client (120)")
    parser.add_argument("--longest", type=float, default=3600.0, metavar="S", help="longest scan (3600)")
    parser.add_argument("--clients", type=int, default=4, metavar="N", help="connections at a time (4)")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        DiffReconError: an option is wrong.
    """
    open_ = not is_loopback(arguments.host)
    if open_ and not arguments.open:
        raise ConfigError(
            "other machines reach this address, and the protocol neither encrypts nor asks who it is",
            where="--host",
            mend="use 127.0.0.1, or --open in a network that you trust",
        )
    memory = int(check_number(arguments.memory, "--memory", low=0.0) * 2**30)
    limits = Limits(memory, arguments.silence, arguments.longest, arguments.clients)
    overrides = overrides_of(arguments.set)
    overrides |= {name: v for name in ("device", "seed") if (v := getattr(arguments, name)) is not None}
    reconstruction = StreamReconstruction(
        arguments.bundle,
        task=arguments.task,
        method=arguments.method,
        overrides=overrides,
        reader=_reader(arguments.reader),
        whole=arguments.volume,
        dtype=arguments.data_type,
    )
    server = StreamServer(reconstruction.images, reconstruction.offer, arguments.host, arguments.port, limits)
    if open_:
        logger.warning("other machines reach this port: nothing is encrypted, and nobody is asked who they are")
    with stop_on_sigterm():
        server.serve()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: arguments; those of the process unless given.
    """
    arguments = build_parser().parse_args(argv)
    # Only our own lines: other packages may quote what they were given.
    logging.basicConfig(level=logging.CRITICAL, format="%(asctime)s %(message)s", stream=sys.stdout)
    logging.getLogger("diffrecon_mri.stream").setLevel(logging.INFO)
    try:
        return run(arguments)
    except DiffReconError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _reader(text: str) -> dict:
    options = reader_of(text)
    if not isinstance(options, dict) or options.pop("name", "ismrmrd") != "ismrmrd":
        raise ConfigError("not the options of this reader", where="--reader", expected="option -> value of ismrmrd")
    return options


if __name__ == "__main__":
    sys.exit(main())
