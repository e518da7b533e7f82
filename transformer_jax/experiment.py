"""From a configuration to a trained workdir: what `--mode=train` and `--mode=describe` do.

A workdir is self-contained: config.json, tokenizer.model, checkpoints/, and what a run reports.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer_jax import config as configs
from transformer_jax import evaluation, parallel, storage, tracking, training
from transformer_jax.checkpoint import Checkpoints
from transformer_jax.config import CONFIG_FILE, Config, UserError
from transformer_jax.data import corpora, dataset, word_vectors
from transformer_jax.data.tokenizer import Tokenizers, train_tokenizers
from transformer_jax.model import NO_DROPOUT, Transformer
from transformer_jax.tracking import say
from transformer_jax.translation import Translator, first_best

DATA_FILE = "training_data.sha256"


def train(config: Config, workdir: Path, *, profile: str | None = None) -> None:
    """Trains in `workdir`, or goes on where its last checkpoint left off.

    Args:
      config: the experiment.
      workdir: made if need be.
      profile: a folder for a profiler trace of a few steps.
    """
    started = time.monotonic()
    configs.validate(config)
    saved = _saved_config(config, workdir)
    devices = parallel.choose(
        config.parallel, batch_rows=config.data.batch_rows, accumulate=config.train.accumulate
    )
    with parallel.writer_first():
        corpus = corpora.load_split(config.data, "train")
        valid = corpora.load_split(config.data, "valid")
        corpora.load_split(config.data, "test")  # missing? Now is better than after the training
        evaluation.warn_of_words([target for _, target in valid.pairs], config.data.target_language)
        storage.make_folder(workdir)
        tokenizers = _tokenizers(config, workdir, corpus.pairs)
        text = dataset.content_hash(corpus.pairs, tokenizers)
        _check_data(workdir, text, begun=saved is not None)
        data = _packed(config, workdir, tokenizers, corpus, "training")
        validation = _packed(config, workdir, tokenizers, valid, "validation")
    model = Transformer(config.model, tokenizers.target.vocab_size, tokenizers.source.vocab_size)
    validate = _Validation(config, model, tokenizers, valid, validation, devices.spread)
    checkpoints = Checkpoints(workdir, keep=config.train.average_checkpoints)
    try:
        state = _first_state(config, model, tokenizers, checkpoints, devices)
        _check_steps(int(state.step), config, saved, profile)
        if parallel.is_writer():  # last: from here on the workdir is this experiment's
            tokenizers.save(workdir)
            configs.save(config, workdir / CONFIG_FILE)
        _run(
            config,
            workdir,
            model,
            devices,
            state,
            data,
            checkpoints,
            validate,
            name_batch=lambda step: _name_batch(workdir, data, corpus.pairs, step),
            profile=profile,
        )
    except training.NonFiniteLoss as e:
        raise UserError(str(e)) from None
    finally:
        checkpoints.close()
    say(f"trained in {(time.monotonic() - started) / 60:.1f} minutes")


def _first_state(
    config: Config,
    model: Transformer,
    tokenizers: Tokenizers,
    checkpoints: Checkpoints,
    devices: parallel.Devices,
) -> training.TrainState:
    """The last checkpoint's; without one a new one, whose embeddings may be word vectors."""
    state = devices.create_state(lambda: training.create_state(config, model))
    c = config.model
    if checkpoints.steps() or not c.pretrained_embeddings:
        return checkpoints.restore(state)
    params, summary = word_vectors.initialise(
        jax.device_get(devices.spread.replicate(state.params)),
        Path(c.pretrained_embeddings).expanduser(),
        tokenizers,
        stddev=c.embedding_stddev or c.d_model**-0.5,
    )
    say(summary)
    return devices.put_state(state.replace(params=params))


def _run(
    config: Config,
    workdir: Path,
    model: Transformer,
    devices: parallel.Devices,
    state: training.TrainState,
    data: dataset.PackedDataset,
    checkpoints: Checkpoints,
    validate: "_Validation",
    *,
    name_batch: Callable[[int], str],
    profile: str | None,
) -> None:
    """The loop, with what happens around it: metrics, validation, checkpoints."""
    options = config.train
    first_step = int(state.step)
    say(
        f"{config.name}: {count_parameters(state.params):,} parameters, {options.steps} steps of "
        f"{config.data.batch_rows} rows, {devices.description}"
        + (f"; goes on from step {first_step}" if first_step else "")
    )
    tracker = tracking.Tracker(
        workdir,
        first_step=first_step,
        num_steps=options.steps,
        log_every=options.log_every,
        tensorboard=options.tensorboard,
    )

    def on_pause(step: int, state: Any) -> None:
        state, metrics, every = devices.from_step(state), None, options.evaluate_every
        if every and (step == options.steps or step % every == 0):
            metrics = validate(state.params)
            tracker.write(step, {"valid": metrics})
            say(f"step {step}  " + "  ".join(f"valid {k} {v:.3f}" for k, v in metrics.items()))
        tracker.flush()  # before the checkpoint from which a restart would go on
        checkpoints.save(step, state, metrics and metrics["bleu"])
        tracker.restart_clock()

    step = devices.compile(lambda *reduce: training.make_train_step(config, model, *reduce))
    try:
        training.train(
            devices.to_step(state),
            tracking.profiled(step, profile) if profile else step,
            _batches(data, devices, first_step),
            first_step=first_step,
            num_steps=options.steps,
            on_metrics=tracker.train_step,
            pauses_at=lambda step: step % options.checkpoint_every == 0 or step == options.steps,
            on_pause=on_pause,
            name_batch=name_batch,
        )
    finally:
        tracker.close()


# On other devices, from text that moved, or reporting otherwise: the same experiment. Training
# longer is too, though a cosine schedule then is stretched.
# The languages decide how BLEU counts; a direction that they reverse is another text.
_FREE_OPTIONS = (
    *("name:", "demo:", "parallel.", "decode.", "data.path:"),
    *("data.source_language:", "data.target_language:"),
    *("train.steps:", "train.log_every:", "train.evaluate", "train.tensorboard:"),
)


def _saved_config(config: Config, workdir: Path) -> Config | None:
    """What `workdir` was made with, checked to be this experiment; None if it is new."""
    path = workdir / CONFIG_FILE
    if not path.exists():
        return None
    saved = configs.load(path)
    free = _FREE_OPTIONS
    if saved.model.pretrained_embeddings and config.model.pretrained_embeddings:
        free += ("model.pretrained_embeddings:",)  # the file moved, which a checkpoint replaces
    differing = [d for d in configs.differences(saved, config) if not d.startswith(free)]
    if differing and not any((workdir / "checkpoints").glob("[0-9]*")):
        raise UserError(
            f"{workdir} was begun with other options ({'; '.join(differing)}) and has no "
            "checkpoint yet: remove it, or choose another --workdir"
        )
    configs.refuse_differences(workdir, differing)
    return saved


def _check_steps(step: int, config: Config, saved: Config | None, profile: str | None) -> None:
    """Says, or refuses, what cannot be meant by going on from `step`."""
    steps = config.train.steps
    if step > steps:
        raise UserError(
            f"train.steps={steps}, but {step} steps are made: give more, or another --workdir"
        )
    if profile and steps - step < tracking.PROFILED_CALLS:
        raise UserError(
            f"--profile needs {tracking.PROFILED_CALLS} steps, and {steps - step} are left to train"
        )
    stretched = saved and saved.train.steps != steps and config.optimizer.schedule == "cosine"
    if stretched and step:
        say(
            f"train.steps was {saved.train.steps} and is {steps}: the rest of the cosine schedule "
            "is stretched; one run of that length would have learned differently"
        )


def _check_data(workdir: Path, content_hash: str, *, begun: bool) -> None:
    """Refuses to go on training with another text; writes down which text it is."""
    path = workdir / DATA_FILE
    if begun and path.exists() and path.read_text().strip() != content_hash:
        raise UserError(
            f"the training text is not the one that {workdir} was trained on "
            f"({path.read_text().strip()} then, {content_hash} now): choose another --workdir"
        )
    if parallel.is_writer():
        configs.write_whole(path, content_hash + "\n")


def _tokenizers(config: Config, workdir: Path, pairs: Sequence[tuple[str, str]]) -> Tokenizers:
    """The workdir's tokenizers, or new ones, which `train` saves."""
    size, shared = config.data.vocab_size, config.data.shared_vocabulary
    if not Tokenizers.exist(workdir):
        return train_tokenizers(pairs, vocab_size=size, shared=shared)
    tokenizers = Tokenizers.load(workdir)
    for tokenizer in tokenizers:
        if tokenizer.vocab_size != size:
            raise UserError(
                f"the tokenizer in {workdir} has {tokenizer.vocab_size} pieces, but "
                f"data.vocab_size={size}"
            )
    if shared != (tokenizers.source.vocabulary == tokenizers.target.vocabulary):
        raise UserError(
            f"data.shared_vocabulary={shared}, but the tokenizers in {workdir} have "
            f"{'a vocabulary for each side' if shared else 'one vocabulary'}"
        )
    return tokenizers


def _packed(
    config: Config, workdir: Path, tokenizers: Tokenizers, corpus: corpora.Corpus, name: str
) -> dataset.PackedDataset:
    data = config.data
    with tracking.progress_bar(len(corpus.pairs), f"tokenizing {name}") as bar:
        tokens = dataset.tokenize_pairs(
            corpus.pairs, tokenizers, workdir / "tokens", progress=bar.update
        )
    plan = dataset.plan_packing(
        tokens.source_lengths,
        tokens.target_lengths,
        source_row_length=data.source_row_length,
        target_row_length=data.target_row_length,
    )
    if not plan.rows:
        raise UserError(
            f"none of {len(tokens)} pairs fits in rows of {data.source_row_length} and "
            f"{data.target_row_length} tokens: raise data.source_row_length, target_row_length"
        )
    packed = dataset.PackedDataset(tokens, plan, batch_rows=data.batch_rows, seed=config.seed)
    say(
        f"{name}: {len(plan.pairs):,} pairs in {plan.rows:,} rows, "
        f"{100 * packed.real_share:.1f} % of positions real"
        + (f"; {corpus.empty:,} pairs with an empty side left out" if corpus.empty else "")
        + (f"; {plan.too_long:,} pairs longer than a row left out" if plan.too_long else "")
    )
    return packed


def _batches(
    data: dataset.PackedDataset, devices: parallel.Devices, first_step: int
) -> Iterator[Any]:
    step = first_step
    while True:
        yield devices.put_batch(data.batch(step, devices.rows))
        step += 1


def _name_batch(
    workdir: Path, data: dataset.PackedDataset, pairs: Sequence[tuple[str, str]], step: int
) -> str:
    """Writes the pairs of a batch to a file, and says which."""
    # Packed pairs are numbered as the corpus is: both come from the same list.
    numbers = np.concatenate(data.batch_pairs(step - 1))
    path = workdir / f"batch_of_step_{step}.tsv"
    if parallel.is_writer():
        configs.write_whole(path, "".join("\t".join(pairs[n]) + "\n" for n in numbers))
    source, target = pairs[numbers[0]]
    return f"the {len(numbers)} pairs of its batch are in {path}; the first: {source} → {target}"


class _Validation:
    """Loss and greedy BLEU on the validation split; compiled at its first call."""

    def __init__(
        self,
        config: Config,
        model: Transformer,
        tokenizers: Tokenizers,
        split: corpora.Corpus,
        data: dataset.PackedDataset,
        rows: parallel.Rows,
    ) -> None:
        self._target_language = config.data.target_language
        self._pairs = split.pairs[: config.train.evaluate_sentences or None]
        self._rows, self._batches = rows, data.one_epoch()
        self._loss = rows.compile(lambda p, b: training.make_loss(model)(p, b, 0.0, NO_DROPOUT))
        greedy = dataclasses.replace(config.decode, method="greedy")
        self._translator = Translator([model], tokenizers, greedy, rows=rows)

    def __call__(self, params: Any) -> dict[str, float]:
        sums = [jax.device_get(self._loss(params, self._put(batch))) for batch in self._batches]
        loss = sum(s for s, _ in sums) / sum(counts["target_tokens"] for _, counts in sums)
        sources, references = zip(*self._pairs, strict=True)
        best = first_best(self._translator.translate([params], sources))
        bleu = evaluation.bleu(best, references, target_language=self._target_language)
        return {"loss": float(loss), "bleu": bleu}

    def _put(self, batch: dataset.Batch) -> dataset.Batch:
        # Rows of padding fill it up to what the devices divide.
        rows = self._rows.round_up(len(batch["row"])) - len(batch["row"])
        pad = lambda x: np.pad(x, ((0, rows), *[(0, 0)] * (x.ndim - 1)))  # noqa: E731
        return {name: self._rows.put(pad(x)) for name, x in batch.items()}


def count_parameters(params: Any) -> int:
    """The number of numbers in `params`."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))


def describe(config: Config) -> str:
    """The table of parameters: path, shape, number, and the total. Allocates nothing."""
    configs.validate(config)
    model = Transformer(config.model, config.data.vocab_size)
    params = jax.eval_shape(lambda: training.create_state(config, model)).params
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
