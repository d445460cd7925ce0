"""Recovery RL from images: who trains which encoder, who looks through which, and what a run keeps of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_images import Seen, Stacked, image_config, walk

from safe_rl.algorithms import sac as sac_module
from safe_rl.algorithms.recovery_impact import RecoveryIMPACTAgent, RecoveryIMPACTConfig
from safe_rl.algorithms.recovery_rl import RecoveryRLAgent
from safe_rl.algorithms.risk_aware import RiskAwareAgent
from safe_rl.algorithms.sac import SACAgent
from safe_rl.config import EncoderConfig, RecoveryRLConfig, RiskConfig, UnconstrainedConfig
from safe_rl.errors import UserError
from safe_rl.methods import make_agent

ENV = Seen()
DATA = walk(ENV, 120)


def agent(seed: int = 0, env=ENV, **changes) -> RecoveryRLAgent:
    return RecoveryRLAgent(env.observation_space, env.action_space, image_config(**changes), seed=seed)


def filled(seed: int = 0, **changes) -> RecoveryRLAgent:
    made = agent(seed, **changes)
    made.add_offline(DATA[:80])
    made.observe(DATA[80:])
    return made


def weights(made: SACAgent) -> dict[str, torch.Tensor]:
    modules = {"task encoder": made.encoder, "actor": made.actor, "critics": made.critics}
    if isinstance(made, RecoveryRLAgent):
        modules |= {"risk encoder": made.risk_encoder, "risk": made.risk_critic.critics}
        if made.config.recovery.kind == "model-free":
            modules["recovery"] = made.recovery
    return {name: next(module.parameters()).detach().clone() for name, module in modules.items()}


def changed(made: SACAgent, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in weights(made).items() if not torch.equal(value, before[name])}


# ------------------------------------------------------------------------------------------------ who trains what


def test_the_task_critics_train_their_encoder_and_the_risk_critic_its_own():
    made = filled()
    before = weights(made)
    made._learn_task(made._task_indices())
    assert changed(made, before) == {"task encoder", "critics", "actor"}
    before = weights(made)
    made._learn_risk(made._risk_indices())
    assert changed(made, before) == {"risk encoder", "risk", "recovery"}


def test_a_shared_encoder_learns_from_both():
    made = filled(encoder__sharing="shared")
    assert made.risk_encoder is made.encoder
    before = weights(made)
    made._learn_task(made._task_indices())
    assert changed(made, before) == {"task encoder", "risk encoder", "critics", "actor"}
    before = weights(made)
    made._learn_risk(made._risk_indices())
    assert changed(made, before) == {"task encoder", "risk encoder", "risk", "recovery"}


@pytest.mark.parametrize("sharing", ["separate", "shared"])
def test_no_gradient_reaches_an_encoder_but_from_critics(sharing, monkeypatch):
    """Of every loss that is stepped: does it lead back to an encoder, and to which?"""
    made, reached = filled(encoder__sharing=sharing), {}
    optimizers = {
        "critics": made.critic_optimizer,
        "actor": made.actor_optimizer,
        "risk": made.risk_optimizer,
        "recovery": made.recovery.optimizer,
    }
    for name, optimizer in optimizers.items():

        def step(loss, name=name, optimizer=optimizer):
            flats = [made.encoder.flat, made.risk_encoder.flat]
            gradients = torch.autograd.grad(loss, flats, retain_graph=True, allow_unused=True)
            reached[name] = [g is not None and bool(g.abs().sum() > 0) for g in gradients]
            type(optimizer).step(optimizer, loss)

        monkeypatch.setattr(optimizer, "step", step)
    made.update()
    both = sharing == "shared"
    assert reached == {
        "critics": [True, both],
        "actor": [False, False],
        "risk": [both, True],
        "recovery": [False, False],
    }


def test_unconstrained_learns_from_images_too():
    made = SACAgent(ENV.observation_space, ENV.action_space, image_config("unconstrained"))
    made.observe(DATA)
    before = weights(made)
    metrics = made.update()
    assert changed(made, before) == {"task encoder", "critics", "actor"}
    assert np.isfinite([float(value) for value in metrics.values()]).all()


# -------------------------------------------------------------------------------------------- who looks through what


@pytest.mark.parametrize("sharing", ["separate", "shared"])
def test_acting_and_risk_look_through_the_right_encoder(sharing):
    made = agent(encoder__sharing=sharing)
    images = torch.from_numpy(DATA.obs[:7])
    with torch.no_grad():
        unit = made.actor.mean_action(made.encoder(images))
        risk = made.risk_critic(made.risk_encoder(images), unit).numpy()
    decision = made.act(DATA.obs[:7], explore=False)
    np.testing.assert_allclose(decision.task_action, made.scaler.to_env(unit.numpy()), atol=1e-6)
    np.testing.assert_allclose(decision.risk, risk, atol=1e-6)
    np.testing.assert_allclose(made.risk(DATA.obs[:7], decision.task_action), risk, atol=1e-5)
    watched = made.watch(DATA.obs[:7], decision.task_action, explore=False)
    np.testing.assert_allclose(watched.risk, risk, atol=1e-5)


def test_the_composite_backup_asks_the_task_policy_through_its_own_encoder():
    made = agent(risk__backup="task")
    images = torch.from_numpy(DATA.next_obs[:5])
    seen = []
    made.actor.sample_action = lambda obs, noise: seen.append(obs) or noise
    made.add_offline(DATA)
    made._step_risk(made.replay.batch(torch.arange(5)), pretraining=False)
    with torch.no_grad():
        torch.testing.assert_close(seen[0], made.encoder(images))


def test_workers_who_hand_over_floats_get_the_same_decisions():
    made = agent()
    bytes_, floats = (made.act(obs, explore=False) for obs in (DATA.obs[:5], DATA.obs[:5].astype(np.float32)))
    np.testing.assert_array_equal(bytes_.action, floats.action)


def test_weights_that_travel_to_workers_carry_both_encoders():
    made, other = agent(0), agent(1)
    assert not np.array_equal(made.act(DATA.obs[:5], explore=False).risk, other.act(DATA.obs[:5], explore=False).risk)
    other.load_policy_weights(made.policy_weights())
    for name in ("task_action", "risk", "action"):
        ours, theirs = (getattr(a.act(DATA.obs[:5], explore=False), name) for a in (made, other))
        np.testing.assert_array_equal(ours, theirs)


def test_the_target_looks_at_the_next_image():
    """Of one transition: the target that the critics are trained to, by hand."""
    made = filled()
    batch = made.replay.batch(torch.arange(3))
    obs, next_obs = made._look(made.encoder, batch)
    with torch.no_grad():
        torch.testing.assert_close(next_obs, made.encoder(torch.from_numpy(DATA.next_obs[:3])))
    assert obs.requires_grad
    assert not next_obs.requires_grad


# ---------------------------------------------------------------------------------------------------- augmentation


def test_random_shift_reaches_what_is_learned_from_and_nothing_else(monkeypatch):
    calls = []

    def recorded(images, shape, pad, generator):
        calls.append((len(images), shape, pad))
        return images

    monkeypatch.setattr(sac_module, "random_shift", recorded)
    made = filled(encoder__augmentation="random-shift", encoder__pad=2, batch_size=8)
    made.act(DATA.obs[:3], explore=True)
    assert calls == []
    made.update()
    assert calls == [(8, (16, 16, 3), 2)] * 4  # observation and next one, of both batches
    calls.clear()
    filled(batch_size=8).update()
    assert calls == []


def test_shifted_batches_differ_and_draw_two_shifts():
    made = filled(encoder__augmentation="random-shift", encoder__pad=3)
    batch = made.replay.batch(torch.full((40,), 2))
    shifted = made._augmented(batch)
    assert len({row.numpy().tobytes() for row in shifted.obs}) > 10
    same = made._augmented(batch.__class__(**{**vars(batch), "next_obs": batch.obs}))
    assert not torch.equal(same.obs, same.next_obs)


# ------------------------------------------------------------------------------------------------------ pretraining


def test_pretraining_the_encoder_lowers_its_loss_and_both_encoders_use_it():
    made = agent(encoder__pretrain_steps=250, encoder__learning_rate=3e-3, encoder__channels=(16, 32), batch_size=64)
    made.add_offline(DATA)
    before = weights(made)
    losses = [float(metrics["encoder/loss"]) for metrics in made.pretrain_encoder(250)]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    assert changed(made, before) == {"task encoder", "risk encoder"}
    assert torch.equal(made.encoder.flat, made.risk_encoder.flat)
    pixels = DATA.obs / 255.0
    assert np.mean(losses[-10:]) < 0.5 * pixels.var(axis=0).mean()  # better than the mean picture
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(made.act(DATA.obs[:4], explore=False).risk),
            made.risk_critic(made.risk_encoder(torch.from_numpy(DATA.obs[:4])),
                             made.actor.mean_action(made.encoder(torch.from_numpy(DATA.obs[:4])))),
        )  # fmt: skip


def test_without_it_there_is_no_autoencoder():
    made = filled()
    assert (made.autoencoder, made.num_encoder_steps) == (None, 0)
    assert "autoencoder" not in made.state_dict()["learning"]


# ------------------------------------------------------------------------------------------------------------ state


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"encoder__sharing": "shared"},
        {"encoder__augmentation": "random-shift", "encoder__pad": 1},
        {"encoder__pretrain_steps": 3, "recovery__kind": "q-sampling"},
    ],
    ids=str,
)
def test_a_resumed_agent_learns_on_as_if_it_had_not_stopped(changes):
    made, other = filled(**changes), agent(seed=5, **changes)
    list(made.pretrain_encoder(made.num_encoder_steps))
    for _ in range(3):
        made.update()
    other.add_offline(DATA[:80])
    other.load_state_dict(made.state_dict())
    for _ in range(3):
        ours, theirs = made.update(), other.update()
        assert {k: float(v) for k, v in ours.items()} == {k: float(v) for k, v in theirs.items()}
    for name, value in weights(made).items():
        assert torch.equal(value, weights(other)[name]), name


def test_images_are_not_normalised():
    made = filled(normalize_obs="running")
    assert not hasattr(made, "normalizer")
    assert set(made.encoders()) == {"encoder", "risk_encoder"}
    assert set(made.safety_state_dict()) >= {"encoder", "risk_encoder", "risk_critic"}


def test_stacked_frames_are_seen_as_channels():
    env = Stacked()
    made = agent(env=env)
    made.add_offline(walk(env, 60))
    assert made.encoder.shape == (16, 16, 6)
    assert np.isfinite([float(value) for value in list(made.pretrain(2))[-1].values()]).all()


# ------------------------------------------------------------------------------------------------------------ errors


def test_settings_of_the_encoder_without_images_are_refused():
    import gymnasium as gym

    space, actions = gym.spaces.Box(-1, 1, (4,)), gym.spaces.Box(-1, 1, (2,))
    config = RecoveryRLConfig(encoder=EncoderConfig(pad=2))
    with pytest.raises(UserError, match=r"--encoder.pad is 2: the observation is no image"):
        RecoveryRLAgent(space, actions, config)
    RecoveryRLAgent(space, actions, RecoveryRLConfig())


@pytest.mark.parametrize(
    ("make", "flag"),
    [
        (lambda: EncoderConfig(channels=()), "--encoder.channels is ()"),
        (lambda: EncoderConfig(channels=(8, 0)), "--encoder.channels is (8, 0)"),
        (lambda: EncoderConfig(feature_dim=1), "--encoder.feature-dim is 1"),
        (lambda: EncoderConfig(pad=0), "--encoder.pad is 0"),
        (lambda: EncoderConfig(pretrain_steps=-1), "--encoder.pretrain-steps is -1"),
        (lambda: EncoderConfig(learning_rate=0), "--encoder.learning-rate is 0"),
        (
            lambda: RecoveryRLConfig(encoder=EncoderConfig(sharing="shared"), risk=RiskConfig(update_online=False)),
            "--encoder.sharing is shared",
        ),
    ],
)
def test_a_value_out_of_range_is_named(make, flag):
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value).startswith(f"{flag}: it must be ")


def test_a_method_that_knows_no_encoder_says_so():
    with pytest.raises(UserError, match="RecoveryIMPACT cannot learn from images: train recovery-rl"):
        RecoveryIMPACTAgent(ENV.observation_space, ENV.action_space, RecoveryIMPACTConfig())


def test_the_settings_of_a_run_hold_the_encoder_only_with_images():
    assert "encoder" not in RecoveryRLConfig().settings(images=False)
    assert RecoveryRLConfig().settings(images=True)["encoder"]["channels"] == (16, 32, 32)
    assert "encoder" in UnconstrainedConfig().settings(images=True)


def test_every_setting_reaches_the_agent():
    config = image_config(encoder__pretrain_steps=2, encoder__learning_rate=0.5)
    made = make_agent("recovery-rl", config, ENV.observation_space, ENV.action_space, seed=0)
    assert (made.encoder.channels, made.encoder.feature_dim) == ((8, 8), 16)
    assert made.autoencoder_optimizer.learning_rate == 0.5
    assert made.num_encoder_steps == 2
    assert isinstance(made, RiskAwareAgent)
    assert made.risk_encoder is not made.encoder
