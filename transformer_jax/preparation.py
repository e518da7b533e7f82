"""An experiment's text, tokenized and packed: what training and replaying start from."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformer_jax import config as configs
from transformer_jax import parallel, tracking, training
from transformer_jax.config import Config, UserError
from transformer_jax.data import corpora, dataset
from transformer_jax.data.tokenizer import Tokenizers, train_tokenizers
from transformer_jax.model import Transformer
from transformer_jax.tracking import say

DATA_FILE = "training_data.sha256"


@dataclasses.dataclass
class Prepared:
    """An experiment with its text at hand, ready to be trained or replayed.

    Attributes:
      config, workdir: of the experiment.
      devices: what it runs on.
      tokenizers: the workdir's, or new ones.
      corpus: the training text.
      data: the same in packed rows.
      valid, validation: the validation text, and the same in packed rows.
      model: of the vocabularies' sizes.
      content_hash: of the training text and the tokenizers.
    """

    config: Config
    workdir: Path
    devices: parallel.Devices
    tokenizers: Tokenizers
    corpus: corpora.Corpus
    data: dataset.PackedDataset
    valid: corpora.Corpus
    validation: dataset.PackedDataset
    model: Transformer
    content_hash: str

    def create_state(self) -> training.TrainState:
        """A new state, where the devices keep it."""
        return self.devices.create_state(lambda: training.create_state(self.config, self.model))

    def compile_step(self) -> parallel.Step:
        """The training step, for these devices."""
        return self.devices.compile(
            lambda *reduce: training.make_train_step(self.config, self.model, *reduce)
        )

    def batches(self, first_step: int) -> Iterator[Any]:
        """The batch of each step after `first_step`, on the devices."""
        for step in itertools.count(first_step):
            yield self.devices.put_batch(self.data.batch(step, self.devices.rows))


def prepare(
    config: Config,
    workdir: Path,
    devices: parallel.Devices,
    corpus: corpora.Corpus,
    valid: corpora.Corpus,
    *,
    begun: bool,
) -> Prepared:
    """Tokenizes and packs the text, unless the workdir has that already.

    Args:
      config: validated.
      workdir: made, and held by this run.
      devices: what it runs on.
      corpus: the training text.
      valid: the validation text.
      begun: whether the workdir was trained in.

    Raises:
      UserError: if the text, or its vocabulary, is not the one that was trained on.
    """
    with parallel.writer_first():
        tokenizers = _tokenizers(config, workdir, corpus.pairs)
        text = dataset.content_hash(corpus.pairs, tokenizers)
        _check_data(workdir, text, begun=begun)
        data = _packed(config, workdir, tokenizers, corpus, "training")
        validation = _packed(config, workdir, tokenizers, valid, "validation")
    model = Transformer(config.model, tokenizers.target.vocab_size, tokenizers.source.vocab_size)
    return Prepared(
        config, workdir, devices, tokenizers, corpus, data, valid, validation, model, text
    )


def share(prepared: Prepared, config: Config, workdir: Path, *, begun: bool) -> Prepared:
    """Another run on the same text, which is not read, tokenized or packed again.

    Args:
      prepared: of a run whose `programs.program` is the same.
      config: validated; its seed decides the order of the batches.
      workdir: made, and held by this run.
      begun: whether the workdir was trained in.

    Raises:
      UserError: if the workdir has another vocabulary, or was trained on another text.
    """
    if Tokenizers.exist(workdir):
        models = [
            [t.model for t in each] for each in (Tokenizers.load(workdir), prepared.tokenizers)
        ]
        if models[0] != models[1]:
            raise UserError(
                f"the tokenizers in {workdir} and {prepared.workdir} differ, and what trains "
                "together has the same: choose another --workdir"
            )
    _check_data(workdir, prepared.content_hash, begun=begun)
    data, validation = (
        dataset.PackedDataset(d.pairs, d.plan, batch_rows=d.batch_rows, seed=config.seed)
        for d in (prepared.data, prepared.validation)
    )
    return dataclasses.replace(
        prepared, config=config, workdir=workdir, data=data, validation=validation
    )


def _check_data(workdir: Path, content_hash: str, *, begun: bool) -> None:
    """Refuses to go on training with another text; writes down which text it is."""
    path = workdir / DATA_FILE
    known = path.read_bytes().decode(errors="replace").strip() if path.exists() else ""
    if begun and not known:
        say(f"warning: {workdir} has no {path.name}: this text is taken for the one of before")
    elif begun and known != content_hash:
        raise UserError(
            f"the training text is not the one that {workdir} was trained on "
            f"({known} then, {content_hash} now): choose another --workdir"
        )
    if parallel.is_writer() and known != content_hash:
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
