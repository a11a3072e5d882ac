# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A server for clients that send a scan and get images on the same connection."""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Protocol

from diffrecon_mri.stream.choices import Offer
from diffrecon_mri.stream.images import StreamImage
from diffrecon_mri.stream.ismrmrd_session import IsmrmrdSession
from diffrecon_mri.stream.scan import Scan
from diffrecon_mri.stream.wire import WHERE, Limits, Memory, Wire
from monai_diffrecon.errors import ConfigError, DiffReconError, InputError, PluginError, ResourceError
from monai_diffrecon.errors.options import check_integer
from monai_diffrecon.privacy.redaction import redact

logger = logging.getLogger(__name__)

#: Seconds between looks at whether the server is to stop, and connections that wait.
_LOOK, _BACKLOG = 0.2, 8
#: What a stream of MRD 2 begins with, and no message of ISMRMRD.
_MRD = b"ya"

#: Returns images and notices.
Reconstruct = Callable[[Scan], tuple[list[StreamImage], tuple[str, ...]]]


class Session(Protocol):
    """One scan by one of the protocols."""

    def receive(self) -> Scan:
        """Return the scan."""

    def send(self, images: list[StreamImage], notices: tuple[str, ...]) -> None:
        """Send its images."""

    def refuse(self, reason: str) -> None:
        """Say why there are none."""


class StreamServer:
    """A server that receives scans side by side, and reconstructs one at a time.

    Nothing is written to the disk, and no line of the log quotes what a client sent, but for names of choices.

    Attributes:
        address: host and port.

    Args:
        reconstruct: makes images of a scan.
        offer: what clients may choose.
        host: address to listen at.
        port: port; 0 takes any.
        limits: what clients may use; None for the defaults.

    Raises:
        ConfigError: no such address, or the port is taken.
    """

    def __init__(
        self,
        reconstruct: Reconstruct,
        offer: Offer,
        host: str = "127.0.0.1",
        port: int = 9002,
        limits: Limits | None = None,
    ) -> None:
        check_integer(port, "--port", low=0, high=65535)
        limits = Limits() if limits is None else limits
        self._reconstruct, self._offer, self._limits = reconstruct, offer, limits
        self._memory, self._slots = Memory(limits.memory), threading.Semaphore(limits.clients)
        self._turn, self._stopped, self._numbers = threading.Lock(), threading.Event(), count(1)
        try:
            self._socket = socket.create_server((host, port), family=_family(host), backlog=_BACKLOG)
        except OSError as error:
            raise ConfigError("cannot listen", where="--host, --port", got=error.strerror) from None
        self._socket.settimeout(_LOOK)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]

    def serve(self) -> None:
        """Serve until :meth:`stop`; further connections wait in the queue of the system."""
        logger.info("listening at %s, port %d", *self.address)
        with self._socket:
            while not self._stopped.is_set():
                if not self._slots.acquire(timeout=_LOOK):
                    continue
                try:
                    connection, _ = self._socket.accept()
                except OSError:  # nobody, or one that has gone
                    self._slots.release()
                    continue
                number = next(self._numbers)
                threading.Thread(target=self._serve_one, args=(connection, number), daemon=True).start()

    def stop(self) -> None:
        """Take no more connections."""
        self._stopped.set()

    def _serve_one(self, connection: socket.socket, number: int) -> None:
        wire = Wire(connection, self._memory, self._limits)
        session: Session | None = None
        try:
            first = bytes(wire.read(2))
            session = self._session(wire, first)
            self._answer(session, number)
        except DiffReconError as error:
            self._fail(session, number, str(redact(str(error))))
        except MemoryError:
            self._fail(session, number, str(ResourceError("out of memory", where=WHERE)))
        except Exception as error:  # a defect; its words may quote a header
            place = traceback.extract_tb(error.__traceback__)[-1]
            self._fail(
                session, number, f"a defect: {type(error).__name__} in {Path(place.filename).name}, line {place.lineno}"
            )
        finally:
            wire.close()
            self._slots.release()

    def _session(self, wire: Wire, first: bytes) -> Session:
        if first != _MRD:
            return IsmrmrdSession(wire, self._offer, first)
        try:
            from diffrecon_mri.stream.mrd_session import MrdSession
        except ImportError as error:
            if (error.name or "").partition(".")[0] != "mrd":
                raise
            mend = "pip install 'diffrecon-mri[mrd]'"
            raise PluginError("an MRD 2 stream, and no mrd-python", where=WHERE, mend=mend) from None
        return MrdSession(wire, first)

    def _answer(self, session: Session, number: int) -> None:
        """Receive a scan and send its images."""
        started = time.monotonic()
        scan = session.receive()
        if scan.header is None:
            logger.info("connection %d: closed without a scan", number)
            session.send([], ())
            return
        if not len(scan):
            raise InputError("no acquisitions", where=WHERE)
        waveforms = f", {scan.ignored} waveforms ignored" if scan.ignored else ""
        received = time.monotonic() - started
        logger.info("connection %d: %d acquisitions in %.1f s%s", number, len(scan), received, waveforms)
        with self._turn:
            started = time.monotonic()
            images, notices = self._reconstruct(scan)
            seconds = time.monotonic() - started
        for notice in notices:
            logger.warning("connection %d: %s", number, redact(notice))
        session.send(images, notices)
        logger.info("connection %d: %d images after %.1f s", number, len(images), seconds)

    @staticmethod
    def _fail(session: Session | None, number: int, reason: str) -> None:
        logger.error("connection %d: %s", number, reason)
        if session is not None:
            with suppress(InputError):  # nobody is there to hear it
                session.refuse(reason)


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
