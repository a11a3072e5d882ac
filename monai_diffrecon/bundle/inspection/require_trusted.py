# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The gate before a configuration is evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monai_diffrecon.bundle.inspection.inspect_bundle import inspect_bundle, inspect_mapping
from monai_diffrecon.bundle.inspection.policy import Policy, Refusal, policy_for
from monai_diffrecon.bundle.inspection.use import Use, one_line
from monai_diffrecon.errors import IntegrityError

_SHOWN = 80


def require_trusted(
    source: str | Path | Mapping[str, Any],
    trust: Iterable[str] = (),
    *,
    root: str | Path | None = None,
    where: str = "",
) -> None:
    """Refuse a bundle or configuration that would import or execute untrusted code; nothing is run.

    Args:
        source: root folder of a bundle, or a configuration: a dict that nothing has resolved yet.
        trust: further packages, beside those of ``DIFFRECON_TRUST``.
        root: for a configuration, root folder of its bundle, where macros may read.
        where: what precedes the config id in messages.

    Raises:
        IntegrityError: something in it is not trusted.
        ConfigError: ``trust`` holds something other than a package name.
    """
    if isinstance(source, Mapping):
        uses = inspect_mapping(source, root)
    else:
        uses, root = inspect_bundle(source), source
    refused = refusals(uses, policy_for(trust, root))
    if refused:
        use, refusal = refused[0]
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        through = "" if use.fault or use.name in use.text else f" ({one_line(use.name)})"
        raise IntegrityError(
            f"wants to run {one_line(use.text, _SHOWN)!r}{through}, refused: {refusal.reason}{more}",
            where=": ".join(text for text in (where, use.where) if text),
            mend=refusal.mend,
        )


def refusals(uses: Iterable[Use], policy: Policy) -> list[tuple[Use, Refusal]]:
    """Return the uses that a policy refuses, and why."""
    judged = ((use, policy.refusal(use)) for use in uses)
    return [(use, refusal) for use, refusal in judged if refusal is not None]
