"""A lifecycle node that says in one line why it cannot be configured, and that can start itself."""

from __future__ import annotations

import traceback
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from ros_nodes.mapping import MappingSpec
from ros_nodes.parameters import declare, nested, read
from safe_rl.errors import UserError


class ManagedNode(LifecycleNode):
    """Base of the nodes here: subclasses say what configuring, activating, deactivating and releasing mean.

    ``parameters`` is the dataclass of the node's parameters; its field ``autostart`` makes the node configure and
    activate itself, for use without a lifecycle manager.
    """

    def __init__(self, name: str, parameters: type[Any], **kwargs: Any) -> None:
        super().__init__(name, automatically_declare_parameters_from_overrides=True, **kwargs)
        declare(self, parameters)
        self._parameters_type = parameters
        self._fault = ""
        self._starting_itself = False
        self._said: set[str] = set()
        self.is_configured = False
        self.is_active = False

    def start(self) -> None:
        """Configures and activates where ``autostart`` says so; subclasses call it last in their constructor.

        Raises:
            UserError: The configuration is refused.
        """
        if not read(self, self._parameters_type).autostart:
            return
        self._starting_itself = True
        if self.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            raise UserError(self._fault or f"{self.get_name()} could not be configured: see the log")
        self._starting_itself = False
        self.trigger_activate()

    def mapping(self) -> MappingSpec:
        """The mapping that the node's parameters hold.

        Raises:
            UserError: They hold none, or one that cannot be.
        """
        content = nested(self)
        if "observation" not in content:
            name = self.get_fully_qualified_name()
            raise UserError(
                f"no parameter observation.sources: does the parameter file name {name}, or any node by /**?"
            )
        return MappingSpec.from_dict(content)

    def say_why_silent(self, topic: str, kind: str) -> None:
        """Logs, once, that nobody publishes a topic, or that it carries another type than ``kind``."""
        name = self.resolve_topic_name(topic)
        types = {info.topic_type for info in self.get_publishers_info_by_topic(name)}
        if kind in types:
            return
        found = f"carries {', '.join(sorted(types))}" if types else "has no publisher"
        self.say_once(f"{name} {found}: {kind} is wanted")

    def say_once(self, text: str) -> None:
        """Logs a warning that was not logged since the node was activated."""
        if text not in self._said:
            self._said.add(text)
            self.get_logger().warning(text)

    # ----------------------------------------------------- what subclasses say

    def configure(self) -> None:
        """Makes subscriptions, publishers and all that a bad configuration can break; raises ``UserError``."""
        raise NotImplementedError

    def activate(self) -> None:
        """Begins the work."""
        raise NotImplementedError

    def deactivate(self, reason: str) -> None:
        """Ends the work; called before the node is released or ends, too."""
        raise NotImplementedError

    def release(self) -> None:
        """Gives back what ``configure`` made."""
        raise NotImplementedError

    # --------------------------------------------------------------- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Configures; what is refused stands in the log."""
        try:
            self.configure()
        except UserError as error:
            self._fault = str(error)
            if not self._starting_itself:  # otherwise `start` raises it
                self.get_logger().error(self._fault)
            return TransitionCallbackReturn.FAILURE
        except Exception:  # rclpy would swallow it
            self.get_logger().error(traceback.format_exc())
            return TransitionCallbackReturn.FAILURE
        self.is_configured = True
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begins the work."""
        self._said.clear()
        self.activate()
        self.is_active = True
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ends the work."""
        self._end("deactivated")
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Gives everything back."""
        self._give_back()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ends the work and gives everything back."""
        self.on_end()
        self._give_back()
        return TransitionCallbackReturn.SUCCESS

    def on_end(self) -> None:
        """The process ends; messages can still be sent."""
        self._end("node_ended")

    def _end(self, reason: str) -> None:
        if self.is_active:
            self.is_active = False
            self.deactivate(reason)

    def _give_back(self) -> None:
        if self.is_configured:
            self.is_configured = False
            self.release()
