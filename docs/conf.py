# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Settings of Sphinx for the documentation site; ``scripts/docs.sh`` builds it."""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_extensions")]
# Notebooks are executed by a kernel in another process.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(DOCS.parent), os.environ.get("PYTHONPATH")]))
os.environ["DIFFRECON_BUNDLES"] = str(DOCS.parent / "bundles")
os.environ.setdefault("OMP_NUM_THREADS", "2")

from monai_diffrecon import __version__  # noqa: E402

project = "monai_diffrecon"
author = copyright = "The monai_diffrecon authors"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinxarg.ext",
    "plugin_tables",
    "public_names",
]
exclude_patterns = ["_build", "_extensions"]
html_theme = "furo"
html_title = f"monai_diffrecon {version}"
html_static_path: list[str] = []
html_copy_source = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
# Pages that scripts write skip a level of headings. Commands are no target of links: their domain cannot look for one.
suppress_warnings = ["myst.header", "myst.domains"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

nb_execution_mode = "cache"
nb_execution_cache_path = str(DOCS / "_build" / "notebooks")
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_output_stderr = "remove"  # progress bars and the log
