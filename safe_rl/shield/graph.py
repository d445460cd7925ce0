"""The whole decision as one module of plain operations: what the PyTorch engine runs and what becomes ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from safe_rl.errors import UserError
from safe_rl.nets.conv import EncoderWeights, ImageShape, encode
from safe_rl.shield.bundle import WEIGHTS, Arrays, PolicyBundle
from safe_rl.shield.observation import ObservationLayout
from safe_rl.shield.spec import BundleSpec
from safe_rl.shield.weights import ArrayReader, EncoderLayers, FloatArray, agent_arrays
from safe_rl.switch import RecoverySwitch

if TYPE_CHECKING:
    from safe_rl.algorithms.recovery_rl import RecoveryRLAgent

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""The fields of ``safe_rl.shield.engine.Evaluation`` as tensors."""


class DecisionGraph(nn.Module):
    """Observation -> task policy, ``Q_risk``, recovery policy, switch (Recovery RL, arXiv 2010.15920).

    Computes what ``RecoveryRLAgent.act(obs, explore=False)`` does, in float32, and the recovery action in every row.

    Args:
        spec: The bundle's description; its spaces decide the arrays' shapes.
        arrays: See ``safe_rl.shield.weights.agent_arrays``.
        source: Where the arrays come from; stands in errors.

    Raises:
        UserError: An array is missing, unknown, of another type, or its shape does not fit.
    """

    low: Tensor
    high: Tensor
    center: Tensor
    half_range: Tensor
    candidates: Tensor

    def __init__(self, spec: BundleSpec, arrays: Arrays, source: str) -> None:
        super().__init__()
        layout, act_dim = ObservationLayout(spec.observation_space), len(spec.limits.low)
        low, high = (_bounds(spec.action_space, key, act_dim) for key in ("low", "high"))
        reader = ArrayReader(arrays, source)
        # Of a state both see the same.
        self.task_view, self.risk_view, state_dim = _views(reader, layout)
        constants = {
            "low": low,
            "high": high,
            "center": (high + low) / 2,
            "half_range": (high - low) / 2,
        }
        self.task_policy = _mlp(reader, "task_policy", state_dim, act_dim)
        # One critic after the other: in ONNX Runtime faster for a single row than a batched product.
        self.risk_critics = [
            _mlp(reader, f"risk_critic.{member}", state_dim + act_dim, 1)
            for member in range(reader.count("risk_critic.{}.0.weight"))
        ]
        for member, critic in enumerate(self.risk_critics):
            self.add_module(f"risk_critic_{member}", critic)
        self.recovery_policy = None
        if spec.recovery == "model-free":
            self.recovery_policy = _mlp(reader, "recovery_policy", state_dim, act_dim)
        else:
            constants["candidates"] = reader.take("recovery.candidates", None, act_dim)
        reader.require_all_taken()
        for name, array in constants.items():
            self.register_buffer(name, torch.tensor(array))
        self.recovery_must_help = spec.switch.recovery_must_help
        self.requires_grad_(False)

    @classmethod
    def from_bundle(cls, bundle: PolicyBundle) -> DecisionGraph:
        """Builds it from a bundle's weights; see the class for what is raised."""
        return cls(bundle.spec, bundle.read_arrays(WEIGHTS), str(bundle.path / WEIGHTS))

    @classmethod
    def from_agent(cls, agent: RecoveryRLAgent, spec: BundleSpec) -> DecisionGraph:
        """Builds it from a trained agent and the description of a bundle that it is to be in."""
        return cls(spec, agent_arrays(agent), "the agent")

    def decide(self, obs: Tensor, eps_risk: Tensor) -> Outputs:
        """Proposes by the task policy; for arguments and results see ``safe_rl.shield.engine.Engine``."""
        state = self.task_view(obs)
        unit_proposal = self.task_policy(state).tanh()
        state = state if self.risk_view is self.task_view else self.risk_view(obs)
        return self._judge(state, unit_proposal, self._to_env(unit_proposal), eps_risk)

    def filter(self, obs: Tensor, proposal: Tensor, eps_risk: Tensor) -> Outputs:
        """Judges given proposals (N, act_dim) in the environment's units; beyond its limits counts as at them."""
        proposal = torch.minimum(torch.maximum(proposal, self.low), self.high)
        scale = torch.where(self.half_range > 0, self.half_range, torch.ones_like(self.half_range))
        unit_proposal = ((proposal - self.center) / scale).clamp(-1.0, 1.0)
        return self._judge(self.risk_view(obs), unit_proposal, proposal, eps_risk)

    def _to_env(self, unit_action: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(self.center + self.half_range * unit_action, self.low), self.high)

    def _judge(self, state: Tensor, unit_proposal: Tensor, proposal: Tensor, eps_risk: Any) -> Outputs:
        unit_recovery, recovery_logit = self._recover(state)
        if self.recovery_must_help and recovery_logit is None:
            # Both in one pass: the weights are what takes the time to read.
            logits, hidden = self._risk(state.repeat(2, 1), torch.cat([unit_proposal, unit_recovery]))
            (logit, recovery_logit), features = logits.view(2, -1), hidden[: state.shape[0]]
        else:
            logit, features = self._risk(state, unit_proposal)
        risk, recovery_risk = logit.sigmoid(), None if recovery_logit is None else recovery_logit.sigmoid()
        hands_over = RecoverySwitch(eps_risk, self.recovery_must_help).hands_over(risk, recovery_risk)
        return proposal, self._to_env(unit_recovery), risk, hands_over, features

    def _risk(self, state: Tensor, unit_action: Tensor) -> tuple[Tensor, Tensor]:
        """The largest logit (N,) of the ensemble, and its first member's last hidden layer (N, num_features)."""
        x = torch.cat([state, unit_action], dim=1)
        hidden = [critic[:-1](x) for critic in self.risk_critics]
        logits = [critic[-1](h) for critic, h in zip(self.risk_critics, hidden, strict=True)]
        return torch.cat(logits, dim=1).amax(1), hidden[0]

    def _recover(self, state: Tensor) -> tuple[Tensor, Tensor | None]:
        """The recovery actions (N, act_dim) in [-1, 1], and their logits (N,) where they come with them."""
        if self.recovery_policy is not None:
            return self.recovery_policy(state).tanh(), None
        num_samples, act_dim = self.candidates.shape
        states = state.unsqueeze(1).expand(-1, num_samples, -1).reshape(-1, state.shape[1])
        actions = self.candidates.expand(state.shape[0], -1, -1).reshape(-1, act_dim)
        # By the logit: where the sigmoid is flat, it still tells which is the least risky.
        logit, best = self._risk(states, actions)[0].view(-1, num_samples).min(1)
        return self.candidates[best], logit


class _Scaled(nn.Module):
    """What the networks see of a state."""

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, mean: FloatArray, inverse_std: FloatArray) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("inverse_std", torch.tensor(inverse_std))

    def forward(self, obs: Tensor) -> Tensor:
        return ((obs - self.mean) * self.inverse_std).clamp(-10.0, 10.0)


class _Encoded(nn.Module):
    """What they see of an image."""

    def __init__(self, layers: EncoderLayers, shape: ImageShape) -> None:
        super().__init__()
        self.shape = shape
        convolutions, linear, norm = layers
        self._layers = [*convolutions, linear, norm]
        for index, (weight, bias) in enumerate(self._layers):
            self.register_buffer(f"weight_{index}", torch.tensor(weight))
            self.register_buffer(f"bias_{index}", torch.tensor(bias))

    def forward(self, obs: Tensor) -> Tensor:
        places = range(len(self._layers))
        *convolutions, linear, norm = [
            (self.get_buffer(f"weight_{index}"), self.get_buffer(f"bias_{index}")) for index in places
        ]
        return encode(obs, self.shape, EncoderWeights(convolutions, linear, norm))


def _views(reader: ArrayReader, layout: ObservationLayout) -> tuple[nn.Module, nn.Module, int]:
    """What the task policy and what the risk critic looks through, and the width of what they see."""
    if layout.image_shape is None:
        scaled = _Scaled(*(reader.take(f"normalizer.{name}", layout.size) for name in ("mean", "inverse_std")))
        return scaled, scaled, layout.size
    layers = reader.take_encoder("encoder", layout.image_shape)
    task = risk = _Encoded(layers, layout.image_shape)
    if reader.has("risk_encoder.linear.weight"):
        risk = _Encoded(reader.take_encoder("risk_encoder", layout.image_shape), layout.image_shape)
    return task, risk, len(layers[1][0])


def _mlp(reader: ArrayReader, prefix: str, inputs: int, outputs: int) -> nn.Sequential:
    modules: list[nn.Module] = []
    for weight, bias in reader.take_layers(prefix, inputs, outputs):
        layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")  # draws no random numbers
        layer.weight, layer.bias = nn.Parameter(torch.tensor(weight)), nn.Parameter(torch.tensor(bias))
        modules += [layer, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def _bounds(action_space: dict[str, Any], key: str, act_dim: int) -> npt.NDArray[np.float32]:
    try:
        bounds = np.broadcast_to(np.array(action_space[key], dtype=np.float32).reshape(-1), act_dim)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"damaged description of the action space ({error!r}): export the run again") from error
    if not np.isfinite(bounds).all():
        raise UserError(f"action_space.{key} is {bounds.tolist()}: it must be finite")
    return bounds
