# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The scoring sheet as a page for a browser: it needs no network and writes the same CSV."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from monai_diffrecon.evaluation.reader_study.sheet import PACK_DIGITS, columns

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Reader study</title>
<style>
body { background: #101214; color: #f0f0f0; font: 15px sans-serif; margin: 1em; }
button, select, input { font: inherit; margin: 0.15em; }
.row { display: flex; gap: 6px; margin-bottom: 6px; }
.row img { width: 100%; image-rendering: auto; }
.row figure { flex: 1; margin: 0; max-width: 520px; }
figcaption, .faint { color: #9aa0a6; }
table { border-spacing: 1em 0.2em; }
</style>
</head>
<body>
<p><button id="previous">previous</button> <span id="where"></span> <button id="next">next</button>
&nbsp; reader <input id="reader" size="12"> &nbsp; <button id="save">save scores.csv</button>
<span class="faint">What you enter stays in this browser until you save.</span></p>
<table id="fields"></table>
<div id="pictures"></div>
<script id="study" type="application/json">STUDY</script>
<script>
const study = JSON.parse(document.getElementById("study").textContent);
const by = id => document.getElementById(id), store = "reader-study-" + study.pack;
let said = { at: 0, reader: "", fields: {} };
try { said = JSON.parse(localStorage.getItem(store)) || said; } catch (error) { /* no storage: nothing to restore */ }
const keep = () => {
  try { localStorage.setItem(store, JSON.stringify(said)); } catch (error) { /* kept in memory */ }
};
const element = (name, text, parent) => {
  const made = document.createElement(name);
  made.textContent = text;
  parent.appendChild(made);
  return made;
};
const choose = (column, choices, parent) => {
  const fields = said.fields[study.items[said.at].item], select = element("select", "", parent);
  for (const choice of ["", ...choices]) element("option", choice, select);
  select.value = fields[column] || "";
  select.onchange = () => { fields[column] = select.value; keep(); };
};
function show() {
  const { item, sides, views } = study.items[said.at], table = by("fields"), pictures = by("pictures");
  said.fields[item] = said.fields[item] || {};
  by("where").textContent = "item " + item + ", " + (said.at + 1) + " of " + study.items.length;
  table.textContent = pictures.textContent = "";
  const first = element("tr", "", table);
  element("td", "which is better?", first);
  choose("preference", ["A", "B", "="], element("td", "", first));
  for (const criterion of study.criteria) {
    const row = element("tr", "", table);
    element("td", criterion, row);
    for (const side of ["A", "B"]) choose(side + "_" + criterion, study.scores, element("td", side + " ", row));
  }
  const last = element("tr", "", table), comment = element("input", "", element("td", "comment ", last));
  comment.value = said.fields[item].comment || "";
  comment.oninput = () => { said.fields[item].comment = comment.value; keep(); };
  for (const view of views) {
    const row = element("div", "", pictures);
    row.className = "row";
    for (const side of sides) {
      const figure = element("figure", "", row);
      element("img", "", figure).src = "items/" + item + "/" + side + "_" + view + ".png";
      element("figcaption", side + ", " + view.replace("_", " "), figure);
    }
  }
}
const csv = () => [study.columns, ...study.items.map(({ item }) => study.columns.map(column => {
  const fields = said.fields[item] || {}, fixed = { pack: study.pack, item: item, reader: said.reader };
  return column in fixed ? fixed[column] : fields[column] || "";
}))].map(row => row.map(
  v => '"' + v.replace(/"/g, '""').replace(/[\\r\\n]+/g, " ") + '"').join(",")).join("\\n") + "\\n";
by("reader").value = said.reader;
by("reader").oninput = () => { said.reader = by("reader").value; keep(); };
by("previous").onclick = () => { said.at = Math.max(said.at - 1, 0); keep(); show(); };
by("next").onclick = () => { said.at = Math.min(said.at + 1, study.items.length - 1); keep(); show(); };
by("save").onclick = () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "scores.csv";
  link.click();
};
show();
</script>
</body>
</html>
"""


def write_form(path: Path, pack: str, items: Sequence[str], criteria: Sequence[str], scale: tuple[int, int]) -> None:
    """Write the page; it shows the pictures that are in ``items/`` beside it.

    Args:
        path: file to write.
        pack: sha256 of the key.
        items: numbers of the items in order.
        criteria: what is scored.
        scale: lowest and highest score.
    """
    shown = []
    for item in items:
        names = sorted(p.stem for p in (path.parent / "items" / item).glob("*.png"))
        sides = [side for side in ("A", "B", "reference") if any(name.startswith(f"{side}_") for name in names)]
        views = [name.removeprefix("A_") for name in names if name.startswith("A_")]
        shown.append({"item": item, "sides": sides, "views": views})
    study = {
        "pack": pack[:PACK_DIGITS],
        "criteria": list(criteria),
        "scores": [str(score) for score in range(scale[0], scale[1] + 1)],
        "columns": columns(criteria),
        "items": shown,
    }
    text = json.dumps(study).replace("<", "\\u003c")  # so that no word ends the script
    path.write_text(_PAGE.replace("STUDY", text), encoding="utf-8")
