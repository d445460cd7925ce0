"""The shield: a policy bundle that decides in a control loop, never raises into it, and fails closed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from safe_rl.errors import UserError
from safe_rl.shield.black_box import BlackBox
from safe_rl.shield.bundle import DISTRIBUTION, PolicyBundle
from safe_rl.shield.decision import Reason, ShieldDecision
from safe_rl.shield.distribution import FeatureDistribution
from safe_rl.shield.engine import Engine, Evaluation
from safe_rl.shield.engines import EngineName, load_engine
from safe_rl.shield.limits import Limiter
from safe_rl.shield.observation import ObservationError, ObservationLayout, is_finite
from safe_rl.shield.spec import LARGEST_EPS_RISK
from safe_rl.switch import Mode

FloatArray = npt.NDArray[np.float32]

_log = logging.getLogger(__name__)


class _Stop(Exception):  # noqa: N818 (not an error of the program: the way out to STOP)
    """Leads to STOP with the reason."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Shield:
    """Decides one state after the other, as the bundle's policies and switch say, within the bundle's limits.

    TASK executes the proposal, RECOVERY the recovery policy's action, STOP what the bundle says that stopping means.
    Whatever it is given, ``decide`` and ``filter`` return a finite action within the limits; they raise nothing but
    what stops the process (``KeyboardInterrupt``, ``SystemExit``).

    One shield serves one control loop: it remembers the last action and since when recovery acts, and it is not for
    several threads at once. Call ``reset`` where a new episode begins.
    """

    def __init__(
        self,
        bundle: PolicyBundle,
        engine: Engine,
        *,
        black_box: BlackBox | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Makes a shield of its parts; see ``load`` for the usual way.

        Args:
            bundle: What to decide by.
            engine: Evaluates the bundle's networks.
            black_box: Records decisions and keeps them on STOP.
            clock: Seconds, monotonic.

        Raises:
            UserError: The parts do not fit together.
        """
        self.bundle = bundle
        self.engine = engine
        self.black_box = black_box
        self._clock = clock
        spec = bundle.spec
        self.eps_risk = spec.switch.eps_risk
        self._min_recovery_sec = spec.switch.min_recovery_sec
        self._deadline = math.inf if spec.deadline_sec is None else spec.deadline_sec
        self._layout = ObservationLayout(spec.observation_space)
        self._limiter = Limiter(spec.limits, spec.stop)
        self._distribution: FeatureDistribution | None = None
        self._largest_score = math.inf
        if spec.distribution is not None:
            self._distribution = FeatureDistribution.from_arrays(bundle.read_arrays(DISTRIBUTION))
            self._largest_score = spec.distribution.threshold if spec.distribution.stop else math.inf
        self._obs = np.zeros((1, self._layout.size), dtype=self._layout.dtype)
        self._no_obs = np.nan if self._layout.image_shape is None else 0
        self._told = ""
        self._proposal = np.zeros((1, self._limiter.act_dim), dtype=np.float32)
        self._unknown = np.full(self._limiter.act_dim, np.nan, dtype=np.float32)
        self._recovering_since: float | None = None
        self._mode = Mode.TASK
        # The first call of an engine allocates, and what does not fit together shows: better here than in the loop.
        try:
            for proposal in (None, self._proposal):
                features = self._engine_output(proposal).features
                if self._distribution is not None:
                    self._distribution.score(features)
        except Exception as error:  # ONNX Runtime's have no other base in common
            what = " ".join(str(error).split())[:200]
            raise UserError(
                f"{bundle.path} does not fit together ({what}): export and calibrate the run again"
            ) from error

    @classmethod
    def load(cls, path: Path | str, *, engine: EngineName = "auto", black_box: Path | str | None = None) -> Shield:
        """Opens a bundle and makes it ready to decide.

        Args:
            path: The bundle's folder.
            engine: ``"onnx"``, ``"torch"``, or ``"auto"``: ONNX Runtime where it and the graphs are there.
            black_box: Folder that the last decisions are written to on STOP; none are written where it is None.

        Raises:
            UserError: The bundle is missing, damaged or of a newer version, or the engine is not there.
        """
        bundle = PolicyBundle.load(path)
        shield = cls(bundle, load_engine(bundle, engine))
        if black_box is not None:
            layout = shield._layout
            shield.black_box = BlackBox(
                Path(black_box), layout.size, shield._limiter.act_dim, obs_dtype=layout.dtype, source=str(path)
            )
        return shield

    @property
    def eps_risk(self) -> float:
        """Largest tolerated ``Q_risk`` of a proposal: the bundle's, unless it was set.

        A calibration's promise holds for its own threshold and for smaller ones. A release_risk of the bundle's that
        would lie above it comes down with it.

        Raises:
            ValueError: It is set to something outside of [0, 1).
        """
        return self._eps_risk

    @eps_risk.setter
    def eps_risk(self, value: float) -> None:
        if not 0 <= value <= LARGEST_EPS_RISK:
            raise ValueError(f"eps_risk is {value}: it must be at least 0 and less than 1")
        release_risk = self.bundle.spec.switch.release_risk
        self._eps_risk = value
        self._release_risk = value if release_risk is None else min(release_risk, value)

    def __enter__(self) -> Shield:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the black box to finish writing."""
        if self.black_box is not None:
            self.black_box.close()

    def reset(self) -> None:
        """Forgets the last action and the recovery in progress: a new episode begins."""
        self._recovering_since = None
        self._mode = Mode.TASK
        self._limiter.reset()

    def decide(self, obs: Any, *, elapsed_sec: float | None = None) -> ShieldDecision:
        """Decides by the bundle's task policy.

        Args:
            obs: One observation, as the bundle's observation space describes it.
            elapsed_sec: Time since the last decision, where it may be less than the bundle's control period: the rate
                limits allow as much less. None: a control period.
        """
        return self._decide(obs, None, elapsed_sec, proposes=False)

    def filter(self, obs: Any, proposed_action: Any, *, elapsed_sec: float | None = None) -> ShieldDecision:
        """Passes, replaces or stops another stack's command.

        Args:
            obs: One observation, as the bundle's observation space describes it.
            proposed_action: (act_dim,) the command; what exceeds the limits is clipped before it is judged.
            elapsed_sec: As in ``decide``.
        """
        return self._decide(obs, proposed_action, elapsed_sec, proposes=True)

    def stop(self) -> ShieldDecision:
        """Stops without deciding, because of what the shield cannot see: a silent sensor, an emergency stop."""
        started = self._clock()
        self._obs.fill(self._no_obs)
        decision = ShieldDecision(
            self._limiter.stop(), self._unknown.copy(), math.nan, Mode.STOP, Reason.EXTERNAL, math.nan, 0.0
        )
        return self._finish(decision, started)

    def _decide(self, obs: Any, proposed_action: Any, elapsed_sec: float | None, *, proposes: bool) -> ShieldDecision:
        started = self._clock()
        risk = score = math.nan
        task_action = self._unknown
        try:
            self._read_observation(obs)
            if proposes:
                task_action = self._proposal[0]
                self._read_proposal(proposed_action)
            output = self._engine_output(self._proposal if proposes else None)
            task_action, risk = output.proposal[0], float(output.risk[0])
            if self._distribution is not None:
                score = float(self._distribution.score(output.features)[0])
            if not math.isfinite(risk) or not is_finite(task_action) or not is_finite(output.recovery_action[0]):
                raise _Stop(Reason.OUTPUT_NOT_FINITE)
            if self._distribution is not None and not score <= self._largest_score:
                raise _Stop(Reason.OUT_OF_DISTRIBUTION)
            reason = self._who_acts(bool(output.hands_over[0]), risk, started)
            mode = Mode.TASK if reason is Reason.NONE else Mode.RECOVERY
            wanted = task_action if mode is Mode.TASK else output.recovery_action[0]
            if self._clock() - started > self._deadline:
                raise _Stop(Reason.OVERRUN)
            action = self._limiter.limit(wanted, elapsed_sec)
        except _Stop as stop:
            mode, reason, action = Mode.STOP, stop.reason, self._limiter.stop()
        except Exception:
            _log.exception("the shield stops: computing a decision raised")
            mode, reason, action = Mode.STOP, Reason.ENGINE_FAILED, self._limiter.stop()
        decision = ShieldDecision(action, task_action.copy(), risk, mode, reason, score, self._clock() - started)
        return self._finish(decision, started)

    def _finish(self, decision: ShieldDecision, started: float) -> ShieldDecision:
        """Records the decision; the first STOP after something else is written to disk."""
        stops = decision.mode is Mode.STOP and self._mode is not Mode.STOP
        self._mode = decision.mode
        if self.black_box is not None:
            try:
                self.black_box.record(started, self._obs[0], decision)
                if stops:
                    self.black_box.dump()
            except Exception:
                _log.exception("the black box failed; the decision stands")
        return decision

    def _read_observation(self, obs: Any) -> None:
        try:
            self._layout.flatten(obs, self._obs[0])
        except Exception as error:
            reason = Reason(str(error)) if isinstance(error, ObservationError) else Reason.OBSERVATION_UNREADABLE
            if reason is not Reason.OBSERVATION_NOT_FINITE:
                self._obs.fill(self._no_obs)  # it was written in part, or not at all
            detail = getattr(error, "detail", "")
            if detail and detail != self._told:  # once, and not at every step of the control loop
                _log.warning("the shield stops: %s", detail)
                self._told = detail
            raise _Stop(reason) from error

    def _read_proposal(self, proposed_action: Any) -> None:
        try:
            self._limiter.read(proposed_action, self._proposal[0])
        except Exception as error:
            reason = Reason(str(error)) if isinstance(error, ObservationError) else Reason.PROPOSAL_UNREADABLE
            if reason is not Reason.PROPOSAL_NOT_FINITE:
                self._proposal.fill(np.nan)
            raise _Stop(reason) from error

    def _engine_output(self, proposal: FloatArray | None) -> Evaluation:
        threshold = self._eps_risk if self._recovering_since is None else self._release_risk
        if proposal is None:
            return self.engine.decide(self._obs, threshold)
        return self.engine.filter(self._obs, proposal, threshold)

    def _who_acts(self, hands_over: bool, risk: float, now: float) -> Reason:
        """The reason of RECOVERY, or NONE for TASK, with hysteresis and the least recovery time."""
        since = self._recovering_since
        if hands_over:
            if since is None:
                self._recovering_since = now
            return Reason.RISK if since is None or risk > self._eps_risk else Reason.HYSTERESIS
        if since is not None and now - since < self._min_recovery_sec:
            return Reason.MINIMUM_RECOVERY_TIME
        self._recovering_since = None
        return Reason.NONE
