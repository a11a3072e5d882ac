# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``python -m diffrecon_deploy.app -i INPUT -o OUTPUT -m BUNDLE``; a package of the SDK runs the folder itself."""

import sys

from diffrecon_deploy.app.application import main

sys.exit(main(sys.argv))
