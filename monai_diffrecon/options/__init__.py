# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The command line of ``monai.bundle run``: values are used exactly as typed, or refused."""
