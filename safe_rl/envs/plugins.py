"""Finds the environments that installed packages offer."""

from __future__ import annotations

import functools
import logging
from importlib.metadata import entry_points

from gymnasium.envs import registration

logger = logging.getLogger(__name__)


@functools.cache
def register_plugins() -> None:
    """Registers what the entry points of the group ``gymnasium.envs`` offer, once.

    Gymnasium itself stopped reading the group in 1.0 and wants an import instead; a command line cannot import for its
    user, and the core may not import ``sim``. An entry point names a function that registers; its own name is the
    namespace of the ids, or ``__root__`` for none. One that fails is logged and left out.
    """
    for plugin in entry_points(group="gymnasium.envs"):
        # By hand: Gymnasium's own context manager keeps the namespace where the plugin raises.
        before = registration.current_namespace
        registration.current_namespace = None if plugin.name == "__root__" else plugin.name
        try:
            plugin.load()()
        except Exception as error:
            logger.warning("the environments of %s are left out: %s: %s", plugin.value, type(error).__name__, error)
        finally:
            registration.current_namespace = before
