"""Finds the environments that installed packages offer."""

from __future__ import annotations

import contextlib
import functools
import logging
from importlib.metadata import entry_points

from gymnasium.envs.registration import namespace

logger = logging.getLogger(__name__)


@functools.cache
def register_plugins() -> None:
    """Registers what the entry points of the group ``gymnasium.envs`` offer, once.

    Gymnasium itself stopped reading the group in 1.0 and wants an import instead; a command line cannot import for its
    user, and the core may not import ``sim``. An entry point names a function that registers; its own name is the
    namespace of the ids, or ``__root__`` for none. One that fails is logged and left out.
    """
    for plugin in entry_points(group="gymnasium.envs"):
        try:
            register = plugin.load()
            with contextlib.nullcontext() if plugin.name == "__root__" else namespace(plugin.name):
                register()
        except Exception as error:
            logger.warning("the environments of %s are left out: %s: %s", plugin.value, type(error).__name__, error)
