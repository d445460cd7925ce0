"""Ape-X as a plan (arXiv 1803.00933); its loss is in ``safe_rl.algorithms.dqn``."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

from safe_rl.algorithms.dqn import ApexConfig, DQNLearner
from safe_rl.algorithms.prioritized_replay import QBatch
from safe_rl.flow import ActorGroup, ActorHandle, ActorOptions, Future, LocalIterator, LostItemError, Ref, concurrently
from safe_rl.flow.operators import Update, UpdateWorkerWeights, rollouts
from safe_rl.flow.q_worker import Receipt, ReplayActor
from safe_rl.plans.parts import Parts


class StoreToReplay:
    """Sends fragments, by reference, to replay actors in turn; their receipts say what was in them."""

    def __init__(self, replays: ActorGroup[ReplayActor], learner: DQNLearner) -> None:
        self._next, self._learner = itertools.cycle(replays.handles), learner
        self._receipts: deque[Future[Receipt]] = deque()

    def __call__(self, fragment: Ref[Any]) -> Update:
        """Returns the episodes of the fragments that have arrived since the last call."""
        self._receipts.append(next(self._next).call(ReplayActor.add, fragment))
        episodes: list[Any] = []
        while self._receipts and self._receipts[0].done():
            try:
                receipt = self._receipts.popleft().get()
            except LostItemError:  # with the worker's node, or the replay's
                continue
            self._learner.num_steps += receipt.num_steps
            episodes += receipt.episodes
        return Update(tuple(episodes))


class LearnAndPrioritize:
    """Takes a gradient step on each of some batches and tells the replay that they came from how wrong it was."""

    def __init__(self, learner: DQNLearner) -> None:
        self._learner = learner

    def __call__(self, pair: tuple[list[QBatch], ActorHandle[ReplayActor]]) -> Update:
        """Takes batches with their replay."""
        batches, source = pair
        metrics: dict[str, float] = {}
        for batch in batches:
            metrics, errors = self._learner.step(batch)
            source.call(ReplayActor.set_priorities, batch.indices, errors)
        return Update(metrics=metrics)


def apex(parts: Parts[DQNLearner]) -> LocalIterator[Update]:
    """Workers fill replay actors, each fragment by reference; the learner draws from these as fast as it can."""
    learner, config = parts.learner, parts.learner.config
    num_replays = config.num_replays if isinstance(config, ApexConfig) else 1
    share = (learner.obs_dim, learner.first_action, config)
    replays = parts.backend.actors(ReplayActor, num_replays, *share, options=ActorOptions(num_cpus=0))
    fragments: LocalIterator[Any] = (
        rollouts(parts.workers).zip_with_source_actor().gather_async(num_async=2, by_reference=True)
    )
    store = fragments.for_each(UpdateWorkerWeights(parts.weights)).for_each(StoreToReplay(replays, learner))
    train = (
        replays.iterate(ReplayActor.sample)
        .zip_with_source_actor()
        .gather_async(num_async=2)
        .for_each(LearnAndPrioritize(learner))
    )
    return concurrently(store, train, mode="async")
