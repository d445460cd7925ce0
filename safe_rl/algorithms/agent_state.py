"""What an agent saves and restores: all of it to go on training, less to act."""

from __future__ import annotations

import zlib
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from safe_rl.data.replay_buffer import ReplayBuffer
from safe_rl.nets.flat_state import flatten_state, load_flat_state


class Stateful(Protocol):
    """A network, an optimiser: what can be saved and restored."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Restores it."""
        ...


class AgentState:
    """State of an agent, by the names of its parts."""

    replay: ReplayBuffer
    generator: torch.Generator
    num_observed: int
    num_updates: int

    def _policy_parts(self) -> dict[str, Stateful]:
        """What acting needs, by name."""
        raise NotImplementedError

    def _learning_parts(self) -> dict[str, Stateful]:
        """What only learning needs, by name."""
        raise NotImplementedError

    def _acting_modules(self) -> tuple[nn.Module, ...]:
        """What acting reads."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed training needs, as nested dictionaries of tensors, arrays and JSON values."""
        return {
            "policy": self.policy_state_dict(),
            "learning": {name: part.state_dict() for name, part in self._learning_parts().items()},
            "replay": self.replay.state_dict(),
            "generator": self.generator.get_state(),
            "counters": {"num_observed": self.num_observed, "num_updates": self.num_updates},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state_dict``."""
        self.load_policy_state_dict(state["policy"])
        for name, part in self._learning_parts().items():
            part.load_state_dict(state["learning"][name])
        self.replay.load_state_dict(state["replay"])
        self.restore_generator(state["generator"])
        self.num_observed, self.num_updates = state["counters"]["num_observed"], state["counters"]["num_updates"]

    def restore_generator(self, state: torch.Tensor) -> None:
        """Restores the generator; the state of another kind of device becomes the seed of new random numbers."""
        if state.shape == self.generator.get_state().shape:
            self.generator.set_state(state)
        else:
            self.generator.manual_seed(zlib.crc32(state.numpy().tobytes()))

    def policy_state_dict(self) -> dict[str, Any]:
        """The part of the state that acting needs."""
        return {name: part.state_dict() for name, part in self._policy_parts().items()}

    def load_policy_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``policy_state_dict``: enough to act, not to train on."""
        for name, part in self._policy_parts().items():
            part.load_state_dict(state[name])

    def policy_weights(self) -> npt.NDArray[np.float32]:
        """All that acting needs in one array, a copy: for those who only act."""
        return flatten_state(self._acting_modules())

    def load_policy_weights(self, weights: npt.NDArray[np.float32]) -> None:
        """Takes over ``policy_weights`` of an agent with the same settings."""
        load_flat_state(self._acting_modules(), weights)
