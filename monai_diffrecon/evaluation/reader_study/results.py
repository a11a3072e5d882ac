# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Results of a reader study: preferences, scores and agreement."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_diffrecon.errors import InputError
from monai_diffrecon.evaluation.reader_study.pack import check_pack
from monai_diffrecon.evaluation.reader_study.plan import StudyItem, read_key
from monai_diffrecon.evaluation.reader_study.sheet import Reading, read_sheet
from monai_diffrecon.evaluation.reader_study.statistics import sign_test, weighted_kappa, wilson_interval

#: Label of all readers together, where the case is the unit.
EVERYONE = "all readers"
#: The preference among the criteria of agreement: -1, 0 or 1 for the methods of a pair in order.
PREFERENCE = "preference"


@dataclass(frozen=True)
class _Unblinded:
    """One reading with the methods known: ratings: (method or pair, criterion) -> number."""

    item: StudyItem
    pair: tuple[str, str]
    preference: int | None
    scores: dict[tuple[str, str], int]

    def ratings(self) -> dict[tuple[str, str], int]:
        preferred = {} if self.preference is None else {("", PREFERENCE): self.preference}
        return {**self.scores, **preferred}


def unseal(key: str | Path, sheets: Sequence[str | Path], *, pack: str | Path | None = None) -> dict[str, Any]:
    """Check that key, sheets and pack belong together, and return the results.

    Repeated showings count only for the agreement of readers with themselves. Readers together: each
    case is one observation for the method that more readers preferred, since readings of one case are not independent.

    Args:
        key: the key's file.
        sheets: the completed sheets, one per reader.
        pack: folder of also verify this pack.

    Returns:
        ``preference``: for each pair and reader, and all readers, how often each method was preferred, the share of
        the first among what was not a tie with its Wilson interval of 95 %, and the p-value of the sign test;
        ``scores``: for each method and criterion mean, standard deviation and number; ``agreement``: Cohen's kappa
        with quadratic weights ``between`` two readers and ``within`` one, None where it is not defined.

    Raises:
        InputError: a sheet that cannot be understood, no sheet, or two of one reader.
        IntegrityError: key, sheets and pack do not belong together.
    """
    told, commitment = read_key(key)
    if pack is not None:
        check_pack(pack, told.pack_sha256, commitment)
    if not sheets:
        raise InputError("no scoring sheet", where="--scores", expected="one or more")
    known = {item.item: item for item in told.items}
    readers: dict[str, dict[str, _Unblinded]] = {}
    for sheet in sheets:
        reader, readings = read_sheet(sheet, commitment, list(known), told.criteria, told.scale)
        if reader in readers or reader == EVERYONE:
            raise InputError("two sheets by the same reader", where=Path(sheet).name, got=reader)
        readers[reader] = {r.item: _unblinded(r, known[r.item], told.pairs) for r in readings}
    first = {reader: [r for r in given.values() if r.item.repeat_of is None] for reader, given in readers.items()}
    return {
        "key_sha256": commitment,
        "pack_checked": pack is not None,
        "readers": {reader: len(given) for reader, given in readers.items()},
        "items": len(told.items),
        "preference": _preferences(first, told.pairs),
        "scores": _scores(itertools.chain.from_iterable(first.values()), told.criteria),
        "agreement": {"between": _between(first, told.criteria), "within": _within(readers, told.criteria)},
    }


def _unblinded(reading: Reading, item: StudyItem, pairs: Sequence[tuple[str, str]]) -> _Unblinded:
    method = {"A": item.A, "B": item.B}
    pair = next(pair for pair in pairs if set(pair) == {item.A, item.B})
    preference = None
    if reading.preference is not None:
        preference = 0 if reading.preference == "=" else 1 if method[reading.preference] == pair[0] else -1
    scores = {(method[side], criterion): score for (side, criterion), score in reading.scores.items()}
    return _Unblinded(item, pair, preference, scores)


def _preferences(
    readings: Mapping[str, Sequence[_Unblinded]], pairs: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    rows = []
    for pair in pairs:
        votes: dict[str, int] = {}
        for reader, given in readings.items():
            said = {r.item.case: r.preference for r in given if r.pair == pair and r.preference is not None}
            for case, vote in said.items():
                votes[case] = votes.get(case, 0) + vote
            if len(readings) > 1:
                rows.append(_preference(pair, reader, said.values()))
        rows.append(_preference(pair, EVERYONE if len(readings) > 1 else next(iter(readings)), votes.values()))
    return rows


def _preference(pair: tuple[str, str], reader: str, votes: Iterable[int]) -> dict[str, Any]:
    signs = [int(np.sign(vote)) for vote in votes]
    first, second = signs.count(1), signs.count(-1)
    decided = first + second
    return {
        "pair": list(pair),
        "reader": reader,
        "preferred": [first, second],
        "ties": signs.count(0),
        "share_of_first": first / decided if decided else None,
        "interval_95": list(wilson_interval(first, decided)),
        "p_sign_test": sign_test(first, second),
    }


def _scores(readings: Iterable[_Unblinded], criteria: Sequence[str]) -> list[dict[str, Any]]:
    given: dict[tuple[str, str], list[int]] = {}
    for reading in readings:
        for what, score in reading.scores.items():
            given.setdefault(what, []).append(score)
    rows = []
    for (method, criterion), scores in sorted(given.items(), key=lambda entry: (criteria.index(entry[0][1]), entry[0])):
        std = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
        mean, count = float(np.mean(scores)), len(scores)
        rows.append({"method": method, "criterion": criterion, "mean": mean, "std": std, "count": count})
    return rows


def _between(readings: Mapping[str, Sequence[_Unblinded]], criteria: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    by_item = {reader: {r.item.item: r for r in given} for reader, given in readings.items()}
    for one, other in itertools.combinations(by_item, 2):
        common = [(by_item[one][item], by_item[other][item]) for item in by_item[one] if item in by_item[other]]
        rows += [{"readers": [one, other], **row} for row in _kappas(common, criteria)]
    return rows


def _within(readings: Mapping[str, Mapping[str, _Unblinded]], criteria: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for reader, given in readings.items():
        twice = [
            (given[again.item.repeat_of], again)
            for again in given.values()
            if again.item.repeat_of is not None and again.item.repeat_of in given
        ]
        rows += [{"reader": reader, **row} for row in _kappas(twice, criteria)] if twice else []
    return rows


def _kappas(common: Sequence[tuple[_Unblinded, _Unblinded]], criteria: Sequence[str]) -> list[dict[str, Any]]:
    """Return kappa for each criterion, and the preference, of two readings of the same things."""
    rows = []
    for criterion in (*criteria, PREFERENCE):
        both = [
            (one[what], other[what])
            for one, other in ((a.ratings(), b.ratings()) for a, b in common)
            for what in one
            if what[1] == criterion and what in other
        ]
        kappa = weighted_kappa([a for a, _ in both], [b for _, b in both])
        rows.append({"criterion": criterion, "kappa": None if math.isnan(kappa) else kappa, "count": len(both)})
    return rows


def summary(results: Mapping[str, Any]) -> list[str]:
    """Return the results as lines of text."""
    pack = "pack, key and sheets" if results["pack_checked"] else "key and sheets"
    readers = ", ".join(f"{reader} ({count})" for reader, count in results["readers"].items())
    lines = [f"{pack} belong together; {results['items']} items; readers (items read): {readers}", "", "PREFERENCE"]
    for row in results["preference"]:
        (first, second), (low, high) = row["pair"], row["interval_95"]
        share = "-" if row["share_of_first"] is None else f"{row['share_of_first']:.0%}"
        lines.append(
            f"  {first} {row['preferred'][0]} : {row['preferred'][1]} {second}, {row['ties']} ties; {row['reader']}: "
            f"{share} for {first}, 95 % interval {low:.0%} to {high:.0%}, sign test p = {row['p_sign_test']:.3g}"
        )
    lines += ["", "SCORES"]
    for row in results["scores"]:
        std = "" if row["std"] is None else f" +- {row['std']:.2f}"
        lines.append(f"  {row['criterion']}, {row['method']}: {row['mean']:.2f}{std} (n = {row['count']})")
    lines += ["", "AGREEMENT (kappa, quadratic weights)"]
    for row in [*results["agreement"]["between"], *results["agreement"]["within"]]:
        who = " and ".join(row["readers"]) if "readers" in row else f"{row['reader']} twice"
        kappa = "not defined" if row["kappa"] is None else f"{row['kappa']:.2f}"
        lines.append(f"  {row['criterion']}, {who}: {kappa} (n = {row['count']})")
    return lines
