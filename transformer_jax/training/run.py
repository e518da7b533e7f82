"""A run: from a configuration to a trained workdir.

A workdir is self-contained: config.json, tokenizer.model, checkpoints/, and what a run reports.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from transformer_jax import storage
from transformer_jax.config.checks import check_config
from transformer_jax.config.files import (
    CONFIG_FILE,
    differences,
    in_words,
    load_config,
    refuse_differences,
    save_config,
)
from transformer_jax.config.metadata import Change
from transformer_jax.config.options import Config, DataConfig, TrainConfig, flatten
from transformer_jax.console import log
from transformer_jax.data import corpora, held_out
from transformer_jax.data.splitting import NothingToTrainOnError
from transformer_jax.errors import Preempted, UserError
from transformer_jax.evaluation.languages import reference_warnings
from transformer_jax.evaluation.scores import bleu_signature
from transformer_jax.inference.trained import Model
from transformer_jax.inference.weights import load_weights, mean_weights
from transformer_jax.model.size import count_parameters, step_flops
from transformer_jax.parallel import processes
from transformer_jax.parallel.devices import all_devices, choose_devices
from transformer_jax.training import health, preemption, selection
from transformer_jax.training.loop import run_steps
from transformer_jax.training.prepared import Prepared, new_tokenizers, prepare
from transformer_jax.training.profile import PROFILED_CALLS, profiled
from transformer_jax.training.start import begin
from transformer_jax.training.step import TrainState
from transformer_jax.training.validation import Validation
from transformer_jax.workdir import average, card, lock, manifest
from transformer_jax.workdir.checkpoints import (
    Checkpoints,
    by_score,
    regular,
    undamaged,
)
from transformer_jax.workdir.inheritance import inherit, parent_of
from transformer_jax.workdir.metrics import (
    METRICS_FILE,
    bleu_scores,
    read_metrics,
    skipped_steps,
    validations,
)
from transformer_jax.workdir.tracking import Tracker


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What `train` returns.

    Attributes:
      model: the trained model.
      metrics: the rows of metrics.jsonl, {"step": …, "train": {…}} or {"step": …, "valid": {…}}.
    """

    model: Model
    metrics: list[dict[str, Any]]


def train(
    config: Config, workdir: str | Path, *, weights: str = "average", profile: str | None = None
) -> TrainedRun:
    """Trains in `workdir`, or resumes from its last checkpoint.

    Args:
      config: the experiment. With train.start_from, the architecture and the vocabulary are those
        of that run.
      workdir: created if need be; one run at a time trains there.
      weights: which checkpoints the returned model is made of; see `load`.
      profile: a folder for a profiler trace of a few steps.

    Raises:
      UserError: if the workdir holds another experiment, the text is missing, or the training
        diverges.
      Preempted: when a signal asked for it; see `preemption`.
    """
    started, workdir = time.monotonic(), storage.path(str(workdir))
    config = inherit(check_config(config), workdir)
    saved_config(config, workdir)  # a mistake is reported before anything is read
    devices = choose_devices(config)
    with processes.writer_first():
        read, splits = load_text(config, workdir)
    with lock.held(workdir):
        saved = saved_config(config, workdir)
        prepared = prepare(
            config, workdir, devices, read, splits["valid"], resuming=saved is not None
        )
        if "test" in splits and processes.is_writer():
            held_out.record(workdir, config.data, splits | {"train": read()}, parent_of(config))
        del read, splits  # a file as large as the text, which only the tokenizer reads
        driver = Driver(prepared, card.Card(workdir, since=started))
        try:
            with preemption.deferred(), driver.card, driver.checkpoints:
                with preemption.immediate():
                    state = driver.first_state()
                    shapes = jax.eval_shape(lambda params: params, state.params)
                    check_steps(int(state.step), config, saved, profile)
                    if processes.is_writer():  # last: from here on the workdir is this experiment's
                        prepared.tokenizers.save(workdir)
                        save_config(config, workdir / CONFIG_FILE)
                driver.train(state, profile)
        except health.TrainingStopped as e:
            raise UserError(driver.explain(e)) from None
    log(f"trained in {(time.monotonic() - started) / 60:.1f} minutes")
    processes.barrier("trained")  # the writer completes the last checkpoint, and all read the same
    # As `load` does, which would read the tokenizers and trace the model again.
    params, steps = load_weights(workdir, config.train, weights, shapes, all_devices().replicated)
    model = Model((workdir,), config, prepared.tokenizers, (prepared.model,), (params,), (steps,))
    return TrainedRun(model, read_metrics(workdir / METRICS_FILE))


def load_text(
    config: Config, workdir: Path
) -> tuple[Callable[[], corpora.Corpus], dict[str, corpora.Corpus]]:
    """What reads the training text, once, and the validation text.

    If they are not recorded, the training text is read now, and the test text too.
    """
    if (workdir / CONFIG_FILE).exists() and held_out.exists(workdir):
        valid, _ = held_out.load_split([workdir], config.data, "valid")
        read, splits = lambda: corpora.load_split(config.data, "train"), {"valid": valid}
    else:
        try:
            splits = corpora.load_splits(config.data, ["train", "valid", "test"])
        except NothingToTrainOnError as e:
            raise UserError(f"{e}{_too_large_vocabulary(config.data, e.fitting)}") from None
        train = splits.pop("train")
        read = lambda: train  # noqa: E731
    references = [target for _, target in splits["valid"].pairs]
    for warning in reference_warnings(references, config.data.target_language):
        log(warning)
    return functools.cache(read), splits


def _too_large_vocabulary(data: DataConfig, held_out_size: int) -> str:
    """ "; …", what is wrong with data.vocab_size too, if fewer pairs were held out; or ""."""
    if not held_out_size:
        return ""
    smaller = dataclasses.replace(data, held_out_size=held_out_size)
    try:
        new_tokenizers(data, corpora.load_split(smaller, "train").pairs)
    except UserError as e:
        return f"; {e}"
    return ""


class Driver:
    """The loop, with what happens around it: metrics, validation, checkpoints, an early end."""

    def __init__(self, prepared: Prepared, run_card: card.Card) -> None:
        self._prepared, self.card = prepared, run_card
        self._options = options = prepared.config.train
        reach = (options.average_checkpoints - 1) // 2
        # Grows with the validations, and decides which checkpoint is the best one.
        self._scores = bleu_scores(prepared.workdir)
        self._health = health.Health(options, self._on_skip)
        self._validate = Validation(prepared)
        self._parent: dict[str, Any] | None = None  # what a run that begins has of another
        self.checkpoints = Checkpoints(
            prepared.workdir,
            keep=options.average_checkpoints,
            every=options.checkpoint_every,
            keep_every=options.keep_every,
            scores=self._scores,
            around_best=options.choose_average * options.checkpoint_every * reach,
        )

    def first_state(self) -> TrainState:
        """The last checkpoint's; without one a new one."""
        new = self._prepared.create_state()
        state = self.checkpoints.restore(new)
        if state is new:
            state, self._parent = begin(self._prepared, new)
        return state

    def train(self, state: TrainState, profile: str | None) -> None:
        """Trains from `state` to the last step, unless validation or a signal ends it before."""
        config, devices, options = self._prepared.config, self._prepared.devices, self._options
        first_step, parameters = int(state.step), count_parameters(state.params)
        log(
            f"{config.name}: {parameters:,} parameters, {options.steps} steps of "
            f"{config.data.batch_rows} rows, {devices.description}"
            + (f"; resuming from step {first_step}" if first_step else "")
        )
        step = self._prepared.compile_step()
        with self._tracking(state):
            if not self._is_over(first_step):
                run_steps(
                    devices.to_step(state),
                    profiled(step, profile) if profile else step,
                    self._prepared.batches(first_step),
                    first_step=first_step,
                    num_steps=options.steps,
                    on_metrics=self._on_metrics,
                    pauses_at=self._pauses_at,
                    on_pause=self._on_pause,
                )
            if options.choose_average:
                self._choose_average(state.params)

    @contextlib.contextmanager
    def _tracking(self, state: TrainState) -> Iterator[None]:
        """Writes metrics within the block, after removing the rows of steps later than `state`.

        A validation that is missing, because the run stopped before it, comes first; so does one
        of the weights that the run starts from.
        """
        options, first_step = self._options, int(state.step)
        config = self._prepared.config
        about = card.About(
            seed=config.seed,
            parameters=count_parameters(state.params),
            step_flops=step_flops(config)[0],
            hashes=self._prepared.hashes(),
            tokens_seen=self._prepared.data.tokens_seen,
            validation_bleu=f"greedy, {bleu_signature(config.data.target_language)}",
            parent=self._parent,
        )
        self.card.begin(first_step, about)
        if self._parent:  # from here on the run does without it
            self.checkpoints.save(first_step, state)
        self._tracker = Tracker(
            self._prepared.workdir,
            first_step=first_step,
            num_steps=options.steps,
            log_every=options.log_every,
            tensorboard=options.tensorboard,
        )
        self._tracker.write_options(flatten(config))
        self._health.skipped = skipped_steps(self._prepared.workdir)
        found = validations(self._prepared.workdir)
        self._validations = {s: scores for s, scores in found.items() if s <= first_step}
        with contextlib.closing(self._tracker):
            starts_untrained = not first_step and not options.start_from
            if not starts_untrained and first_step not in self._scores:
                self._evaluate(first_step, state)
            yield

    def _on_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Takes the metrics of each step. Raises health.TrainingStopped."""
        self._health.check(step, metrics)
        self._tracker.train_step(step, metrics | {"skipped": self._health.skipped})
        self.card.reached(step)

    def _pauses_at(self, step: int) -> bool:
        self._preempted = preemption.requested(step)
        return self._preempted or saves_at(step, self._options)

    def _on_pause(self, step: int, state: Any) -> bool:
        """Saves, and validates if it is due. Returns whether the training is over."""
        state = self._prepared.devices.from_step(state)
        self._tracker.flush()  # before the checkpoint from which a restart would resume
        self.checkpoints.save(step, state)
        if self._preempted:
            self.checkpoints.wait()
            saved = max(self.checkpoints.steps(), default=0)
            raise Preempted(f"of {self._options.steps} steps, {saved} are saved")
        self._evaluate(step, state)
        self.card.update()
        self._tracker.restart_clock()  # the speed that is reported excludes pauses
        return self._is_over(step)

    def _is_over(self, step: int) -> bool:
        """Whether train.patience ends the training at `step`, by its validations alone."""
        patience, waited = self._options.patience, selection.waited(self._validations)
        if not patience or waited < patience:
            return False
        log(
            f"step {step}: the last {waited} validations improved neither BLEU nor loss "
            f"(train.patience={patience}): the training ends here"
        )
        return True

    def _choose_average(self, like: Any) -> None:
        """Validates averages of the run's checkpoints and records the best, unless that is done.

        They have the shapes of `like`, whose arrays may be deleted.
        """
        self.checkpoints.wait()
        processes.barrier("all checkpoints are written")
        workdir, steps = self._prepared.workdir, self.checkpoints.steps()
        if average.chosen(workdir, steps):
            return
        where = self._prepared.devices.data_parallel.replicated
        every = self._options.checkpoint_every
        whole = undamaged(workdir, regular(steps, every), len(steps), below="params/")
        if not whole:  # `load_weights`, which is next, raises
            return
        averages = selection.candidates(
            whole,
            number=self._options.average_checkpoints,
            best=next(reversed(by_score(whole, self._scores)), None),
        )
        validate = lambda s: self._validate(mean_weights(workdir, s, like, where))[0]  # noqa: E731
        with preemption.immediate():
            rows = selection.choose(averages, validate)
        with processes.writer_first():
            if processes.is_writer():
                average.record(workdir, steps[-1], rows)
        log(
            f"validation chose the average of {', '.join(map(str, rows[0]['steps']))} "
            f"(BLEU {rows[0]['bleu']:.2f}) out of {len(rows)} averages"
        )

    def _evaluate(self, step: int, state: TrainState) -> None:
        """Validates if it is due. The state is saved already: an interruption loses only this."""
        every = self._options.evaluate_every
        if not every or (step != self._options.steps and step % every):
            return
        with preemption.immediate():
            metrics, samples = self._validate(state.params)
        self._tracker.write_samples(step, samples)
        self._tracker.write(step, {"valid": metrics})
        self._tracker.flush()
        self._scores[step], self._validations[step] = metrics["bleu"], metrics
        values = "  ".join(f"valid {name} {value:.3f}" for name, value in metrics.items())
        log(f"step {step}  {values}")

    def explain(self, stopped: health.TrainingStopped) -> str:
        """Why the training stopped, and which checkpoint is the last good one."""
        self.checkpoints.wait()
        good = [step for step in self.checkpoints.steps() if step <= stopped.good_until][-1:]
        return f"{stopped}; the last good checkpoint is {good[0] if good else 'none'}"

    def _on_skip(self, step: int, reason: str) -> str:
        """Logs that a step is skipped; returns how to look closer."""
        closer = f"--mode=replay --step={step} shows its rows"
        log(f"warning: step {step} is skipped because its {reason}; {closer}")
        return closer


def saves_at(step: int, options: TrainConfig) -> bool:
    """Whether a run pauses after that step, to save and perhaps to evaluate."""
    return step % options.checkpoint_every == 0 or step == options.steps


def saved_config(config: Config, workdir: Path) -> Config | None:
    """What `workdir` was made with, checked to be this experiment; None if it is new."""
    storage.check_workdir(workdir)
    path = workdir / CONFIG_FILE
    if not path.exists():
        if manifest.complete(workdir / manifest.FOLDER):
            raise UserError(
                f"{workdir} has checkpoints, but no {path.name} that describes them: restore "
                "it, or choose another --workdir"
            )
        return None
    saved = load_config(path)
    differing = differences(flatten(saved), flatten(config), Change.ON_RESUME)
    imported = saved.data.corpus == "files" and not saved.data.train  # it names no text
    if differing and imported and manifest.complete(workdir / manifest.FOLDER):
        raise UserError(
            f"{workdir} holds an imported model: to train it on, choose another --workdir and give "
            f"--config.train.start_from={workdir}"
        )
    if differing and not manifest.complete(workdir / manifest.FOLDER):
        raise UserError(
            f"{workdir} was created with other options ({in_words(differing)}) and has no "
            "checkpoint yet: remove it, or choose another --workdir"
        )
    refuse_differences(workdir, differing)
    return saved


def check_steps(step: int, config: Config, saved: Config | None, profile: str | None) -> None:
    """Checks that training can continue from `step`, and warns if the schedule is stretched."""
    steps = config.train.steps
    if step > steps:
        raise UserError(
            f"train.steps={steps}, but {step} steps are done: give more, or another --workdir"
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
