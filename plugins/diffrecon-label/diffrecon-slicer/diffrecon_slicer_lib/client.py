# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The models of a MONAI Label server, and what they answer."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Seconds. A reconstruction takes minutes on a GPU and may take hours on a CPU.
_QUICK, _LONG = 30.0, 6 * 3600.0
#: What the config of a model holds beside the choices of the bundle.
_NO_CHOICES = ("device", "model_filename", "result_extension", "result_dtype")


class ServerError(Exception):
    """What the server refuses, or why it does not answer, in one line."""


@dataclass(frozen=True)
class Model:
    """A model of the server.

    Attributes:
        name: its name.
        description: what it does and may be used for.
        choices: choice -> its values, the first of which is the default, or a number that is the default.
    """

    name: str
    description: str
    choices: dict[str, list[str] | int]


class Server:
    """A MONAI Label server. Proxies of the environment are ignored: scans go where the address says.

    Args:
        url: address, such as ``http://127.0.0.1:8000``.
    """

    def __init__(self, url: str) -> None:
        self.url = url.strip().rstrip("/")
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def models(self) -> list[Model]:
        """Return the models that reconstruct; those of other apps of MONAI Label are left out.

        Raises:
            ServerError: no such server.
        """
        found = self._json("/info/").get("models", {})
        return [
            Model(name, said.get("description", ""), _choices(said.get("config", {})))
            for name, said in found.items()
            if said.get("type") == "others"
        ]

    def images(self) -> list[str]:
        """Return the ids of the scans that the server has.

        Raises:
            ServerError: no such server.
        """
        return sorted(self._json("/datastore/?output=all").get("objects", {}))

    def reconstruct(self, model: str, choices: dict[str, Any], scan: Path | str, to: Path) -> Path:
        """Reconstruct and write the volume.

        Args:
            model: name of the model.
            choices: choice -> value.
            scan: a file to send, or the id of a scan that the server has.
            to: the file to write, ``.nii.gz``.

        Returns:
            ``to``.

        Raises:
            ServerError: the server refuses the scan or a choice, does not answer, or sends no volume.
        """
        asked = {"output": "image"} if isinstance(scan, Path) else {"output": "image", "image": scan}
        limit, parts = f"----{uuid.uuid4().hex}", []
        params = json.dumps({**choices, "result_extension": ".nii.gz", "result_dtype": "float32"})
        parts.append(f'name="params"\r\n\r\n{params}'.encode())
        if isinstance(scan, Path):  # by a name of ours, since the file's may be that of a patient
            head = b'name="file"; filename="scan.nii.gz"\r\nContent-Type: application/octet-stream\r\n\r\n'
            parts.append(head + scan.read_bytes())
        body = (
            b"".join(b"--%s\r\nContent-Disposition: form-data; %s\r\n" % (limit.encode(), part) for part in parts)
            + b"--%s--\r\n" % limit.encode()
        )
        path = f"/infer/{urllib.parse.quote(model)}?{urllib.parse.urlencode(asked)}"
        answer = self._ask(path, _LONG, body, f"multipart/form-data; boundary={limit}")
        if answer[:2] != b"\x1f\x8b":
            raise ServerError("the server sent no compressed NIfTI file")
        to.write_bytes(answer)
        return to

    def _json(self, path: str) -> dict[str, Any]:
        try:
            answer = json.loads(self._ask(path, _QUICK))
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ServerError(f"{self.url} is no MONAI Label server")
        return answer

    def _ask(self, path: str, timeout: float, body: bytes | None = None, kind: str = "") -> bytes:
        try:
            request = urllib.request.Request(self.url + path, body, {"Content-Type": kind} if kind else {})
            with self._opener.open(request, timeout=timeout) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            raise ServerError(_detail(error)) from None
        except (OSError, ValueError) as error:  # no such host, no such address
            raise ServerError(f"{self.url} does not answer: {error}") from None


class Job(threading.Thread):
    """Work in the background, so that the window does not stand still.

    Args:
        work: what to do.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.result: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Do it, and keep the result or the error."""
        try:
            self.result = self._work()
        except Exception as error:
            self.error = error

    def done(self, seconds: float) -> bool:
        """Wait, and return whether it is done."""
        self.join(seconds)
        return not self.is_alive()


def _choices(config: dict[str, Any]) -> dict[str, list[str] | int]:
    kept = {name: value for name, value in config.items() if name not in _NO_CHOICES}
    return {name: value for name, value in kept.items() if (value and isinstance(value, list)) or type(value) is int}


def _detail(error: urllib.error.HTTPError) -> str:
    """Return the line of an app, or the status."""
    try:
        said = json.loads(error.read())["detail"]
    except (ValueError, KeyError, TypeError):
        said = None
    return said if isinstance(said, str) else f"the server failed: {error.code} {error.reason}; its log says why"
