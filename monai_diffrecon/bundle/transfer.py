# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Bundles that come from elsewhere, checked before they are kept, and bundles that go elsewhere, with all they need."""

from __future__ import annotations

import shutil
import tempfile
import warnings
import zipfile
from pathlib import Path

from monai.apps.utils import download_url
from monai.bundle import download

from monai_diffrecon.bundle.inspection.require_trusted import require_trusted
from monai_diffrecon.bundle.metadata import checked_metadata
from monai_diffrecon.bundle.places import cache_folder, find_bundle
from monai_diffrecon.bundle.weights import read_weights
from monai_diffrecon.bundle.zip_members import extract_checked
from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.errors.options import path_option
from monai_diffrecon.io.atomic import atomic_write, make_folder
from monai_diffrecon.presets.overlays import copy_methods


def download_bundle(name: str, url: str | None, *, force: bool = False) -> Path:
    """Download a bundle and keep it if it is what its metadata say.

    An archive is checked before it is unpacked, the configuration for code that is not trusted, and the weights against
    their hash. What fails a check is not kept.

    Args:
        name: what the bundle is called from now on.
        url: address of its .zip; None asks MONAI's model zoo for the name (``monai.bundle.download``).
        force: replace a bundle of this name.

    Returns:
        Its root.

    Raises:
        ConfigError: not a name, or one that was downloaded before.
        InputError: the download failed, or is no bundle of a score network.
        IntegrityError: the archive, the configuration or the weights are not in order.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise ConfigError("not the name of a bundle", where="bundles download", got=repr(name))
    target = cache_folder() / name
    if target.exists() and not force:
        raise ConfigError("it was downloaded before", where=f"bundle {name}", mend="give --force to replace it")
    make_folder(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
        archive = Path(folder) / f"{name}.zip"
        try:
            if url is None:
                download(name=name, bundle_dir=folder, progress=False)
            else:
                with warnings.catch_warnings():  # the hash that counts is that of the metadata
                    warnings.filterwarnings("ignore", message="No hash value")
                    download_url(url, archive, progress=False)
        except Exception as error:  # whatever the network and its libraries raise
            raise InputError(
                "the download failed", where=f"bundle {name}", got=f"{type(error).__name__}: {error}"
            ) from None
        root = _only_bundle(Path(folder) if url is None else extract_checked(archive, Path(folder) / name), name)
        check_bundle(root)
        if target.exists():
            target.rename(Path(folder) / ".before")  # removed with the folder
        root.rename(target)
    return target


def check_bundle(root: Path) -> None:
    """Refuse a bundle that cannot be trusted, or whose weights are not those of its metadata.

    Raises:
        InputError: no bundle of a score network.
        IntegrityError: code that is not trusted, or other weights.
    """
    metadata, _, _ = checked_metadata(root)
    require_trusted(root)
    read_weights(root, metadata["diffrecon"]["weights"], f"bundle {root.name}")


def export_bundle(bundle: str | Path, to: str | Path | None = None, *, force: bool = False) -> Path:
    """Write a bundle as a .zip that needs nothing beside it: the presets of methods are copied in.

    Args:
        bundle: its name or path.
        to: file to write; None for ``NAME.zip`` in the working directory.
        force: replace a file.

    Returns:
        The file.

    Raises:
        ConfigError: no such bundle, or a file that is there already.
        InputError: the metadata are not those of a score network.
        IntegrityError: the bundle is not in order.
    """
    root = find_bundle(bundle)
    check_bundle(root)
    name = root.resolve().name
    path = Path(f"{name}.zip") if to is None else path_option(to, "--to")
    if path.suffix.lower() != ".zip":
        raise ConfigError("not an archive", where="--to", expected="FILE.zip", got=path.name)
    if path.exists() and not force:
        raise ConfigError("the file exists", where="--to", got=path.name, mend="give --force to replace it")

    def write(file: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / name
            shutil.copytree(root, copy, ignore=shutil.ignore_patterns("__pycache__", "eval", "training", ".*"))
            copy_methods(copy)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for member in sorted(copy.rglob("*")):
                    archive.write(member, member.relative_to(folder))

    atomic_write(path, write)
    return path


def _only_bundle(folder: Path, name: str) -> Path:
    """Return the root of the only bundle in a folder, or which the folder is."""
    found = sorted(path.parent.parent for path in folder.glob("**/configs/metadata.json"))
    if len(found) != 1:
        raise InputError("not one bundle", where=f"bundle {name}", expected="one", got=f"{len(found)} bundles")
    return found[0]
