# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Bytes of one connection, with limits in memory and time that hold before anything is allocated."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from monai_diffrecon.errors import InputError, ResourceError
from monai_diffrecon.errors.options import check_integer, check_number

#: What messages of errors call a stream.
WHERE = "stream"
#: Seconds in which a client may read the last words, and bytes of it that are thrown away meanwhile.
_LINGER, _BLOCK = 5.0, 1 << 16


@dataclass(frozen=True)
class Limits:
    """What clients may use.

    Attributes:
        memory: bytes of acquisitions of all connections together.
        silence: seconds without a byte, or without one being taken, after which a connection ends.
        longest: seconds in which a scan must have arrived.
        clients: connections at a time; further ones wait.
    """

    memory: int = 4 << 30
    silence: float = 120.0
    longest: float = 3600.0
    clients: int = 4

    def __post_init__(self) -> None:
        check_integer(self.memory, "--memory", low=1)
        check_number(self.silence, "--silence", low=0.0, open_low=True)
        check_number(self.longest, "--longest", low=0.0, open_low=True)
        check_integer(self.clients, "--clients", low=1, high=64)


class Memory:
    """Bytes that connections share.

    Args:
        size: all of them.
    """

    def __init__(self, size: int) -> None:
        self._left, self._lock = size, threading.Lock()

    def take(self, count: int) -> None:
        """Reserve bytes.

        Raises:
            ResourceError: so many are not left.
        """
        with self._lock:
            if count > self._left:
                raise ResourceError(
                    "more data than memory for scans",
                    where=WHERE,
                    expected=f"at most {self._left} further bytes",
                    got=count,
                    mend="raise --memory, or send again when other scans are done",
                )
            self._left -= count

    def give_back(self, count: int) -> None:
        """Return bytes."""
        with self._lock:
            self._left += count


class Wire:
    """A connection to a client.

    Args:
        connection: its socket.
        memory: the memory that all connections share.
        limits: the limits.
    """

    def __init__(self, connection: socket.socket, memory: Memory, limits: Limits) -> None:
        self._socket, self._memory, self._silence = connection, memory, limits.silence
        self._deadline = time.monotonic() + limits.longest
        self._taken = 0

    def reserve(self, count: int) -> None:
        """Reserve memory until the connection ends.

        Raises:
            ResourceError: so much is not left.
        """
        self._memory.take(count)
        self._taken += count

    def read(self, count: int) -> bytearray:
        """Return exactly so many bytes, for which memory is reserved first.

        Raises:
            ResourceError: so much memory is not left.
            InputError: the stream ends before, or the client is too slow.
        """
        self.reserve(count)
        found = bytearray(count)
        self.read_into(memoryview(found), count)
        return found

    def read_into(self, view: memoryview, least: int) -> int:
        """Fill a view with at least so many bytes, and with what else is there; return how many.

        Raises:
            InputError: the stream ends before, or the client is too slow.
        """
        found = 0
        while found < least:
            left = self._deadline - time.monotonic()
            self._socket.settimeout(max(min(self._silence, left), 1e-3))
            try:
                count = self._socket.recv_into(view[found:])
            except TimeoutError:
                what = "nothing has arrived for too long" if left > self._silence else "the scan takes too long"
                raise InputError(what, where=WHERE) from None
            except OSError as error:
                raise InputError("the connection is lost", where=WHERE, got=type(error).__name__) from None
            if not count:
                raise InputError("the stream ends within a scan", where=WHERE, mend="end it by a message of its own")
            found += count
        return found

    def write(self, data: Any) -> None:
        """Send bytes.

        Raises:
            InputError: the client has gone, or does not read.
        """
        self._socket.settimeout(self._silence)
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise InputError("the client does not take the answer", where=WHERE, got=type(error).__name__) from None

    def close(self) -> None:
        """Give back the memory, and close the connection when the client has read what was sent.

        A connection with unread bytes would be reset, and with it the answer on its way.
        """
        self._memory.give_back(self._taken)
        self._taken = 0
        end = time.monotonic() + _LINGER
        with suppress(OSError), self._socket:
            self._socket.shutdown(socket.SHUT_WR)
            while (left := end - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(_BLOCK):
                    break
