"""What goes wrong in a plan, with the stage's name."""

from __future__ import annotations

from safe_rl.errors import UserError


class FlowError(Exception):
    """A plan cannot go on. The message names the stage; ``__cause__`` is what that stage raised."""


class FlowUserError(FlowError, UserError):
    """A stage raised a ``UserError``: the user can mend it, and the message says where it came from."""


class LostItemError(FlowError):
    """An item, or the answer to a call, went with the actor or the node that held it."""


class RemoteTraceback(Exception):  # noqa: N818 (a traceback as text, not an error of its own)
    """The traceback of another process, as the cause of the exception that came from there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


def stage_error(stage: str, error: BaseException) -> FlowError:
    """Returns the error that names a stage; raise it ``from error``."""
    kind = FlowUserError if isinstance(error, UserError) else FlowError
    message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return kind(f"stage {stage}: {message}")


def stage_name(operator: str, function: object) -> str:
    """Returns how a stage is called: its operator and its function, as in ``for_each(standardize)``."""
    inner = getattr(function, "func", function)  # functools.partial
    return f"{operator}({getattr(inner, '__qualname__', type(inner).__name__)})"
