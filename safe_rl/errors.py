"""Errors that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend: the message is one line that names the thing and the cure.

    The command line prints the message without a traceback and exits with code 2.
    """


class EnvironmentFault(UserError):  # noqa: N818 (a fault of the environment, told to the user like a mistake)
    """An environment returned what no learner can use (NaN, a wrong shape), or raised."""
