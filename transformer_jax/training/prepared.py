"""An experiment's text, tokenized and packed: what training and replaying start from."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax.config.options import Config, DataConfig
from transformer_jax.console import log, progress_bar
from transformer_jax.data import corpora, held_out, mixture, text_record
from transformer_jax.data.batches import PackedDataset
from transformer_jax.data.epochs import Epochs, none_fits
from transformer_jax.data.packing import fit_a_row, plan_packing
from transformer_jax.data.subword_dropout import SubwordDropout
from transformer_jax.data.text_record import TextRecord
from transformer_jax.data.tokenizer import Tokenizers, train_tokenizers
from transformer_jax.data.tokens import TokenizedPairs, read_tokens, tokenize_pairs
from transformer_jax.errors import UserError
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel import processes
from transformer_jax.parallel.devices import Devices, Step
from transformer_jax.storage import write_whole
from transformer_jax.training import step as training_step
from transformer_jax.training.step import TrainState, make_train_step
from transformer_jax.workdir import parts
from transformer_jax.workdir.inheritance import parent_of

DATA_FILE = "training_data.sha256"
_TOKENS = "tokens"
EPOCH_ROWS_FILE = "epoch_rows.txt"  # only where epochs differ


@dataclasses.dataclass
class Prepared:
    """An experiment with its text at hand, ready to be trained or replayed.

    Attributes:
      config, workdir: of the experiment.
      devices: what it runs on.
      tokenizers: the workdir's, or new ones.
      data: the training text in packed rows.
      valid, validation: the validation text, and the same in packed rows.
      model: of the vocabularies' sizes.
    """

    config: Config
    workdir: Path
    devices: Devices
    tokenizers: Tokenizers
    data: PackedDataset
    valid: corpora.Corpus
    validation: PackedDataset
    model: Transformer

    def hashes(self) -> dict[str, Any]:
        """What names the texts and the saved tokenizers: hexadecimal digits of SHA-256."""
        text = self.workdir / DATA_FILE
        return {
            "training_text": text.read_text().strip() if text.exists() else None,
            "validation_text": self.valid.text_hash(),
            "trained_on": held_out.recorded_overlaps(self.workdir),
            "tokenizer": parts.tokenizer_hashes(self.workdir),
        }

    def create_state(self) -> TrainState:
        """A new state, where the devices keep it."""
        return self.devices.create_state(
            lambda: training_step.create_state(self.config, self.model)
        )

    def compile_step(self) -> Step:
        """The training step, compiled for these devices."""
        return self.devices.compile_step(partial(make_train_step, self.config, self.model))

    def batches(self, first_step: int) -> Iterator[Any]:
        """The batch of each step after `first_step`, on the devices."""
        for step in itertools.count(first_step):
            yield self.devices.put_batch(self.data.batch(step, self.devices.rows))


def prepare(
    config: Config,
    workdir: Path,
    devices: Devices,
    read: Callable[[], corpora.Corpus],
    valid: corpora.Corpus,
    *,
    resuming: bool,
) -> Prepared:
    """Tokenizes and packs the text; what the workdir has already is not done again.

    Args:
      config: validated.
      workdir: made, and held by this run.
      devices: what it runs on.
      read: returns the training text, read once; not called if the workdir has its tokens.
      valid: the validation text.
      resuming: whether the workdir was trained in.

    Raises:
      UserError: if the text, or its tokenizer, is not the one that was trained on.
    """
    parts.check_last(workdir)
    with processes.writer_first():
        if Tokenizers.exist(workdir) and not resuming:
            log(f"the tokenizer in {workdir} is used; none is trained")
        tokenizers = _tokenizers(config, workdir, read, resuming=resuming)
        _check_tags(config, tokenizers)
        text, tokens = _training_text(config.data, workdir, tokenizers, read, resuming=resuming)
        epochs = _epochs(config, workdir, tokenizers, tokens, text.origins, resuming=resuming)
        data = _packed(config, tokens, text.empty, "training", epochs)
        tokens = _tokens(workdir, tokenizers, valid, "validation")
        validation = _packed(config, tokens, valid.empty, "validation")
    model = Transformer(config.model, tokenizers.target.vocab_size, tokenizers.source.vocab_size)
    return Prepared(config, workdir, devices, tokenizers, data, valid, validation, model)


def _training_text(
    data: DataConfig,
    workdir: Path,
    tokenizers: Tokenizers,
    read: Callable[[], corpora.Corpus],
    *,
    resuming: bool,
) -> tuple[TextRecord, TokenizedPairs]:
    """What the training text is, and its tokens: as recorded, or as read now."""
    folder, raw_hash = workdir / _TOKENS, text_record.raw_hash(data, tokenizers)
    text = text_record.load(folder, raw_hash)
    tokens = read_tokens(folder / text.content_hash) if text else None
    if tokens is None:
        text = text_record.describe(read(), tokenizers, raw_hash)
    _check_text(workdir, text.content_hash, resuming=resuming)
    if tokens is None:
        tokens = _tokens(workdir, tokenizers, read(), "training", text.content_hash)
        if processes.is_writer():
            text_record.save(folder, text)
    return text, tokens


def _check_text(workdir: Path, content_hash: str, *, resuming: bool) -> None:
    """Refuses to resume with another text; records which text it is."""
    path = workdir / DATA_FILE
    known = path.read_bytes().decode(errors="replace").strip() if path.exists() else ""
    if resuming and not known:
        log(
            f"warning: {workdir} has no {path.name}: cannot verify the training text; assuming "
            "that it is unchanged"
        )
    elif resuming and known != content_hash:
        raise UserError(
            f"the training text is not the one that {workdir} was trained on "
            f"({known} then, {content_hash} now): choose another --workdir"
        )
    if processes.is_writer() and known != content_hash:
        write_whole(path, content_hash + "\n")


def new_tokenizers(data: DataConfig, pairs: Sequence[tuple[str, str]]) -> Tokenizers:
    """Tokenizers trained on `pairs` with the options of `data`."""
    return train_tokenizers(
        pairs,
        vocab_size=data.vocab_size,
        shared=data.shared_vocabulary,
        normalization=data.normalization,
        tags=corpora.tags(data),
    )


def _tokenizers(
    config: Config, workdir: Path, read: Callable[[], corpora.Corpus], *, resuming: bool
) -> Tokenizers:
    """The workdir's tokenizers, those of train.start_from, or new ones; `train` saves them."""
    size, shared = config.data.vocab_size, config.data.shared_vocabulary
    parent = parent_of(config)
    if not Tokenizers.exist(workdir):
        return Tokenizers.load(parent) if parent else new_tokenizers(config.data, read().pairs)
    tokenizers = Tokenizers.load(workdir)
    if parent:  # whose tokenizers may be of two sizes
        known = Tokenizers.exist(parent)  # a run that has begun needs its parent no longer
        if known and parts.tokenizer_hashes(workdir) != parts.tokenizer_hashes(parent):
            raise UserError(
                f"the tokenizer in {workdir} is not that of train.start_from={parent}: remove it, "
                "or choose another --workdir"
            )
        return tokenizers
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


def _check_tags(config: Config, tokenizers: Tokenizers) -> None:
    whose = config.train.start_from or "the workdir"
    for option in ("train", "valid", "test"):
        for tag in corpora.tags(config.data, option):
            if tag not in tokenizers.source.codes:
                raise UserError(
                    f"the tokenizer of {whose} would cut the tag {tag} of data.{option} into "
                    "pieces: leave the tag out, or train where no tokenizer exists, which then "
                    "learns the tags of data.train"
                )


def _tokens(
    workdir: Path,
    tokenizers: Tokenizers,
    corpus: corpora.Corpus,
    name: str,
    content_hash: str | None = None,
) -> TokenizedPairs:
    with progress_bar(len(corpus.pairs), f"tokenizing {name}") as bar:
        return tokenize_pairs(
            corpus.pairs, tokenizers, workdir / _TOKENS, name=content_hash, progress=bar.update
        )


def _epochs(
    config: Config,
    workdir: Path,
    tokenizers: Tokenizers,
    tokens: TokenizedPairs,
    origins: Mapping[str, int],
    *,
    resuming: bool,
) -> Epochs | None:
    """What each epoch of training is made of; None if all are made of `tokens`."""
    data, path = config.data, workdir / EPOCH_ROWS_FILE
    draw, dropout = _draw(config, origins, tokens), None
    if data.subword_dropout:
        source = SubwordDropout(tokenizers.source, data.subword_dropout)
        shared = tokenizers.target is tokenizers.source
        target = source if shared else SubwordDropout(tokenizers.target, data.subword_dropout)
        dropout = source, target
    if not (draw or dropout):
        return None
    # Recorded, so that a run that resumes need not make its first epoch again.
    recorded = path.read_bytes().strip()[:12] if resuming and path.exists() else b""
    rows = int(recorded) if recorded.isdigit() else 0
    epochs = Epochs(
        tokens,
        draw=draw,
        dropout=dropout,
        seed=config.seed,
        **_row_lengths(data),
        total_rows=config.train.steps * data.batch_rows,
        rows=rows if rows <= len(tokens) else 0,
    )
    if processes.is_writer() and rows != epochs.rows:
        write_whole(path, f"{epochs.rows}\n")
    return epochs


def _draw(
    config: Config, origins: Mapping[str, int], tokens: TokenizedPairs
) -> Callable[[int], np.ndarray] | None:
    """Which pairs of a mixture an epoch has; None if it has each pair once. Logs the counts."""
    data, weights = config.data, corpora.weights(config.data)
    if not weights:
        return None
    fits = fit_a_row(tokens.source_lengths, tokens.target_lengths, **_row_lengths(data))
    ends = np.cumsum([origins.get(name, 0) for name in weights])
    sizes = {n: int(part.sum()) for n, part in zip(weights, np.split(fits, ends[:-1]), strict=True)}
    counts = mixture.pairs_per_epoch(sizes, weights, data.mixing_temperature)
    total = sum(counts.values())
    for name, size in sizes.items():
        share = 100 * counts[name] / total
        log(f"training: {name}: {size:,} pairs, {counts[name]:,} in each epoch ({share:.1f} %)")
    if counts == sizes:
        return None
    numbers = np.flatnonzero(fits)
    return lambda epoch: numbers[mixture.draw(sizes, counts, config.seed, epoch)]


def _row_lengths(data: DataConfig) -> dict[str, int]:
    names = ("source_row_length", "target_row_length")
    return {name: getattr(data, name) for name in names}


def _packed(
    config: Config,
    tokens: TokenizedPairs,
    empty: int,
    name: str,
    epochs: Epochs | None = None,
) -> PackedDataset:
    data, row_lengths = config.data, _row_lengths(config.data)
    plan = plan_packing(tokens.source_lengths, tokens.target_lengths, **row_lengths)
    if not plan.rows:
        raise UserError(none_fits(len(tokens), **row_lengths))
    packed = PackedDataset(
        tokens, plan, batch_rows=data.batch_rows, seed=config.seed, epochs=epochs
    )
    log(
        f"{name}: {len(plan.pairs):,} pairs in {plan.rows:,} rows, "
        f"{100 * packed.real_share:.1f} % of positions real"
        + (f"; {empty:,} pairs with an empty side left out" if empty else "")
        + (f"; {plan.too_long:,} pairs longer than a row left out" if plan.too_long else "")
    )
    if epochs:
        log(
            f"{name}: each epoch has {epochs.rows:,} rows; data.subword_dropout="
            f"{data.subword_dropout:g}, data.mixing_temperature={data.mixing_temperature:g}"
        )
    return packed
