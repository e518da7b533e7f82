"""One function per mode of the launcher: what to do with a configuration and a workdir.

A workdir is self-contained: config.json, tokenizer.model, checkpoints/, and what a run reports.
"""

import dataclasses
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer_jax import config as configs
from transformer_jax import evaluation, parallel, tracking, training
from transformer_jax.checkpoint import Checkpoints
from transformer_jax.config import CONFIG_FILE, Config, UserError
from transformer_jax.data import corpora, dataset
from transformer_jax.data.tokenizer import Tokenizer, train_tokenizer
from transformer_jax.model import Dropout, Transformer
from transformer_jax.tracking import say
from transformer_jax.translation import Hypothesis, Translator

TOKENIZER_FILE = "tokenizer.model"


def train(config: Config, workdir: Path) -> None:
    """Trains in `workdir`, or goes on where its last checkpoint left off."""
    started = time.monotonic()
    configs.validate(config)
    begun = _open_workdir(config, workdir)
    corpus = corpora.load_split(config.data, "train")
    valid = corpora.load_split(config.data, "valid")
    corpora.load_split(config.data, "test")  # missing? Now is better than after the training
    tokenizer = _tokenizer(config, workdir, corpus.pairs, begun=begun)
    data = _packed(config, workdir, tokenizer, corpus, "training")
    model = Transformer(config.model, tokenizer.vocab_size)
    validate = _Validation(config, workdir, model, tokenizer, valid)
    # Last: from here on the workdir is this experiment's.
    configs.save(config, workdir / CONFIG_FILE)
    checkpoints = Checkpoints(workdir, keep=config.train.average_checkpoints)
    try:
        _run(config, workdir, model, data, checkpoints, validate)
    except training.NonFiniteLoss as e:
        pairs = _pairs_of_step(data, corpus.pairs, e.step)
        raise UserError(f"{e}; its batch begins with: {pairs}") from None
    finally:
        checkpoints.close()
    say(f"trained in {(time.monotonic() - started) / 60:.1f} minutes")


def _run(
    config: Config,
    workdir: Path,
    model: Transformer,
    data: dataset.PackedDataset,
    checkpoints: Checkpoints,
    validate: "_Validation",
) -> None:
    """The loop, with what happens around it: metrics, validation, checkpoints."""
    options = config.train
    devices = parallel.choose(
        config.parallel, batch_rows=config.data.batch_rows, accumulate=options.accumulate
    )
    state = checkpoints.restore(training.create_state(config, model))
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
        one, metrics = devices.one_copy(state), None
        every = options.evaluate_every
        if every and (step == options.steps or step % every == 0):
            metrics = validate(one.params)
            tracker.write(step, {"valid": metrics})
            say(f"step {step}  " + "  ".join(f"valid {k} {v:.3f}" for k, v in metrics.items()))
        checkpoints.save(step, one, metrics and metrics["bleu"])
        tracker.restart_clock()

    try:
        training.train(
            devices.put_state(state),
            devices.compile(lambda *reduce: training.make_train_step(config, model, *reduce)),
            _batches(data, devices, first_step),
            first_step=first_step,
            num_steps=options.steps,
            on_metrics=tracker.train_step,
            pauses_at=lambda step: step % options.checkpoint_every == 0 or step == options.steps,
            on_pause=on_pause,
            one_copy=devices.one_copy,
        )
    finally:
        tracker.close()


# Training longer, or on other devices, or reporting otherwise, is the same experiment.
_FREE_OPTIONS = (
    *("name:", "demo:", "parallel.", "decode."),
    *("train.steps:", "train.log_every:", "train.evaluate", "train.tensorboard:"),
)


def _open_workdir(config: Config, workdir: Path) -> bool:
    """Makes the workdir, or checks that it is this experiment's; whether that has begun."""
    path = workdir / CONFIG_FILE
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "tokens").mkdir(exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot write to {workdir}: {e.strerror}") from None
    if not path.exists():
        return False
    differing = configs.differences(configs.load(path), config)
    differing = [d for d in differing if not d.startswith(_FREE_OPTIONS)]
    if differing:
        raise UserError(
            f"{workdir} holds another experiment ({'; '.join(differing)}): "
            "choose another --workdir, or give the options it was made with"
        )
    return True


def _tokenizer(
    config: Config, workdir: Path, pairs: Sequence[tuple[str, str]], *, begun: bool
) -> Tokenizer:
    path = workdir / TOKENIZER_FILE
    if begun:
        return Tokenizer.load(path)
    texts = (text for pair in pairs for text in pair)
    tokenizer = train_tokenizer(texts, vocab_size=config.data.vocab_size)
    tokenizer.save(path)
    return tokenizer


def _packed(
    config: Config, workdir: Path, tokenizer: Tokenizer, corpus: corpora.Corpus, name: str
) -> dataset.PackedDataset:
    data = config.data
    with tracking.progress_bar(len(corpus.pairs), f"tokenizing {name}") as bar:
        tokens = dataset.tokenize_pairs(
            corpus.pairs, tokenizer, workdir / "tokens", progress=bar.update
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
        yield devices.put_batch(data.batch(step))
        step += 1


def _pairs_of_step(data: dataset.PackedDataset, pairs: Sequence[tuple[str, str]], step: int) -> str:
    numbers = np.concatenate(data.batch_pairs(step - 1))[:3]
    return "; ".join(f"{pairs[n][0]!r} → {pairs[n][1]!r}" for n in numbers)


class _Validation:
    """Loss and greedy BLEU on the validation split; compiled at its first call."""

    def __init__(
        self,
        config: Config,
        workdir: Path,
        model: Transformer,
        tokenizer: Tokenizer,
        split: corpora.Corpus,
    ) -> None:
        self._target_language = config.data.target_language
        self._pairs = split.pairs[: config.train.evaluate_sentences or None]
        self._batches = _packed(config, workdir, tokenizer, split, "validation").one_epoch()
        self._loss = jax.jit(lambda p, b: training.make_loss(model)(p, b, 0.0, Dropout()))
        greedy = dataclasses.replace(config.decode, method="greedy")
        self._translator = Translator(model, tokenizer, greedy)

    def __call__(self, params: Any) -> dict[str, float]:
        sums = [jax.device_get(self._loss(params, batch)) for batch in self._batches]
        loss = sum(s for s, _ in sums) / sum(counts["target_tokens"] for _, counts in sums)
        sources, references = zip(*self._pairs, strict=True)
        best = first_best(self._translator.translate(params, sources))
        bleu = evaluation.bleu(best, references, target_language=self._target_language)
        return {"loss": float(loss), "bleu": bleu}


def first_best(hypotheses: Iterable[Sequence[Hypothesis]]) -> list[str]:
    """The best text of each sentence; "" where there is none."""
    return [h[0].text if h else "" for h in hypotheses]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a workdir alone gives: everything to translate with."""

    config: Config
    translator: Translator
    params: Any
    steps: list[int]

    def translate(self, sentences: Sequence[str]) -> list[list[Hypothesis]]:
        """See `Translator.translate`."""
        return self.translator.translate(self.params, sentences)


def load(config: Config, workdir: Path, *, weights: str) -> Trained:
    """Loads tokenizer and weights from `workdir`; `config` is the workdir's own, or changed.

    Raises:
      UserError: if something is missing or damaged.
    """
    configs.validate(config)
    tokenizer = Tokenizer.load(workdir / TOKENIZER_FILE)
    model = Transformer(config.model, tokenizer.vocab_size)
    shapes = jax.eval_shape(lambda: training.create_state(config, model)).params
    checkpoints = Checkpoints(workdir, keep=config.train.average_checkpoints)
    params, steps = checkpoints.restore_params(shapes, weights)
    checkpoints.close()
    translator = Translator(model, tokenizer, config.decode, seed=config.seed)
    return Trained(config, translator, params, steps)


def evaluate(config: Config, workdir: Path, *, split: str, weights: str) -> evaluation.Scores:
    """Translates a split, prints its scores and some sentences, and writes them to the workdir."""
    trained = load(config, workdir, weights=weights)
    pairs = corpora.load_split(config.data, split).pairs
    sources, references = map(list, zip(*pairs, strict=True))
    with tracking.progress_bar(len(sources), f"translating {split}") as bar:
        found = trained.translator.translate(trained.params, sources, progress=bar.update)
    translations = first_best(found)
    scores = evaluation.score(translations, references, target_language=config.data.target_language)
    folder = workdir / "evaluation" / split
    evaluation.write_report(
        folder, scores, sources, translations, references, split=split, steps=trained.steps
    )
    shown = np.random.default_rng(0).choice(len(pairs), size=min(10, len(pairs)), replace=False)
    rows = [[side[n] for n in sorted(shown)] for side in (sources, translations, references)]
    print(f"\n{split}, weights {weights} of step {', '.join(map(str, trained.steps))}")
    print(evaluation.side_by_side(*rows))
    print(f"{scores}\n(all of them: {folder}/translations.tsv)")
    return scores


def demo(config: Config, workdir: Path) -> None:
    """Translates `config.demo`, and says how to translate more."""
    if not config.demo:
        return
    trained = load(config, workdir, weights="average")
    print(f"\n{config.demo} → {first_best(trained.translate([config.demo]))[0]}")
    print("Translate your own text:")
    print(f"  echo {config.demo} | python launch.py --mode=translate --workdir={workdir}")


def translate(
    config: Config,
    workdir: Path,
    input_file: str | None,
    output_file: str | None,
    *,
    weights: str,
    n_best: int,
) -> None:
    """Translates every line of the input to a line of the output; with a terminal, one by one.

    Args:
      config: the workdir's.
      workdir: a trained one.
      input_file: sentences, one a line; None = standard input.
      output_file: line k is the translation of line k; written whole or not at all. None =
        standard output.
      weights: see `Checkpoints.restore_params`.
      n_best: how many translations of each; more than 1 gives lines "score<TAB>text".

    Raises:
      UserError: if the search gives fewer than `n_best`, or a file cannot be read or written.
    """
    decode = config.decode
    most = decode.beam_size if decode.method == "beam" else 1
    if n_best > most:
        raise UserError(
            f"--n_best={n_best} is more than decode.method={decode.method!r} gives with "
            f"decode.beam_size={decode.beam_size}: at most {most}"
        )
    if output_file and not Path(output_file).parent.is_dir():
        raise UserError(f"cannot write {output_file}: there is no such folder")
    if input_file is None and sys.stdin.isatty():
        _prompt(load(config, workdir, weights=weights), n_best)
        return
    sentences = corpora.read_lines(Path(input_file)) if input_file else _standard_input()
    trained = load(config, workdir, weights=weights)
    with tracking.progress_bar(len(sentences), "translating") as bar:
        found = trained.translator.translate(trained.params, sentences, progress=bar.update)
    for number, hypotheses in enumerate(found, start=1):
        if not hypotheses:
            say(f"line {number}: too long to translate, left empty")
    text = "".join(_format(hypotheses, n_best) for hypotheses in found)
    if output_file is None:
        sys.stdout.write(text)
    else:
        configs.write_whole(Path(output_file), text)


def _standard_input() -> list[str]:
    return corpora.split_lines(sys.stdin.buffer.read(), "standard input")


def _prompt(trained: Trained, n_best: int) -> None:
    data = trained.config.data
    say(f"{data.source_language} → {data.target_language}; an empty line ends")
    trained.translate([trained.config.demo or "a"])  # compiles before the first question
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        if not line:
            return
        print(_format(trained.translate([line])[0], n_best), end="")


def _format(hypotheses: Sequence[Hypothesis], n_best: int) -> str:
    if n_best == 1:
        return (hypotheses[0].text if hypotheses else "") + "\n"
    return "".join(f"{h.score:.4f}\t{h.text}\n" for h in hypotheses[:n_best])


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
