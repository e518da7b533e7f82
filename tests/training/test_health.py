"""When a training is stopped because it goes nowhere."""

import math

import pytest

from transformer_jax.config.checks import check_config
from transformer_jax.config.options import Config, TrainConfig
from transformer_jax.errors import UserError
from transformer_jax.training.health import Health, TrainingStopped


def follow(losses, *, norms=None, **options):
    """The health of a run with those losses, and the steps it skipped."""
    skipped = []
    health = Health(TrainConfig(**options), lambda step, reason: skipped.append((step, reason)))
    for step, loss in enumerate(losses, 1):
        norm = (norms or {}).get(step, 1.0)
        health.check(step, {"loss": loss, "gradient_norm": norm, "update_norm": 1.0})
    return health, skipped


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_counted_and_reported(value):
    health, skipped = follow([3.0, value, 3.0, 3.0], norms={4: math.nan})
    assert skipped == [(2, f"loss is {value}"), (4, "gradient_norm is nan")]
    assert health.skipped == 2


def test_so_many_in_a_row_stop_it():
    nan = math.nan
    follow([nan, nan, 3.0, nan, nan, 3.0], max_skipped=3)
    with pytest.raises(TrainingStopped, match=r"3 steps in a row .*the last good step is 3"):
        follow([nan, nan, 3.0, nan, nan, nan, nan], max_skipped=3)


FALLING = [5.0 / (1 + step / 50) for step in range(1000)]
BUMP = [*FALLING, *[7.0] * 60, *[0.25] * 500]
NOISY = [0.02 + 0.019 * math.sin(step) for step in range(5000)]
RISEN = [1.0, *[1000.0] * 3000]


@pytest.mark.parametrize(
    ("losses", "factor", "steps", "stops"),
    [
        (FALLING, 2.0, 100, False),
        ([*FALLING, *[7.0] * 300], 2.0, 100, True),
        (BUMP, 2.0, 500, False),  # it comes back in time
        (BUMP, 2.0, 50, True),
        (NOISY, 3.0, 10, False),  # one lucky batch is no best: the loss is smoothed
        (NOISY, 1.005, 2, True),  # a sharper eye takes the noise for it
        (RISEN, 0.0, 500, False),  # turned off
        (RISEN, 3.0, 500, True),
    ],
)
def test_a_loss_that_rises_and_stays_stops_the_run(losses, factor, steps, stops):
    options = {"divergence_factor": factor, "divergence_steps": steps}
    if stops:
        with pytest.raises(TrainingStopped, match=r"diverged: since step \d+, the last good one"):
            follow(losses, **options)
    else:
        health, skipped = follow(losses, **options)
        assert health.skipped == 0 and not skipped


@pytest.mark.parametrize("factor", [1.0, 0.5, -1.0])
def test_a_factor_that_cannot_be_meant(factor):
    config = Config()
    config.train.divergence_factor = factor
    with pytest.raises(UserError, match=r"train\.divergence_factor"):
        check_config(config)
