# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What a bundle would import and execute, found without running any of it, and whether that is trusted."""
