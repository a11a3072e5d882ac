# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""A connection to Orthanc's REST API that fails in one line and tells nobody a secret."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from monai_diffrecon.errors import ConfigError, InputError, ResourceError
from monai_diffrecon.errors.options import path_option
from monai_diffrecon.io.file_validation import check_keys, read_json

#: Seconds to connect, and between two bytes of an answer.
_TIMEOUT = (10.0, 60.0)
#: Bytes of an answer that is kept in memory; lists of many thousand instances are shorter.
_LONGEST = 1 << 26
_MEND = "check the address; a proxy may ask for --client-certificate"


class ServerAwayError(ResourceError):
    """The server cannot be reached or is overloaded; the same request may succeed later."""


class ServerRefusesError(ConfigError):
    """The server refuses the worker, does not answer as Orthanc does, or TLS fails: it is no matter of one series."""


class Connection:
    """A connection to a server.

    No message quotes an address, an id or an answer of the server. Neither proxies nor ``~/.netrc`` are asked, and no
    redirection is followed: they could lead images or passwords elsewhere.

    Args:
        url: address of the server, ``https://host:8042``; plain HTTP only on this machine, or with ``plain_http``.
        credentials: private JSON file, ``{"user": ..., "password": ...}``.
        ca_file: certificates by which the server is verified; None: those of the package certifi.
        client_certificate: private PEM file of certificate and key, by which this worker identifies itself.
        plain_http: allow HTTP to another machine: whoever can listen reads images and password.

    Raises:
        ConfigError: no such address, or a file with secrets that others can read.
        InputError: no such file.
    """

    def __init__(
        self,
        url: str,
        *,
        credentials: str | None = None,
        ca_file: str | None = None,
        client_certificate: str | None = None,
        plain_http: bool = False,
    ) -> None:
        import requests

        self._url, self._requests, self._session = _checked_url(url, plain_http), requests, requests.Session()
        self._session.trust_env = False
        self._session.verify = True if ca_file is None else str(_file(ca_file, "--ca-file"))
        if client_certificate is not None:
            self._session.cert = str(_key_pair(_private(client_certificate, "--client-certificate")))
        if credentials is not None:
            path, keys = _private(credentials, "--credentials"), ("user", "password")
            said = check_keys(read_json(path, "--credentials"), "--credentials", keys, keys)
            # As Orthanc compares them; requests would encode text as Latin-1.
            self._session.auth = (str(said["user"]).encode(), str(said["password"]).encode())

    @contextmanager
    def request(self, verb: str, path: str, away: tuple[int, ...] | None = None, **options: Any) -> Iterator[Any]:
        """Make a request; yield the answer.

        Args:
            verb: ``GET``, ``PUT`` or ``POST``.
            path: after the address.
            away: statuses of a server in trouble; None: 429, and all from 500.
            options: of ``requests``.

        Raises:
            ServerAwayError: no answer, or one of a server in trouble.
            ServerRefusesError: TLS fails, or the server refuses the worker or leads it elsewhere.
        """
        errors = self._requests.exceptions
        options = {"timeout": _TIMEOUT, "allow_redirects": False, "stream": True, **options}
        try:
            with self._session.request(verb, f"{self._url}{path}", **options) as answer:
                status = answer.status_code
                got = f"status {status}"
                if status in (401, 403):
                    raise ServerRefusesError("the server refuses the worker", where="--credentials", got=got)
                page = answer.headers.get("Content-Type", "").startswith("text/html")
                if 300 <= status < 400 or (status == 200 and page):  # a proxy that asks people to log in, for instance
                    raise ServerRefusesError("not an answer of Orthanc", where="--orthanc", got=got, mend=_MEND)
                if status in away if away is not None else status == 429 or status >= 500:
                    raise ServerAwayError("the server is in trouble", where="--orthanc", got=got)
                yield answer
        except errors.SSLError:
            mend = "check --ca-file, --client-certificate and the host name"
            raise ServerRefusesError("TLS fails", where="--orthanc", mend=mend) from None
        except errors.RequestException as error:
            got, mend = type(error).__name__, "check that it runs, and the address"
            raise ServerAwayError("the server cannot be reached", where="--orthanc", got=got, mend=mend) from None

    def json(self, path: str, missing: Any = None, **options: Any) -> Any:
        """Return an answer in JSON, or ``missing`` if that is given and there is nothing.

        Raises:
            ServerRefusesError: another answer; see also :meth:`request`.
        """
        with self.request("GET", path, **options) as answer:
            if answer.status_code == 404 and missing is not None:
                return missing
            if answer.status_code != 200:
                got = f"status {answer.status_code}"
                raise ServerRefusesError("not an answer of Orthanc", where="--orthanc", got=got, mend=_MEND)
            return json_of(answer)

    def text(self, path: str) -> str | None:
        """Return a short answer, without blanks at its ends, or None if there is nothing."""
        return self.tagged_text(path)[0]

    def tagged_text(self, path: str) -> tuple[str | None, str | None]:
        """Return a short answer, and its revision (``ETag``), or None where there is none."""
        with self.request("GET", path) as answer:
            if answer.status_code != 200:
                return None, None
            text = _content(answer).decode("utf-8", errors="replace")
            return text.strip("\0 \r\n"), answer.headers.get("ETag")


def json_of(answer: Any) -> Any:
    """Return what an answer says in JSON.

    Raises:
        ServerRefusesError: it is none, or too long.
    """
    try:
        return json.loads(_content(answer))
    except (ValueError, RecursionError):
        raise ServerRefusesError("not an answer of Orthanc", where="--orthanc", got="no JSON") from None


def _content(answer: Any) -> bytes:
    """Return an answer that is short enough for the memory.

    Raises:
        ServerRefusesError: it is not.
    """
    content = bytearray()
    for block in answer.iter_content(1 << 16):
        content += block
        if len(content) > _LONGEST:
            got = f"more than {_LONGEST >> 20} MiB"
            raise ServerRefusesError("not an answer of Orthanc", where="--orthanc", got=got)
    return bytes(content)


def _checked_url(url: str, plain_http: bool) -> str:
    """Return an address without a slash at its end."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigError("not an address", where="--orthanc", expected="https://HOST:PORT")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("a password in the address", where="--orthanc", mend="put it into a file: --credentials")
    if parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1") and not plain_http:
        raise ConfigError(
            "not encrypted, and on another machine",
            where="--orthanc",
            expected="https://",
            mend="put TLS before Orthanc, or use --plain-http in a network that you trust",
        )
    return url.rstrip("/")


def _file(path: str, where: str) -> Path:
    found = path_option(path, where)
    if not found.is_file():
        raise InputError("no such file", where=where)
    return found


def _private(path: str, where: str) -> Path:
    """Return a file with secrets that only its owner can read."""
    found = _file(path, where)
    if os.name == "posix" and found.stat().st_mode & 0o077:
        raise ConfigError("others can read this file", where=where, mend=f"chmod 600 {found.name}")
    return found


def _key_pair(path: Path) -> Path:
    """Return a file of certificate and key that can be used; OpenSSL would ask the terminal for a password."""
    try:
        ssl.create_default_context().load_cert_chain(path, password="")
    except OSError:
        expected = "a certificate and its key, without a password"
        raise ConfigError("cannot be used", where="--client-certificate", expected=expected) from None
    return path
