# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Pages that show the volumes of a case in a browser, each in one file that needs no network."""
