"""Several runs as the lanes of one training step: `--sweep_lanes`, for `--sweep_vectorize`.

Lanes differ in numbers that the step reads as traced hyperparameters (programs.TRACED). The text is
read, tokenized and packed once, everything is compiled once, and one call makes a step of all of
them. What a lane leaves in its workdir is what a run alone leaves there, so that whatever reads a
workdir reads a lane, and either goes on where the other was stopped.
"""

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax import (
    card,
    evaluation,
    experiment,
    health,
    lock,
    parallel,
    preemption,
    programs,
    tracking,
    trained,
    training,
)
from transformer_jax import config as configs
from transformer_jax.config import CONFIG_FILE, Config, Preempted, UserError
from transformer_jax.data import corpora
from transformer_jax.data.tokenizer import Tokenizers
from transformer_jax.preparation import Prepared, prepare, share
from transformer_jax.tracking import say
from transformer_jax.training import Batch, Metrics, TrainState
from transformer_jax.translation import Translator
from transformer_jax.validation import Validation

# (state, batch, living) -> (state, metrics): everything has a first axis [lanes].
LanesStep = Callable[[TrainState, Batch, Any], tuple[TrainState, Metrics]]
OnEnd = Callable[[Path, str], None]


def make_lanes_step(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]], *, in_turn: bool
) -> LanesStep:
    """`train_step` for all lanes, to be compiled.

    Args:
      train_step: of one lane.
      in_turn: the lanes one after the other, by a loop inside the program, which leaves out those
        that do not live; else vmap, which makes a step of all of them at once. In turn the bits are
        those of `train_step` alone: a `cond` is compiled for itself, and not merged with what is
        around it. A CPU is kept busy by one lane, and is faster so.
    """

    def unchanged(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        shapes = jax.eval_shape(train_step, state, batch)[1]
        return state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def lanes_step(state: TrainState, batch: Batch, living: Any) -> tuple[TrainState, Metrics]:
        if not in_turn:
            return jax.vmap(train_step)(state, batch)
        one = lambda lane: jax.lax.cond(lane[0], train_step, unchanged, *lane[1:])  # noqa: E731
        return jax.lax.map(one, (living, state, batch))

    return lanes_step


def stack(states: Sequence[TrainState]) -> TrainState:
    """The states of all lanes as one, whose arrays have a first axis [lanes]."""
    return jax.jit(lambda *each: jax.tree.map(lambda *x: jnp.stack(x), *each))(*states)


@jax.jit
def lane_of(state: TrainState, number: int) -> TrainState:
    """One lane's state."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, number, keepdims=False), state)


def batches(lanes: Sequence[Prepared], first_step: int) -> Iterator[Batch]:
    """The batch of each step after `first_step`: [lanes, B, …]. Lanes of one seed share a read."""
    by_seed = {lane.config.seed: lane.data for lane in lanes}
    for step in itertools.count(first_step):
        read = {seed: data.batch(step) for seed, data in by_seed.items()}
        each = [read[lane.config.seed] for lane in lanes]
        yield jax.device_put({name: np.stack([b[name] for b in each]) for name in each[0]})


@dataclasses.dataclass
class Lane:
    """A run among others.

    Attributes:
      config, workdir: its own.
      saved: what the workdir was made with; None if it is new.
      prepared: with the text of all.
      run: its metrics, validations, checkpoints and card.
      opened: what has to be closed when it ends.
      reason: why it has stopped; None = it has not.
    """

    config: Config
    workdir: Path
    saved: Config | None = None
    prepared: Prepared | None = None
    run: experiment.Run | None = None
    opened: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)
    reason: str | None = None


def run(lanes: Sequence[tuple[Config, Path]], *, weights: str, on_end: OnEnd) -> None:
    """Trains the lanes, and evaluates each on the test split, as `--mode=train` does for one.

    Args:
      lanes: the configuration and the workdir of each.
      weights: see `Checkpoints.restore_params`.
      on_end: told the workdir of each lane that has ended, and why it stopped; "" = it got through.

    Raises:
      UserError: if they cannot be trained together, or some of them stopped.
      Preempted: when a signal asked for it.
    """
    started = time.monotonic()
    together = Together(lanes, on_end)
    together.train()
    say(f"trained in {(time.monotonic() - started) / 60:.1f} minutes")
    translators: dict[int, Translator] = {}
    for lane in together.living:
        # What a search finds depends on the seed if it draws.
        seed = lane.config.seed if lane.config.decode.method == "sample" else 0
        translator = translators.get(seed) or _translator(lane)
        translators[seed] = translator
        say(f"{lane.config.name}:")
        trained.evaluate(
            lane.config, lane.workdir, split="test", weights=weights, translator=translator
        )
        trained.demo(lane.config, lane.workdir, translator)
        on_end(lane.workdir, "")
    stopped = [lane.config.name for lane in together.lanes if lane.reason is not None]
    if stopped:
        raise UserError(f"{len(stopped)} of {len(lanes)} lanes stopped: {', '.join(stopped)}")


def _translator(lane: Lane) -> Translator:
    tokenizers, decode = lane.prepared.tokenizers, lane.config.decode
    rows = parallel.all_devices()
    return Translator([lane.prepared.model], tokenizers, decode, seed=lane.config.seed, rows=rows)


class _NoneLeft(Exception):
    """Every lane has stopped."""


class Together:
    """The lanes, with what happens around their steps.

    Attributes:
      lanes: all of them.
    """

    def __init__(self, lanes: Sequence[tuple[Config, Path]], on_end: OnEnd) -> None:
        """See `run`; nothing is read yet."""
        for config, _ in lanes:
            programs.check_lane(configs.validate(config))
        first, *others = (programs.program(config) for config, _ in lanes)
        differing = sorted({name for o in others for name in first if o[name] != first[name]})
        if differing:
            raise UserError(
                f"what trains together has one program, and {', '.join(differing)} differ: "
                "train them apart"
            )
        self.lanes = [Lane(config, workdir) for config, workdir in lanes]
        self._on_end, self._started = on_end, time.monotonic()
        self._config, self._options = lanes[0][0], lanes[0][0].train

    @property
    def living(self) -> list[Lane]:
        """Those that have not stopped."""
        return [lane for lane in self.lanes if lane.reason is None]

    def train(self) -> None:
        """To the last step. What stops one lane leaves the others as they are."""
        devices = experiment.devices_of(self._config)
        if devices.mesh.size > 1 or parallel.joined():
            raise UserError(
                f"lanes train on one device, and these are {devices.mesh.size}: give "
                "--config.parallel.strategy=single, or leave --sweep_vectorize out"
            )
        with (
            contextlib.suppress(_NoneLeft),
            preemption.deferred(),
            contextlib.ExitStack() as opened,
        ):
            for lane in self.lanes:
                opened.enter_context(lane.opened)
            with preemption.immediate():
                self._each(self._begin)
                self._prepare(devices)
                states = self._first_states()
                self._lanes_of_step = self.living
            for lane, state in zip(self.living, states, strict=True):
                lane.opened.enter_context(lane.run.begun(state))
            self._loop(stack(states), int(states[0].step))
            self._each(lambda lane: lane.opened.close())  # the last one may not have been saved

    def _each(self, do: Callable[[Lane], None]) -> None:
        """`do` for each lane that lives; a UserError is that lane's, and stops it alone."""
        for lane in self.living:
            try:
                do(lane)
            except UserError as e:
                self._stop(lane, e, str(e))

    def _stop(self, lane: Lane, error: Exception, reason: str) -> None:
        lane.reason = reason
        lane.opened.__exit__(type(error), error, None)
        say(f"warning: {lane.config.name} stops: {reason}")
        self._on_end(lane.workdir, reason)
        if not self.living:
            raise _NoneLeft

    def _begin(self, lane: Lane) -> None:
        experiment.saved_config(lane.config, lane.workdir)  # before anything is made there
        lane.opened.enter_context(lock.held(lane.workdir))
        lane.saved = experiment.saved_config(lane.config, lane.workdir)

    def _prepare(self, devices: parallel.Devices) -> None:
        """Reads, tokenizes and packs the text, once."""
        data = self._config.data
        corpus, valid, _ = (corpora.load_split(data, s) for s in ("train", "valid", "test"))
        evaluation.warn_of_words([target for _, target in valid.pairs], data.target_language)
        # With the vocabulary of a workdir that has one.
        first = min(self.living, key=lambda lane: not Tokenizers.exist(lane.workdir))
        begun = first.saved is not None
        first.prepared = prepare(first.config, first.workdir, devices, corpus, valid, begun=begun)
        validation, number = Validation(first.prepared), len(self.living)

        def share_text(lane: Lane) -> None:
            if lane is not first:
                begun = lane.saved is not None
                lane.prepared = share(first.prepared, lane.config, lane.workdir, begun=begun)
            own = card.Card(lane.prepared, since=self._started, lanes=number)
            lane.run = experiment.Run(lane.prepared, own, validation.of(lane.prepared))
            lane.opened.enter_context(lane.run.card)
            lane.opened.enter_context(lane.run.checkpoints)

        self._each(share_text)

    def _first_states(self) -> list[TrainState]:
        """Those of the last step that all lanes have saved; new ones if there is none."""
        step = self._common_step()
        prepared = self.living[0].prepared
        create = training.make_create_state(self._config, prepared.model)
        states = []
        for lane in self.living:
            if lane.run.checkpoints.steps()[-1:] > [max(step, 0)]:
                say(f"{lane.config.name} goes back to step {max(step, 0)}, which all lanes have")
            lane.run.checkpoints.forget_after(step)
            state = create(training.hyperparameters(lane.config))
            if step > 0:
                state = lane.run.checkpoints.restore_step(step, state)
            else:
                state = experiment.from_word_vectors(lane.prepared, state)
            experiment.check_steps(max(step, 0), lane.config, lane.saved, None)
            # Last: from here on the workdir is this experiment's.
            lane.prepared.tokenizers.save(lane.workdir)
            configs.save(lane.config, lane.workdir / CONFIG_FILE)
            states.append(state)
        return states

    def _common_step(self) -> int:
        """The last step that all lanes have without damage; -1 = there is none."""
        at_most = math.inf
        while True:
            found: dict[str, int] = {}

            def look(lane: Lane, at_most: float = at_most, found: dict = found) -> None:
                found[lane.config.name] = lane.run.checkpoints.last_sound(at_most)

            self._each(look)
            steps = {found[lane.config.name] for lane in self.living}
            if len(steps) == 1:
                return steps.pop()
            at_most = min(steps)

    def _loop(self, state: TrainState, first_step: int) -> None:
        model = self.living[0].prepared.model
        in_turn = jax.default_backend() == "cpu"
        parameters = training.count_parameters(state.params) // len(self.living)
        say(
            f"{len(self.living)} lanes {'in turn' if in_turn else 'at once'}, each of "
            f"{parameters:,} parameters, {self._options.steps} steps of "
            f"{self._config.data.batch_rows} rows, 1 {jax.local_devices()[0].device_kind} device"
            + (f"; they go on from step {first_step}" if first_step else "")
        )
        train_step = training.make_train_step(self._config, model)
        step = jax.jit(make_lanes_step(train_step, in_turn=in_turn), donate_argnums=0)
        num_steps = self._options.steps
        self._pace = tracking.Pace(first_step=first_step, num_steps=num_steps, shown=True)
        with contextlib.closing(self._pace):
            training.train(
                state,
                lambda state, batch: step(state, batch, self._alive()),
                batches([lane.prepared for lane in self._lanes_of_step], first_step),
                first_step=first_step,
                num_steps=num_steps,
                on_metrics=self._on_metrics,
                pauses_at=self._pauses_at,
                on_pause=self._on_pause,
            )

    def _alive(self) -> np.ndarray:
        return np.array([lane.reason is None for lane in self._lanes_of_step])

    def _on_metrics(self, step: int, metrics: dict[str, list[float]]) -> None:
        losses, tokens = [], 0.0
        for number, lane in enumerate(self._lanes_of_step):
            if lane.reason is not None:
                continue
            own = {name: values[number] for name, values in metrics.items()}
            try:
                lane.run.on_metrics(step, own)
            except health.TrainingStopped as e:
                self._stop(lane, e, lane.run.reason(e))
                continue
            losses.append(own["loss"])
            tokens += own["source_tokens"] + own["target_tokens"]
        self._pace.add(step, tokens)
        if step % self._options.log_every == 0 or step == self._options.steps:
            self._pace.lap(f"{len(losses)} lanes, loss {min(losses):.3f} to {max(losses):.3f}")

    def _pauses_at(self, step: int) -> bool:
        self._preempted = preemption.requested(step)
        return self._preempted or experiment.saves_at(step, self._options)

    def _on_pause(self, step: int, state: TrainState) -> None:
        living = [(n, lane.run) for n, lane in enumerate(self._lanes_of_step) if not lane.reason]
        for number, each in living:
            each.save(step, lane_of(state, number))
        if self._preempted:
            saved = min(each.saved() for _, each in living)
            raise Preempted(f"of {self._options.steps} steps, {saved} of each lane are saved")
        for number, each in living:
            each.evaluate(step, lane_of(state, number))
        for _, each in living:
            each.goes_on()
        self._pace.restart()
