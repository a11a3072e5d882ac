# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_diffrecon`` is the command ``diffrecon``."""

import sys

from monai_diffrecon.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
