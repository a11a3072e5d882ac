# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Common base of all plugin classes."""

from __future__ import annotations

from typing import ClassVar

#: Version of the contracts in this package; a plugin states the one it was written for.
API_VERSION = 1


class Plugin:
    """Mixin of all plugin bases.

    Attributes:
        API_VERSION: version of the contracts the class was written for.
        plugin_options: constructor options that hold other plugins, option name -> kind. The registry builds
            them from ``{"name": ..., **options}`` (or a list of those) before it calls the constructor.
        in_slabs: a volume may be one of several slabs (``monai_diffrecon.slabs``): the plugin asks for what it needs of
            the others. Each class says it for itself, since a subclass may need more.
        former_options: constructor options that were renamed, former name -> name. The registry takes both, and warns.
    """

    API_VERSION: ClassVar[int] = API_VERSION
    in_slabs: ClassVar[bool] = False
    plugin_options: ClassVar[dict[str, str]] = {}
    former_options: ClassVar[dict[str, str]] = {}
