# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What must not leave the hospital: names in paths, logs and records, and faces in images."""
