"""Which settings two attempts share: what must differ for another try to make sense."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from clipctl.domain import History
from trainer.contract import Precision

# What of a TrainSpec makes a difference to the numbers. The data's tolerance, evaluation, saving and logging do not.
_NUMERICS = ("engine", "model", "precision", "tf32", "batch_size", "epochs", "seed", "optim", "loss", "faults")
_DATA_ORDER = ("train_data", "train_num_samples", "dataset_resampled", "workers")


def settings_digest(train: Mapping[str, Any], ranks: int) -> str:
    """Of a TrainSpec as JSON: equal for two attempts whose steps from one checkpoint would be the same."""
    settings = {name: train.get(name) for name in _NUMERICS}
    if train.get("accum_freq", 1) != 1:  # stored digests are older than the option
        settings["accum_freq"] = train["accum_freq"]
    settings |= {name: train.get("data", {}).get(name) for name in _DATA_ORDER} | {"ranks": ranks}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def settings_after(patch: Mapping[str, Any], history: History) -> str:
    """Digest of the newest attempt's settings with `patch` and, where it sets a precision, that precision's profile."""
    newest = history.attempts[-1]
    train = json.loads(json.dumps(newest.train))
    precision = patch.get("train.precision")
    profile = {} if precision is None else history.profiles.get(Precision(precision), {})
    for path, value in {**profile, **patch}.items():
        if path.startswith("train."):
            _set(train, path.split(".")[1:], value)
    return settings_digest(train, newest.ranks)


def value_at(train: Mapping[str, Any], path: str) -> Any:
    """Of a dotted path that begins with `train`; None where there is nothing."""
    value: Any = train
    for key in path.split(".")[1:]:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _set(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    tree[keys[-1]] = value
