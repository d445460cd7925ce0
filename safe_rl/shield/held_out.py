"""Is a dataset one that a bundle can be calibrated on: the same spaces, numbers throughout, and not trained on?"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from safe_rl.data.dataset import OfflineDataset, require_compatible
from safe_rl.envs.spaces import space_from_json
from safe_rl.errors import UserError
from safe_rl.runs import read_config
from safe_rl.shield.bundle import PolicyBundle


def require_fitting(bundle: PolicyBundle, dataset: OfflineDataset) -> None:
    """Checks that a bundle can be evaluated on a dataset, and that there is something to learn from it.

    Raises:
        UserError: The spaces differ, numbers are not finite, or nothing violates the constraint.
    """
    require_compatible(
        f"dataset {dataset.path} (of {dataset.env_id or 'an unnamed environment'})",
        (dataset.observation_space, dataset.action_space),
        f"bundle {bundle.path} (of {bundle.spec.env})",
        (space_from_json(bundle.spec.observation_space), space_from_json(bundle.spec.action_space)),
    )
    if not dataset.transitions().cost.any():
        raise UserError(
            f"dataset {dataset.path} holds no violation in its {dataset.num_transitions:,} transitions, and what a "
            "threshold misses is counted in violations: collect nearer to the constraint boundary, or check --cost-key"
        )
    dataset.validate_for_training()


def compare_with_training(bundle: PolicyBundle, dataset: OfflineDataset, *, allow: bool) -> str:
    """Checks that a dataset was not trained on, as far as the bundle's provenance tells.

    Equal seeds collect equal episodes, so it is not enough that the datasets are not the same as a whole.

    Returns:
        What was found, for the record: ``none of it was trained on``, ``not known`` where the training data is no
        longer there, or how much of it was.

    Raises:
        UserError: Some of it was trained on, and this was not allowed.
    """
    training = _training_datasets(bundle.spec.provenance)
    if bundle.spec.provenance.get("dataset_sha256") == dataset.sha256:
        shared = dataset.num_episodes
    elif training:
        known = set().union(*(_episode_digests(other) for other in training))
        shared = sum(digest in known for digest in _episode_digests(dataset))
    else:
        return "not known"
    if shared == 0:
        return "none of it was trained on"
    found = f"{shared:,} of its {dataset.num_episodes:,} episodes were trained on"
    if not allow:
        raise UserError(
            f"dataset {dataset.path} is not held out: {found}, and the risk critic knows those too well for a promise; "
            "collect another one with another --seed, or take it all the same with --allow-training-data"
        )
    return found


def _training_datasets(provenance: dict[str, Any]) -> list[OfflineDataset]:
    """What the run, and the pretraining that it started from, learned from; as far as it is still where it was."""
    config = provenance.get("config")
    found = []
    while isinstance(config, dict):
        try:
            if config.get("dataset"):
                found.append(OfflineDataset.open(Path(config["dataset"])))
        except (UserError, OSError, TypeError):
            pass
        try:
            config = read_config(Path(config["pretrained"])) if config.get("pretrained") else None
        except (UserError, OSError, TypeError):
            break
    return found


def _episode_digests(dataset: OfflineDataset) -> list[bytes]:
    """A hash of the observations and actions of each episode."""
    transitions = dataset.transitions()
    columns = [np.ascontiguousarray(c) for c in (transitions.obs, transitions.action, transitions.next_obs)]
    digests, start = [], 0
    for length in dataset.episode_lengths.tolist():
        digest = hashlib.sha256()
        for column in columns:
            digest.update(column[start : start + length].data)
        digests.append(digest.digest())
        start += length
    return digests
