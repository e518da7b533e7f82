"""Training (Vaswani et al. 2017, section 5): the state, one step, and the loop around it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from transformer_jax.config.options import OPTIONS, PAD_ID, Config, flatten
from transformer_jax.functional.layers import logits
from transformer_jax.functional.losses import (
    label_smoothed_cross_entropy,
    sum_over_chunks,
    symmetric_divergence,
)
from transformer_jax.model.layers import Dropout
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel.layout import strategy_of
from transformer_jax.training.optimizer import (
    adam,
    cosine_schedule,
    inverse_sqrt_schedule,
    without_gradients,
)

Batch = dict[str, Any]
Metrics = dict[str, Array]
Reduce = Callable[[Any], Any]
_RNG_IMPLEMENTATIONS = {"threefry": "threefry2x32", "rbg": "rbg"}  # train.rng: jax's name of it
_SECOND_PASS = 2  # of R-Drop: folded into the keys, next to 0 of the encoder and 1 of the decoder
_CHUNK = 1024  # positions whose logits exist at a time: enough for a fast product
FINITE = ("loss", "gradient_norm", "update_norm")  # metrics; or else a step is skipped


@flax.struct.dataclass
class Hyperparameters:
    """The options that are numbers: traced, so that changing one compiles nothing again.

    None, for a rate or a norm, is "not at all", and leaves the operation out of the program.
    """

    seed: Array
    learning_rate_scale: Array
    warmup_steps: Array
    beta1: Array
    beta2: Array
    epsilon: Array
    clip_norm: Array | None
    weight_decay: Array | None
    label_smoothing: Array
    r_drop: Array | None
    dropout_rate: Array | None
    attention_dropout_rate: Array | None
    activation_dropout_rate: Array | None


@flax.struct.dataclass
class TrainState:
    """What a step reads and writes. `step` counts the updates made."""

    step: Array
    params: Any
    opt_state: Any
    hyperparameters: Hyperparameters


def hyperparameters(config: Config) -> Hyperparameters:
    """The traced options of `config`."""

    def traced(name: str, value: float) -> Array | None:
        if OPTIONS[name].none_if_zero and not value:
            return None
        return jnp.asarray(value, jnp.uint32 if name == "seed" else jnp.float32)

    values = {name: value for name, value in flatten(config).items() if OPTIONS[name].traced}
    return Hyperparameters(**{n.rpartition(".")[2]: traced(n, v) for n, v in values.items()})


def create_state(config: Config, model: Transformer) -> TrainState:
    """Freshly initialised parameters, at step 0; a function of `config.seed`."""

    @jax.jit
    def create(h: Hyperparameters) -> TrainState:
        tokens = jnp.ones((1, 1), jnp.int32)
        params = model.init(jax.random.key(h.seed), tokens, tokens)["params"]
        opt_state = _optimizer(config, h, jnp.ones((), jnp.int32)).init(params)
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, h)

    return create(hyperparameters(config))


def _learning_rate(config: Config, h: Hyperparameters, step: Array) -> Array:
    constants = {"warmup_steps": h.warmup_steps, "scale": h.learning_rate_scale}
    if config.optimizer.schedule == "cosine":
        return cosine_schedule(step, num_steps=config.train.steps, **constants)
    return inverse_sqrt_schedule(step, d_model=config.model.d_model, **constants)


def _optimizer(config: Config, h: Hyperparameters, step: Array) -> optax.GradientTransformation:
    return adam(
        learning_rate=_learning_rate(config, h, step),
        beta1=h.beta1,
        beta2=h.beta2,
        epsilon=h.epsilon,
        clip_norm=h.clip_norm,
        weight_decay=h.weight_decay,
        frozen=config.train.frozen,
    )


def make_loss(
    model: Transformer, *, fused: bool = False, chunk: int | None = _CHUNK
) -> Callable[..., tuple[Array, Metrics]]:
    """loss(params, batch, label_smoothing, dropout, r_drop) -> (sum in nats, counts of tokens).

    With `r_drop` α (Liang et al. 2021), the model predicts twice with different dropout. The loss
    is the mean of the two cross entropies plus α/2 times the mean of the two divergences: half of
    the paper's, whose scale Adam does not see, and comparable with the loss of other runs.

    Args:
      model: the model.
      fused: use the attention that `model.attention` names, as training does; otherwise the plain
        function, which any device can run and the compiler can spread over several.
      chunk: about how many target positions have their logits computed at a time; None = all.
    """
    if not fused:
        model = model.clone(config=dataclasses.replace(model.config, attention="xla"))

    def predict(params: Any, batch: Batch, dropout: Dropout) -> Array:
        return model.apply(
            {"params": params},
            batch["source_tokens"],
            batch["decoder_input"],
            batch["source_segments"],
            batch["target_segments"],
            batch["source_positions"],
            batch["target_positions"],
            dropout=dropout,
            method="before_softmax",
        )

    def loss(
        params: Any,
        batch: Batch,
        label_smoothing: Array | float,
        dropout: Dropout,
        r_drop: Array | float | None = None,
    ) -> tuple[Array, Metrics]:
        states = [predict(params, batch, dropout)]
        if r_drop is not None:
            states.append(predict(params, batch, dropout.fold_in(_SECOND_PASS)))
        softmax = model.apply({"params": params}, method=lambda m: (m.softmax, m.logits_bias))
        weights = {"softmax": softmax, "label_smoothing": label_smoothing, "r_drop": r_drop}
        labels = batch["labels"]
        loss_sum = sum_over_chunks(
            _chunk_loss, chunks_of_loss(*labels.shape, chunk), weights, states, labels
        )
        real = {"target": labels != PAD_ID, "source": batch["source_segments"] != 0}
        counts = {f"{side}_tokens": where.sum().astype(jnp.float32) for side, where in real.items()}
        return loss_sum, counts

    return loss


def _chunk_loss(weights: dict[str, Any], states: list[Array], labels: Array) -> Array:
    """Of one prediction, or two with R-Drop."""
    smoothing = {"label_smoothing": weights["label_smoothing"], "pad_id": PAD_ID}
    predicted = [logits(x, *weights["softmax"]) for x in states]
    losses = [label_smoothed_cross_entropy(x, labels, **smoothing)[0] for x in predicted]
    if len(predicted) == 1:
        return losses[0]
    divergence = symmetric_divergence(*predicted, labels, pad_id=PAD_ID)
    return sum(losses) / 2 + weights["r_drop"] / 2 * divergence


def loss_chunk(config: Config, devices: int) -> int | None:
    """About how many target positions have their logits computed at a time; None = all.

    In a mesh each chunk would end with an exchange of the gradient of the softmax.
    """
    return None if strategy_of(config.parallel, devices) == "mesh" else _CHUNK


def chunks_of_loss(rows: int, length: int, chunk: int | None) -> int:
    """The largest divisor of `length` that leaves `chunk` of rows * length positions to each."""
    most = max(rows * length // chunk, 1) if chunk else 1
    return max(number for number in range(1, length + 1) if length % number == 0 and number <= most)


def dropout_of(config: Config, state: TrainState, batch: Batch) -> Dropout:
    """The dropout of the step after `state`, for the rows of `batch`.

    Randomness is decided by (seed, step, row): the same masks on any number of devices. Except rbg:
    jax draws the numbers of all the rows at once from the key of the first.
    """
    h = state.hyperparameters
    seed = jax.random.key(h.seed, impl=_RNG_IMPLEMENTATIONS[config.train.rng])
    rng = jax.random.fold_in(seed, state.step)
    rngs = jax.vmap(jax.random.fold_in, (None, 0))(rng, batch["row"])
    return Dropout(rngs, h.dropout_rate, h.attention_dropout_rate, h.activation_dropout_rate)


def make_train_step(
    config: Config, model: Transformer, reduce: Reduce = lambda sums: sums
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """train_step(state, batch) -> (state, metrics), for the global batch or one replica's rows.

    Args:
      config: reads the schedule, the numbers of steps and of micro-batches, and what draws the
        random numbers.
      model: the model.
      reduce: adds up sums over replicas (psum); the identity when one program sees all rows.
    """
    loss = make_loss(model, fused=True, chunk=loss_chunk(config, jax.device_count()))

    def loss_of_trained(params: Any, *inputs: Any) -> tuple[Array, Metrics]:
        return loss(without_gradients(params, config.train.frozen), *inputs)

    loss_and_grads = jax.value_and_grad(loss_of_trained, has_aux=True)

    def sums(state: TrainState, batch: Batch) -> tuple[tuple[Array, Metrics], Any]:
        h, dropout = state.hyperparameters, dropout_of(config, state, batch)
        return loss_and_grads(state.params, batch, h.label_smoothing, dropout, h.r_drop)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        total = _sum_over_micro_batches(lambda b: sums(state, b), batch, config.train.accumulate)
        (loss_sum, counts), grads = reduce(total)
        # The only division, by the count over all rows of all replicas.
        grads = jax.tree.map(lambda g: g / counts["target_tokens"], grads)
        h, step = state.hyperparameters, state.step + 1
        updates, opt_state = _optimizer(config, h, step).update(
            grads, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss_sum / counts["target_tokens"],
            **counts,
            "gradient_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "learning_rate": _learning_rate(config, h, step),
        }
        # A step that is not finite leaves everything as it was, except that it has been made.
        checked = [metrics[name] for name in FINITE]
        finite = jnp.isfinite(jnp.stack(checked)).all()
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, opt_state),
            (state.params, state.opt_state),
        )
        return state.replace(step=step, params=params, opt_state=opt_state), metrics

    return train_step


def _sum_over_micro_batches(sums: Callable[[Batch], Any], batch: Batch, number: int) -> Any:
    if number == 1:
        return sums(batch)
    # Every number-th row, so that each device's rows are shared out evenly: a mesh moves none.
    micro = jax.tree.map(lambda x: x.reshape(-1, number, *x.shape[1:]).swapaxes(0, 1), batch)
    zero = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(sums, jax.tree.map(lambda x: x[0], micro)),
    )
    add = lambda total, b: (jax.tree.map(jnp.add, total, sums(b)), None)  # noqa: E731
    return jax.lax.scan(add, zero, micro)[0]
