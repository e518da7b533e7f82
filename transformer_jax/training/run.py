"""From a configuration to a trained workdir: what `--mode=train` and `--mode=describe` do.

A workdir is self-contained: config.json, tokenizer.model, checkpoints/, and what a run reports.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer_jax import storage
from transformer_jax.config.checks import check_config
from transformer_jax.config.files import (
    CONFIG_FILE,
    differences,
    load_config,
    refuse_differences,
    save_config,
)
from transformer_jax.config.options import Config, TrainConfig, flatten
from transformer_jax.console import log
from transformer_jax.data import corpora, word_vectors
from transformer_jax.errors import Preempted, UserError
from transformer_jax.evaluation.scores import warn_of_words
from transformer_jax.model.size import count_parameters, parameter_shapes
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel import processes
from transformer_jax.parallel.devices import choose_devices
from transformer_jax.training import health, preemption, replay
from transformer_jax.training.loop import run_steps
from transformer_jax.training.prepared import Prepared, prepare
from transformer_jax.training.profile import PROFILED_CALLS, profiled
from transformer_jax.training.step import TrainState
from transformer_jax.training.validation import Validation
from transformer_jax.workdir import card, lock, manifest
from transformer_jax.workdir.checkpoints import Checkpoints
from transformer_jax.workdir.metrics import bleu_scores, skipped_steps
from transformer_jax.workdir.tracking import Tracker


def train(config: Config, workdir: Path, *, profile: str | None = None) -> None:
    """Trains in `workdir`, or goes on where its last checkpoint left off.

    Args:
      config: the experiment.
      workdir: made if need be; nobody else trains there meanwhile.
      profile: a folder for a profiler trace of a few steps.

    Raises:
      UserError: if it cannot be trained there, or no longer.
      Preempted: when a signal asked for it; see `preemption`.
    """
    started = time.monotonic()
    check_config(config)
    saved_config(config, workdir)  # a mistake is told before anything is read
    devices = choose_devices(config)
    with processes.writer_first():
        corpus = corpora.load_split(config.data, "train")
        valid = corpora.load_split(config.data, "valid")
        corpora.load_split(config.data, "test")  # missing? Now is better than after the training
    warn_of_words([target for _, target in valid.pairs], config.data.target_language)
    with lock.held(workdir):
        saved = saved_config(config, workdir)
        prepared = prepare(config, workdir, devices, corpus, valid, begun=saved is not None)
        run = Run(prepared, card.Card(prepared, since=started))
        try:
            with preemption.deferred(), run.card, run.checkpoints:
                with preemption.immediate():
                    state = run.first_state()
                    check_steps(int(state.step), config, saved, profile)
                    if processes.is_writer():  # last: from here on the workdir is this experiment's
                        prepared.tokenizers.save(workdir)
                        save_config(config, workdir / CONFIG_FILE)
                run.train(state, profile)
        except health.TrainingStopped as e:
            raise UserError(run.reason(e)) from None
    log(f"trained in {(time.monotonic() - started) / 60:.1f} minutes")


def replay_step(config: Config, workdir: Path, step: int) -> str:
    """What `replay.report` says of a step, from the state that it began with.

    That state is made again: from the last checkpoint before the step, or from the beginning.

    Raises:
      UserError: if the workdir does not hold this experiment, or the step is none of its steps.
    """
    check_config(config)
    if saved_config(config, workdir) is None:
        load_config(workdir / CONFIG_FILE)  # says that it is not a workdir
    if not 1 <= step <= config.train.steps:
        raise UserError(f"--step={step} is none of 1 … train.steps={config.train.steps}")
    corpus, valid = (corpora.load_split(config.data, split) for split in ("train", "valid"))
    devices = choose_devices(config)
    prepared = prepare(config, workdir, devices, corpus, valid, begun=True)
    data, state = prepared.data, prepared.create_state()
    with Checkpoints(workdir, keep=config.train.average_checkpoints) as checkpoints:
        state = checkpoints.restore_before(step, state)
    first_step = int(state.step)
    if not first_step:
        state = from_word_vectors(prepared, state)
    if first_step < step - 1:
        log(f"makes steps {first_step + 1} to {step - 1} again")
    train_step = prepared.compile_step()
    state, batches = devices.to_step(state), prepared.batches(first_step)
    for _ in range(first_step, step - 1):
        state, _ = train_step(state, next(batches))
    state = jax.device_get(devices.data_parallel.replicate(devices.from_step(state)))
    pairs = data.batch_pairs(step - 1)
    texts = lambda row: " | ".join(" → ".join(corpus.pairs[n]) for n in pairs[row])  # noqa: E731
    return replay.report(config, prepared.model, state, data.batch(step - 1), texts)


class Run:
    """The loop, with what happens around it: metrics, validation, checkpoints, an early end."""

    def __init__(self, prepared: Prepared, run_card: card.Card) -> None:
        self._prepared, self.card = prepared, run_card
        self._options = options = prepared.config.train
        # Grows with the validations, and decides which checkpoint is the best one.
        self._scores = bleu_scores(prepared.workdir)
        self._health = health.Health(options, self._on_skip)
        self._validate = Validation(prepared)
        self.checkpoints = Checkpoints(
            prepared.workdir,
            keep=options.average_checkpoints,
            every=options.checkpoint_every,
            keep_every=options.keep_every,
            scores=self._scores,
        )

    def first_state(self) -> TrainState:
        """The last checkpoint's; without one a new one, whose embeddings may be word vectors."""
        state = self.checkpoints.restore(self._prepared.create_state())
        return state if int(state.step) else from_word_vectors(self._prepared, state)

    def train(self, state: TrainState, profile: str | None) -> None:
        """From `state` to the last step, or to the step at which it is told to stop."""
        config, devices, options = self._prepared.config, self._prepared.devices, self._options
        first_step, parameters = int(state.step), count_parameters(state.params)
        log(
            f"{config.name}: {parameters:,} parameters, {options.steps} steps of "
            f"{config.data.batch_rows} rows, {devices.description}"
            + (f"; goes on from step {first_step}" if first_step else "")
        )
        step = self._prepared.compile_step()
        with self.begun(state):
            run_steps(
                devices.to_step(state),
                profiled(step, profile) if profile else step,
                self._prepared.batches(first_step),
                first_step=first_step,
                num_steps=options.steps,
                on_metrics=self.on_metrics,
                pauses_at=self._pauses_at,
                on_pause=self._on_pause,
            )

    @contextlib.contextmanager
    def begun(self, state: TrainState) -> Iterator[None]:
        """Within the block metrics are written; those of later steps than `state`'s are forgotten.

        A validation that `state` lacks, because the run was stopped before it, is made first.
        """
        options, first_step = self._options, int(state.step)
        self.card.begin(first_step, count_parameters(state.params))
        self._tracker = Tracker(
            self._prepared.workdir,
            first_step=first_step,
            num_steps=options.steps,
            log_every=options.log_every,
            tensorboard=options.tensorboard,
        )
        self._tracker.write_options(flatten(self._prepared.config))
        self._health.skipped = skipped_steps(self._prepared.workdir)
        with contextlib.closing(self._tracker):
            if first_step and first_step not in self._scores:
                self.evaluate(first_step, state)
            yield

    def on_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Takes those of each step. Raises health.TrainingStopped."""
        self._health.check(step, metrics)
        self._tracker.train_step(step, metrics | {"skipped": self._health.skipped})
        self.card.reached(step)

    def _pauses_at(self, step: int) -> bool:
        self._preempted = preemption.requested(step)
        return self._preempted or saves_at(step, self._options)

    def _on_pause(self, step: int, state: Any) -> None:
        state = self._prepared.devices.from_step(state)
        self.save(step, state)
        if self._preempted:
            raise Preempted(f"of {self._options.steps} steps, {self.saved()} are saved")
        self.evaluate(step, state)
        self.goes_on()

    def save(self, step: int, state: TrainState) -> None:
        """Begins to save `state`, after what was written of the steps so far."""
        self._tracker.flush()  # before the checkpoint from which a restart would go on
        self.checkpoints.save(step, state)

    def saved(self) -> int:
        """The step of the last checkpoint, once it is on disk; 0 = there is none."""
        self.checkpoints.wait()
        return max(self.checkpoints.steps(), default=0)

    def evaluate(self, step: int, state: TrainState) -> None:
        """If it is due. The state is saved already, and an interruption loses this alone."""
        every = self._options.evaluate_every
        if not every or (step != self._options.steps and step % every):
            return
        with preemption.immediate():
            metrics, samples = self._validate(state.params)
        self._tracker.write_samples(step, samples)
        self._tracker.write(step, {"valid": metrics})
        self._tracker.flush()
        self.card.validated(step, metrics)
        self._scores[step] = metrics["bleu"]
        said = "  ".join(f"valid {k} {v:.3f}" for k, v in metrics.items())
        log(f"step {step}  {said}")

    def goes_on(self) -> None:
        """After a pause, whose time is left out of the speed that is told."""
        self.card.update()
        self._tracker.restart_clock()

    def reason(self, stopped: health.TrainingStopped) -> str:
        """Why it stopped, and what there is to go back to."""
        self.checkpoints.wait()
        good = [step for step in self.checkpoints.steps() if step <= stopped.good_until][-1:]
        return f"{stopped}; the last good checkpoint is {good[0] if good else 'none'}"

    def _on_skip(self, step: int, reason: str) -> str:
        """Writes the batch of a step that was skipped, and says so."""
        prepared = self._prepared
        told = replay.write_batch(prepared.workdir, step, prepared.data, prepared.corpus.pairs)
        log(f"warning: step {step} is skipped: its {reason}; {told}")
        return told


def saves_at(step: int, options: TrainConfig) -> bool:
    """Whether a run pauses after that step, to save and perhaps to evaluate."""
    return step % options.checkpoint_every == 0 or step == options.steps


def from_word_vectors(prepared: Prepared, state: TrainState) -> TrainState:
    """A new state, whose embeddings are word vectors if the experiment names some."""
    config, devices = prepared.config.model, prepared.devices
    if not config.pretrained_embeddings:
        return state
    params, summary = word_vectors.initialise(
        jax.device_get(devices.data_parallel.replicate(state.params)),
        Path(config.pretrained_embeddings).expanduser(),
        prepared.tokenizers,
        stddev=config.embedding_stddev or config.d_model**-0.5,
    )
    log(summary)
    return devices.put_state(state.replace(params=params))


# On other devices, from text that moved, or reporting otherwise: the same experiment. Training
# longer is too, though a cosine schedule then is stretched.
# The languages decide how BLEU counts; a direction that they reverse is another text.
_FREE_OPTIONS = (
    *("name:", "demo:", "parallel.", "decode.", "data.path:"),
    *("data.source_language:", "data.target_language:"),
    *("train.steps:", "train.log_every:", "train.evaluate", "train.tensorboard:"),
    *("train.keep_every:", "train.max_skipped:", "train.divergence", "train.grace_seconds:"),
)


def saved_config(config: Config, workdir: Path) -> Config | None:
    """What `workdir` was made with, checked to be this experiment; None if it is new."""
    storage.check_workdir(workdir)
    path = workdir / CONFIG_FILE
    if not path.exists():
        if manifest.complete(workdir / manifest.FOLDER):
            raise UserError(
                f"{workdir} has checkpoints, but no {path.name} to say of what: bring it back, or "
                "choose another --workdir"
            )
        return None
    saved = load_config(path)
    free = _FREE_OPTIONS
    if saved.model.pretrained_embeddings and config.model.pretrained_embeddings:
        free += ("model.pretrained_embeddings:",)  # the file moved, which a checkpoint replaces
    differing = [d for d in differences(saved, config) if not d.startswith(free)]
    if differing and not manifest.complete(workdir / manifest.FOLDER):
        raise UserError(
            f"{workdir} was begun with other options ({'; '.join(differing)}) and has no "
            "checkpoint yet: remove it, or choose another --workdir"
        )
    refuse_differences(workdir, differing)
    return saved


def check_steps(step: int, config: Config, saved: Config | None, profile: str | None) -> None:
    """Says, or refuses, what cannot be meant by going on from `step`."""
    steps = config.train.steps
    if step > steps:
        raise UserError(
            f"train.steps={steps}, but {step} steps are made: give more, or another --workdir"
        )
    if profile and steps - step < PROFILED_CALLS:
        raise UserError(
            f"--profile needs {PROFILED_CALLS} steps, and {steps - step} are left to train"
        )
    stretched = saved and saved.train.steps != steps and config.optimizer.schedule == "cosine"
    if stretched and step:
        log(
            f"train.steps was {saved.train.steps} and is {steps}: the rest of the cosine schedule "
            "is stretched; one run of that length would have learned differently"
        )


def describe(config: Config) -> str:
    """The table of parameters: path, shape, number, and the total. Allocates nothing."""
    check_config(config)
    model = Transformer(config.model, config.data.vocab_size)
    params = parameter_shapes(model)
    rows = [
        ("/".join(k.key for k in path), str(x.shape), f"{int(np.prod(x.shape)):,}")
        for path, x in jax.tree_util.tree_leaves_with_path(params)
    ]
    rows.append(("total", "", f"{count_parameters(params):,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{name:{widths[0]}}  {shape:{widths[1]}}  {number:>{widths[2]}}"
        for name, shape, number in rows
    )
