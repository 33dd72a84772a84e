"""The rehearsal engine's arithmetic beside torch's: the same rounding, gradients, updates and search for a scale."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from tests.trainer.attempts import rehearsal_spec
from trainer.contract import Optim, Precision
from trainer.position import Position
from trainer.rehearsal.arithmetic import ARITHMETICS, Searched
from trainer.rehearsal.pairs import PAIRS, PairSource, uniform
from trainer.rehearsal.ranks import Agreed, Floats
from trainer.rehearsal.towers import Contrast, Towers
from trainer.rehearsal.trainee import RehearsalTrainee
from trainer.schedule import Geometry

AT = Position(Geometry(train_num_samples=640, batch_size=32, ranks=2, workers=1))


def agreed(gradient: Floats) -> Agreed:
    """As if all ranks had come to it."""
    norm = np.sqrt(np.square(gradient, dtype=np.float64).sum())
    return Agreed(np.array([[1, 1, norm, 1, 14, 0, 0, 64]], np.float32), gradient)


def test_rounding_is_torchs() -> None:
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, 65504, 65520, 1e30, 3.4e38, 1e-8, 0, -0.0], np.float32)
    values = np.concatenate([ties, -ties, [math.inf, math.nan], uniform((1000,), "any"), 1e5 * uniform((1000,), "big")])
    values = values.astype(np.float32)
    for precision, kind in ((Precision.AMP_FP16, torch.float16), (Precision.AMP_BF16, torch.bfloat16)):
        with np.errstate(over="ignore"):
            ours = ARITHMETICS[precision].rounded(values).astype(np.float32)
        np.testing.assert_array_equal(ours, torch.from_numpy(values).to(kind).float().numpy())


def test_a_nan_stays_one_in_bfloat16() -> None:
    every = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32)
    assert np.isnan(ARITHMETICS[Precision.AMP_BF16].rounded(every)).all()


def test_gradients_are_those_of_autograd() -> None:
    layers = uniform((2, 12, 12), "hidden"), uniform((2, 12, 8), "out")
    x, scale, loss_scale, batch = uniform((2, PAIRS, 12), "x"), 10.0, 4.0, 100
    rounded = ARITHMETICS[Precision.FP32].rounded
    towers, contrast = Towers(*layers, rounded), Contrast(PAIRS, batch, rounded)
    loss = contrast.forward(towers.forward(x), scale)
    d_features, d_log_scale = contrast.backward(loss_scale)
    gradients = [*towers.backward(d_features), d_log_scale]

    hidden, out = (torch.from_numpy(layer.copy()).requires_grad_() for layer in layers)
    log_scale = torch.tensor(math.log(scale), requires_grad=True)
    images, texts = functional.normalize(torch.tanh(torch.from_numpy(x.copy()) @ hidden) @ out, dim=2)
    weight = (1 - torch.eye(PAIRS)) * math.log((batch - 1) / (PAIRS - 1))
    logits = log_scale.exp() * images @ texts.T + weight
    own = torch.arange(PAIRS)
    expected = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    (expected * loss_scale).backward()
    assert math.isclose(loss, float(expected.detach()), rel_tol=1e-5)
    for ours, leaf in zip(gradients, (hidden, out, log_scale), strict=True):
        np.testing.assert_allclose(ours, leaf.grad, rtol=1e-3, atol=1e-4)


def test_updates_are_adamws() -> None:
    optim = Optim(lr=1e-2, beta1=0.8, beta2=0.9, eps=1e-5, wd=0.3, grad_clip_norm=2.0)
    trainee = RehearsalTrainee(rehearsal_spec(optim=optim), AT.geometry)
    weights, logit_scale = (torch.from_numpy(part.copy()) for part in (trainee.weights[:-1], trainee.weights[-1:]))
    groups = [{"params": [weights], "weight_decay": 0.3}, {"params": [logit_scale], "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.9), eps=1e-5)
    for step in range(10):
        gradient = uniform(trainee.weights.shape, "gradient", step) * np.float32(0.01 if step % 2 else 1)
        trainee.update(agreed(gradient), 1e-2)
        weights.grad, logit_scale.grad = (torch.from_numpy(part.copy()) for part in (gradient[:-1], gradient[-1:]))
        torch.nn.utils.clip_grad_norm_([weights, logit_scale], 2.0)
        theirs.step()
    np.testing.assert_allclose(trainee.weights, torch.cat([weights, logit_scale]), rtol=1e-5, atol=1e-6)


def test_the_search_for_a_loss_scale_is_gradscalers() -> None:
    ours, theirs = Searched(), torch.amp.GradScaler("cpu")
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    theirs.scale(torch.ones(()))
    scales = []
    for step in range(2 * Searched.GROWTH_INTERVAL + 10):
        value = math.inf if step in (0, 1, 2002) else 1.0
        assert ours.scale == theirs.get_scale()
        assert ours.admits(agreed(np.array([value], np.float32))) is math.isfinite(value)
        weight.grad = torch.tensor([value])
        theirs.step(optimizer)
        theirs.update()
        scales.append(ours.scale)
    assert [scales[step] for step in (0, 1, 2000, 2001, 2002, -1)] == [32768, 16384, 16384, 32768, 16384, 32768]


def test_without_a_loss_scale_nothing_is_updated_from_the_first_step_on_that_is_not_finite() -> None:
    trainee = RehearsalTrainee(rehearsal_spec(), AT.geometry)
    fine = uniform(trainee.weights.shape, "gradient")
    before = trainee.weights.copy()
    trainee.update(agreed(fine * np.float32(math.nan)), 1e-2)
    trainee.update(agreed(fine), 1e-2)
    np.testing.assert_array_equal(trainee.weights, before)


def test_weights_that_are_not_finite_are_not_fit_to_be_saved() -> None:
    trainee = RehearsalTrainee(rehearsal_spec(), AT.geometry)
    assert trainee.is_finite(trainee.state())
    trainee.weights[7] = math.nan
    assert not trainee.is_finite(trainee.state())


def test_pairs_depend_on_their_place_and_on_nothing_else() -> None:
    def pairs(rank: int, epoch: int, seed: int = 0) -> list[Floats]:
        return [batch.pairs for batch in PairSource(rehearsal_spec(seed=seed), rank, AT).batches(epoch, 0)]

    all_at_once = pairs(1, 2)
    later = next(PairSource(rehearsal_spec(), 1, AT).batches(2, 7))
    np.testing.assert_array_equal(later.pairs, all_at_once[7])
    assert (later.seen, dict(later.bad)) == (16, {}), "of which eight are computed"
    places = [*all_at_once, *pairs(0, 2), *pairs(1, 1), *pairs(1, 2, seed=1)]
    assert len({place.tobytes() for place in places}) == 4 * 10
