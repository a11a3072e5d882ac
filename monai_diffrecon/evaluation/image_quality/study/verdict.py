# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Which lesions a method keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monai_diffrecon.evaluation.image_quality.study.measured import Measured
from monai_diffrecon.protocols import Finding

#: The rule, which is a convention and not a diagnosis.
LEAST_CONTRAST, MOST_CONTRAST, LEAST_AUC, POOR_AUC = 0.5, 1.5, 0.7, 0.8
RULE = (
    f"Of the whole 95 % intervals: kept is at least {100 * LEAST_CONTRAST:g} % of the contrast with an AUC of at least "
    f"{LEAST_AUC:g}; lost is an AUC under {POOR_AUC:g}; faded is less than {100 * LEAST_CONTRAST:g} % of the contrast "
    f"where the observer is still better than guessing; exaggerated is more than {100 * MOST_CONTRAST:g} %; inverted "
    "is the opposite contrast. Anything else is uncertain. A convention of this report, not a diagnosis."
)


@dataclass(frozen=True)
class Verdict:
    """What became of a kind of lesion.

    Attributes:
        word: ``kept``, ``faded``, ``lost``, ``exaggerated``, ``inverted``, ``uncertain``, or ``unknown``.
        contrast: the part that is left of its contrast, or None.
        auc: of the Hotelling observer, else of the other one, or None.
    """

    word: str
    contrast: Finding | None
    auc: Finding | None

    def numbers(self) -> list[str]:
        """Return contrast and AUC as text, those that there are."""
        said = (("contrast {:.0%}", self.contrast), ("AUC {:.2f}", self.auc))
        return [text.format(f.value) for text, f in said if f is not None and math.isfinite(f.value)]


def verdict(measured: Measured, label: str, setting: dict[str, Any]) -> Verdict:
    """Return what a method made of the lesions of a setting, by :data:`RULE`."""
    contrast = measured.finding(label, "lesion_contrast", **setting)
    auc = measured.finding(label, "cho_auc", **setting) or measured.finding(label, "npwe_auc", **setting)
    if contrast is None or auc is None or not (math.isfinite(contrast.low) and math.isfinite(auc.low)):
        return Verdict("unknown", contrast, auc)
    if contrast.high < 0:
        word = "inverted"
    elif auc.high < POOR_AUC:
        word = "lost"
    elif contrast.high < LEAST_CONTRAST and auc.low > 0.5:
        word = "faded"
    elif contrast.low > MOST_CONTRAST:
        word = "exaggerated"
    elif contrast.low >= LEAST_CONTRAST and auc.low >= LEAST_AUC:
        word = "kept"
    else:
        word = "uncertain"
    return Verdict(word, contrast, auc)


def focus_of(measured: Measured, wanted: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the setting of the lesion that a summary is about: the wanted one, or the smallest and faintest nodule."""
    settings = [s for s in measured.settings("lesion_contrast") if s.get("lesion") != "disc"]
    if wanted is not None:
        settings = [s for s in settings if wanted.items() <= s.items()]
    first = [s for s in settings if s["lesion"] in ("nodule", "ms_lesion")] or settings
    return min(first, key=lambda s: (s["diameter"], abs(s["contrast"])), default=None)


def said_of(setting: dict[str, Any], unit: str) -> str:
    """Return a setting in words: ``nodule, 4 mm, 40 HU``."""
    words = [str(setting["lesion"]).replace("_", " ").replace("ms lesion", "MS lesion")] if "lesion" in setting else []
    if "diameter" in setting:
        words.append(f"{setting['diameter']:g} mm")
    if "contrast" in setting:
        words.append(f"{setting['contrast']:g}{f' {unit}' if unit else ''}")
    if "frequency" in setting:
        words.append(f"{setting['frequency']:g} line pairs/mm")
    if setting.get("phantom"):
        words.append(f"in {setting['phantom']}")
    known = ("lesion", "diameter", "contrast", "frequency", "phantom")
    words += [f"{key} {value}" for key, value in setting.items() if key not in known]
    return ", ".join(words) or "all"


def sentences(measured: Measured, setting: dict[str, Any], unit: str) -> list[str]:
    """Return what a reader wants to know of a lesion first: who keeps it, who does not, and why.

    Args:
        measured: the results.
        setting: of the lesion.
        unit: of intensities.
    """
    verdicts = {label: verdict(measured, label, setting) for label in measured.labels}
    lesion, found = said_of(setting, unit), list[str]()
    article = "An" if lesion.startswith("MS") else "A"
    for word, text in (
        ("kept", "is kept by"),
        ("uncertain", "is neither clearly kept nor lost by"),
        ("faded", "is found by the observer with less than half of its contrast in the volumes of"),
        ("lost", "is lost by"),
        ("exaggerated", "is exaggerated by"),
        ("inverted", "has the opposite contrast in the volumes of"),
        ("unknown", "was not measured often enough, or has no noise to measure it against, in the volumes of"),
    ):
        those = [" ".join([m, *_bracketed(v.numbers())]) for m, v in verdicts.items() if v.word == word]
        if those:
            found.append(f"{article} {lesion} {text} {_listed(those)}.")
    found += _best(measured, verdicts, unit)
    visible = next((f for f in (measured.finding(m, "lesion_measured", **setting) for m in measured.labels) if f), None)
    if visible is not None and math.isfinite(visible.value):
        found.append(
            f"The measurement itself holds {visible.value:.0%} of its contrast; the rest has to come from the method's "
            "assumptions."
        )
    return found


def _best(measured: Measured, verdicts: Mapping[str, Verdict], unit: str) -> list[str]:
    """Return where the observer does best, and where most contrast is left at which noise."""
    seen = {m: v.auc for m, v in verdicts.items() if v.auc is not None and math.isfinite(v.auc.value)}
    left = {m: v.contrast for m, v in verdicts.items() if v.contrast is not None and math.isfinite(v.contrast.value)}
    if len(seen) < 2 or len(left) < 2:
        return []
    top = max(auc.value for auc in seen.values())
    first = [m for m, auc in seen.items() if auc.value == top]
    most = min(left, key=lambda m: abs(left[m].value - 1.0))
    text = f"The observer does best with {_listed(first)} (AUC {top:.2f}); most of the contrast is left by {most}"
    noise = {m: measured.finding(m, "noise_std") for m in dict.fromkeys([first[0], most])}
    if most not in first and all(n is not None for n in noise.values()):
        said = [f"{n.value:.1f}{f' {unit}' if unit else ''} ({m})" for m, n in noise.items() if n is not None]
        text += f". The noise of the two is {' and '.join(said)}"
    return [f"{text}."]


def _bracketed(parts: Sequence[str]) -> list[str]:
    return [f"({', '.join(parts)})"] if parts else []


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
