# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""TLS, certificates and passwords, with nginx before Orthanc, as in docs/serve.md."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo import Orthanc, free_ports, thick_series
from workers import CHEAP, end, start

#: Orthanc of Debian 12 cannot speak TLS itself: its civetweb ends with a segmentation fault beside OpenSSL 3.
NGINX = """
daemon off;
pid {root}/nginx.pid;
error_log {root}/nginx.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {root}/{host}.pem;
        ssl_certificate_key {root}/{host}.pem;
        ssl_client_certificate {root}/ca.crt;
        ssl_verify_client on;
        location / {{ proxy_pass {orthanc}; }}
    }}
}}
"""


def certificate(folder: Path, name: str, issuer: str | None = None) -> None:
    """Write a key and a certificate, by itself or by an issuer, as NAME.key, NAME.crt and, both in one, NAME.pem."""
    key, crt, pem = (folder / f"{name}.{kind}" for kind in ("key", "crt", "pem"))
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    if issuer is not None:
        command += ["-CA", str(folder / f"{issuer}.crt"), "-CAkey", str(folder / f"{issuer}.key")]
        command += ["-addext", f"subjectAltName=DNS:{name}", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(crt)], check=True, capture_output=True)
    pem.touch(mode=0o600)
    pem.write_text(key.read_text() + crt.read_text())


@contextmanager
def proxy(root: Path, host: str, orthanc: str) -> Iterator[str]:
    """Run nginx with the certificate of a host, and yield its address."""
    (port,) = free_ports(1)
    (root / "nginx.conf").write_text(NGINX.format(root=root, host=host, port=port, orthanc=orthanc))
    process = subprocess.Popen(["nginx", "-e", str(root / "nginx.log"), "-c", str(root / "nginx.conf")])
    try:
        time.sleep(1)
        yield f"https://localhost:{port}"
    finally:
        process.terminate()
        process.wait()


def secured(root: Path) -> list[str]:
    """Work with a server that asks for a certificate and a password, and sends on to another one."""
    root.mkdir(parents=True)
    for name, issuer in (("ca", None), ("other", None), ("localhost", "ca"), ("elsewhere", "ca"), ("worker", "ca")):
        certificate(root, name, issuer)
    certificate(root, "stranger", "other")
    passwords = {"right": "secret-1", "wrong": "secret-2"}
    for name, password in passwords.items():
        path = root / f"{name}.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps({"user": "worker", "password": password}))

    def run(url: str, ca: str = "ca", client: str = "worker", password: str = "right") -> int:
        words = ["--once", "--ca-file", str(root / f"{ca}.crt"), "--credentials", str(root / f"{password}.json")]
        words += ["--client-certificate", str(root / f"{client}.pem")] if client else []
        return end(start(url, root / "work", CHEAP, *words, rules=[{"send_to": ["PACS"]}]))

    user = ("worker", passwords["right"])
    with (
        Orthanc.running(root / "pacs") as pacs,
        Orthanc.running(root / "orthanc", user=user, modalities={"PACS": pacs.port}) as server,
    ):
        server.send(thick_series(root / "scan", (64, 72, 6), 5), "MR1")
        server.settle()
        with proxy(root, "elsewhere", server.url) as url:
            codes = {"a certificate for another host": run(url)}
        with proxy(root, "localhost", server.url) as url:
            codes["another authority"] = run(url, ca="other")
            codes["a wrong password"] = run(url, password="wrong")
            codes["no client certificate"] = run(url, client="")
            codes["a client certificate of another authority"] = run(url, client="stranger")
            assert not server.derived()
            assert run(url) == 0
        (derived,) = server.derived()
        (arrived,) = pacs.derived()
    assert set(codes.values()) == {2}, codes
    assert len(arrived["Instances"]) == len(derived["Instances"]) == 30
    log = (root / "work" / "log").read_text()
    assert not [word for word in (*passwords.values(), "Doe", "localhost") if word in log], log
    return [
        "- TLS by nginx with an authority of its own, a client certificate and a password: "
        f"{len(arrived['Instances'])} derived images arrived at a second server, to which Orthanc sent them. Refused "
        f"with exit code 2, and nothing derived: {', '.join(codes)}. The log has neither passwords nor names."
    ]
