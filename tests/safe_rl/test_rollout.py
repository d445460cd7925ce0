from __future__ import annotations

import logging

import numpy as np
import pytest
import toys

from safe_rl.checkpoint import load_state, save_state
from safe_rl.envs.factory import CostEnv, make_env
from safe_rl.errors import EnvironmentFault
from safe_rl.evaluation import Evaluation, evaluate
from safe_rl.rollout import EpisodeRecord, Rollout
from safe_rl.switch import Decision, Mode


def decision(*modes: Mode, action: float = 0.5, task_action: float = 0.25, act_dim: int = 1) -> Decision:
    count = len(modes)
    return Decision(
        action=np.full((count, act_dim), action, np.float32),
        task_action=np.full((count, act_dim), task_action, np.float32),
        risk=np.zeros(count, np.float32),
        mode=np.array(modes, np.int8),
    )


def scripted(*envs, seed=0) -> Rollout:
    return Rollout([CostEnv(env) for env in envs], seed)


def step(rollout, *modes, **kwargs):
    return rollout.step(decision(*modes, **kwargs), lambda: 1.2345678)


def test_an_episode_by_hand():
    rollout = scripted(toys.Script(length=3, costs=(2, 3)))
    start = rollout.obs[0, 0]
    seen = [step(rollout, mode) for mode in (Mode.TASK, Mode.RECOVERY, Mode.RECOVERY)]
    assert [records for _, records in seen[:2]] == [[], []]
    assert seen[2][1] == [
        EpisodeRecord(
            episode=0, steps=3, return_=6.0, cost=2.0, success=1, violation=1, recovery_steps=2, wall_time_sec=1.235
        )
    ]
    transitions = [made for made, _ in seen]
    assert [t.obs.tolist() for t in transitions] == [[[start, 0]], [[start, 1]], [[start, 2]]]
    assert [t.next_obs.tolist() for t in transitions] == [[[start, 1]], [[start, 2]], [[start, 3]]]
    assert [t.reward.tolist() for t in transitions] == [[1], [2], [3]]
    assert [t.cost.tolist() for t in transitions] == [[0], [1], [1]]
    assert [t.terminated.tolist() for t in transitions] == [[False], [False], [True]]
    assert [t.truncated.tolist() for t in transitions] == [[False], [False], [False]]
    assert {(t.action.item(), t.task_action.item()) for t in transitions} == {(0.5, 0.25)}


def test_the_last_observation_is_the_episodes_own_and_not_the_next_ones():
    rollout = scripted(toys.Script(length=1, terminates=False))
    start = rollout.obs[0, 0]
    transitions, records = step(rollout, Mode.TASK)
    assert transitions.next_obs.tolist() == [[start, 1]]
    assert transitions.truncated.tolist() == [True]
    assert transitions.terminated.tolist() == [False]
    assert len(records) == 1
    assert rollout.obs[0, 1] == 0
    assert rollout.obs[0, 0] != start  # another episode, another start


def test_transitions_are_not_changed_by_what_follows():
    rollout = scripted(toys.Script(length=2))
    first, _ = step(rollout, Mode.TASK)
    kept = first.next_obs.copy()
    step(rollout, Mode.TASK)
    assert np.array_equal(first.next_obs, kept)


def test_environments_of_different_lengths_are_counted_apart():
    rollout = scripted(toys.Script(length=2), toys.Script(length=3, costs=(1,), success=False))
    records = []
    for number in range(6):
        modes = (Mode.RECOVERY, Mode.TASK) if number < 2 else (Mode.TASK, Mode.TASK)
        records += step(rollout, *modes)[1]
    facts = [(r.episode, r.steps, r.return_, r.cost, r.success, r.violation, r.recovery_steps) for r in records]
    assert facts == [
        (0, 2, 3.0, 0.0, 1, 0, 2),
        (1, 3, 6.0, 1.0, 0, 1, 0),
        (2, 2, 3.0, 0.0, 1, 0, 0),
        (3, 2, 3.0, 0.0, 1, 0, 0),  # both end at the sixth step, in the order of the environments
        (4, 3, 6.0, 1.0, 0, 1, 0),
    ]
    assert rollout.num_finished == 5
    assert rollout.num_started == 7


def test_success_counts_at_the_last_step_only():
    env = toys.Broken((np.zeros(2, np.float32), 0.0, False, False, {"success": True}), length=2)
    rollout = scripted(env)
    step(rollout, Mode.TASK)
    env.result = (np.zeros(2, np.float32), 0.0, True, False, {"success": False})
    assert step(rollout, Mode.TASK)[1][0].success == 0


def test_every_episode_has_a_start_of_its_own_that_only_seed_and_number_decide():
    def starts(seed, *lengths):
        rollout = scripted(*(toys.Script(length=length) for length in lengths), seed=seed)
        found = list(rollout.obs[:, 0])
        for _ in range(6):
            ended = step(rollout, *[Mode.TASK] * len(lengths))[1]
            found += [value for value in rollout.obs[:, 0] if value not in found] if ended else []
        return found

    alone = starts(3, 1)
    assert len(set(alone)) == 7
    assert alone == starts(3, 1)
    assert set(alone).isdisjoint(starts(4, 1))
    assert starts(3, 2, 3)[:5] == alone[:5]  # side by side the episodes are the same ones


def _replayed(tmp_path, envs, seed=0) -> Rollout:
    restored = scripted(*envs, seed=seed)
    restored.load_state_dict(load_state(tmp_path / "state"))
    return restored


@pytest.mark.parametrize("steps", [0, 1, 4, 5, 13])
def test_a_restored_rollout_goes_on_in_the_middle_of_its_episodes(tmp_path, steps):
    def corridors():
        return [toys.Corridor(), toys.Corridor()]

    def move(rollout, number):
        return step(rollout, Mode.TASK, Mode.RECOVERY, action=0.02 * (number % 5), act_dim=2)

    original = scripted(*corridors(), seed=5)
    for number in range(steps):
        move(original, number)
    save_state(tmp_path / "state", original.state_dict())
    restored = _replayed(tmp_path, corridors(), seed=5)
    assert np.array_equal(restored.obs, original.obs)
    finished = 0
    for number in range(steps, steps + 70):
        (first, first_records), (second, second_records) = move(original, number), move(restored, number)
        assert first_records == second_records
        finished += len(first_records)
        for name in vars(first):
            assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert finished >= 4
    assert (original.num_started, original.num_finished) == (restored.num_started, restored.num_finished)


def test_an_environment_that_does_not_repeat_itself_begins_anew_with_a_warning(tmp_path, caplog):
    original = scripted(toys.Unrepeatable(length=9), toys.Script(length=9))
    for _ in range(4):
        step(original, Mode.RECOVERY, Mode.RECOVERY)
    save_state(tmp_path / "state", original.state_dict())
    with caplog.at_level(logging.WARNING):
        restored = _replayed(tmp_path, [toys.Unrepeatable(length=9), toys.Script(length=9)])
    assert [record.getMessage().count("does not repeat itself") for record in caplog.records] == [1]
    assert restored.obs[:, 1].tolist() == [0, 4]  # the other one goes on
    ended = [record for _ in range(9) for record in step(restored, Mode.TASK, Mode.TASK)[1]]
    assert [(r.steps, r.return_, r.recovery_steps) for r in ended] == [(9, 45.0, 4), (9, 45.0, 0)]
    assert restored.num_started == 5  # 2, one given up, 2


def test_a_robot_is_not_driven_again_through_its_interrupted_episode(tmp_path):
    original = scripted(toys.Script(length=9))
    for _ in range(4):
        step(original, Mode.RECOVERY)
    save_state(tmp_path / "state", original.state_dict())
    robot = toys.Script(length=9)
    robot.repeats_itself = False
    actions = []
    take_step = robot.step
    robot.step = lambda action: actions.append(action) or take_step(action)
    restored = _replayed(tmp_path, [robot])
    assert actions == []
    assert restored.obs[0, 1] == 0
    assert restored.num_started == 2
    ended = [record for _ in range(9) for record in step(restored, Mode.TASK)[1]]
    assert [(r.episode, r.steps, r.recovery_steps) for r in ended] == [(0, 9, 0)]
    assert len(actions) == 9


def test_a_fault_in_a_step_leaves_the_counts_as_they_were(tmp_path):
    broken = toys.Broken(length=5)
    rollout = scripted(toys.Script(length=5), broken)
    step(rollout, Mode.TASK, Mode.TASK)
    before = rollout.obs.copy()
    broken.result = RuntimeError("lost contact")
    with pytest.raises(EnvironmentFault, match="lost contact"):
        step(rollout, Mode.TASK, Mode.TASK)
    assert np.array_equal(rollout.obs, before)
    save_state(tmp_path / "state", rollout.state_dict())
    restored = _replayed(tmp_path, [toys.Script(length=5), toys.Script(length=5)])
    assert np.array_equal(restored.obs, before)
    ended = [record for _ in range(4) for record in step(restored, Mode.TASK, Mode.TASK)[1]]
    assert [record.steps for record in ended] == [5, 5]


def test_a_fault_in_a_reset_does_not_lose_the_episode_before_it(tmp_path):
    env = toys.Broken(length=2)
    rollout = scripted(env)
    step(rollout, Mode.TASK)
    env.reset_result = RuntimeError("the arm is stuck")
    transitions, records = step(rollout, Mode.TASK)
    assert transitions.terminated.tolist() == [True]
    assert [(record.episode, record.steps) for record in records] == [(0, 2)]
    with pytest.raises(EnvironmentFault, match="the arm is stuck"):
        step(rollout, Mode.TASK)
    save_state(tmp_path / "state", rollout.state_dict())
    restored = _replayed(tmp_path, [toys.Script(length=2)])
    never_broken = scripted(toys.Script(length=2))
    for _ in range(2):
        step(never_broken, Mode.TASK)
    assert np.array_equal(restored.obs, never_broken.obs)
    assert (restored.num_started, restored.num_finished) == (2, 1)


# --------------------------------------------------------------------------------------------- evaluation


class Walks:
    """Walks straight ahead and remembers how it was asked."""

    def __init__(self):
        self.explored = []

    def act(self, obs, *, explore):
        self.explored.append(explore)
        return decision(*[Mode.RECOVERY if obs[0, 0] > 0.5 else Mode.TASK], action=0.1, act_dim=2)


def test_an_evaluation_runs_its_episodes_without_exploration():
    agent, told = Walks(), []
    env = make_env("toys:Script", length=4, costs=(4,))
    env.action_space = toys.Corridor().action_space
    result = evaluate(agent, env, 3, seed=1, on_episode=told.append)
    assert not any(agent.explored)
    assert len(agent.explored) == 12
    assert told == result.episodes
    assert [record.steps for record in told] == [4, 4, 4]
    assert result.summary() == {
        "success_rate": 1.0, "violation_rate": 1.0, "return_mean": 10.0, "length_mean": 4.0, "recovery_share": 1.0,
    }  # fmt: skip


def test_an_evaluations_summary_by_hand():
    result = Evaluation([EpisodeRecord(0, 10, -4.0, 0, 1, 0, 5, 0.0), EpisodeRecord(1, 30, -8.0, 2, 0, 1, 5, 0.0)])
    assert result.summary() == {
        "success_rate": 0.5, "violation_rate": 0.5, "return_mean": -6.0, "length_mean": 20.0, "recovery_share": 0.25,
    }  # fmt: skip


def test_evaluations_are_repeatable_and_never_start_like_training():
    def lengths(seed):
        return [(r.steps, r.return_) for r in evaluate(Walks(), make_env("toys:Corridor"), 3, seed=seed).episodes]

    assert lengths(1) == lengths(1) != lengths(2)
    env = make_env("toys:Corridor")
    training = {Rollout([env], 1).obs[0, 1]}
    rollout = Rollout([make_env("toys:Corridor")], 1)
    for _ in range(60):
        step(rollout, Mode.TASK, action=0.1, act_dim=2)
        training.add(rollout.obs[0, 1])
    starts = []
    env.unwrapped.reset = _recording(env.unwrapped.reset, starts)
    evaluate(Walks(), env, 5, seed=1)
    assert len(starts) == 6
    assert training.isdisjoint(starts)


def _recording(reset, starts):
    def call(**kwargs):
        obs, info = reset(**kwargs)
        starts.append(obs[1])
        return obs, info

    return call
