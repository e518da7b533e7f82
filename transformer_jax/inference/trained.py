"""A trained model, as a workdir alone gives it: translate, score and encode text."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import jax
import numpy as np

from transformer_jax import storage
from transformer_jax.config.checks import check_config
from transformer_jax.config.files import CONFIG_FILE, differences, load_config, refuse_differences
from transformer_jax.config.metadata import Change
from transformer_jax.config.options import Config, DecodeConfig, flatten
from transformer_jax.data.tokenizer import Tokenizers
from transformer_jax.errors import UserError
from transformer_jax.inference import choice
from transformer_jax.inference.batching import bucket, padded
from transformer_jax.inference.capture import Capture
from transformer_jax.inference.record import Inside
from transformer_jax.inference.scorer import Scorer, TokenScores
from transformer_jax.inference.translator import Hypothesis, Translator
from transformer_jax.inference.weights import load_step, load_weights
from transformer_jax.model.size import parameter_shapes
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel.devices import all_devices
from transformer_jax.workdir import parts

Progress = Callable[[int], None]
# A translation that is asked for with `n_best` or `return_scores`.
Found = str | Hypothesis | None | list[str] | list[Hypothesis]


def _silent(count: int) -> None:
    """Shows no progress."""


@dataclasses.dataclass(frozen=True)
class Model:
    """Everything to translate with; of several workdirs, an ensemble.

    Attributes:
      workdirs: where the models were trained.
      config: of the first workdir, whose decode options are used.
      tokenizers: of the first workdir; the others have the same vocabularies.
      transformers: one module for each workdir.
      all_params: the parameters of each.
      steps: for each, the steps of the checkpoints that its parameters are the mean of.
      reverse: a model of the other direction, for decode.choose="reverse".
    """

    workdirs: tuple[Path, ...]
    config: Config
    tokenizers: Tokenizers
    transformers: tuple[Transformer, ...]
    all_params: tuple[Any, ...]
    steps: tuple[list[int], ...]
    reverse: "Model | None" = None

    @property
    def transformer(self) -> Transformer:
        """The module of a single model; of an ensemble, the first one's."""
        return self.transformers[0]

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters of `transformer`."""
        return self.all_params[0]

    def apply(self, *args: Any, **options: Any) -> Any:
        """Calls `transformer.apply` with `params`: logits of tokens, or any `method`."""
        return self.transformer.apply({"params": self.params}, *args, **options)

    @functools.cached_property
    def translator(self) -> Translator:
        """The searches, which compile once for each shape, and the choice among what they find."""
        given = self.transformers, self.tokenizers, self.config.decode
        how = {"seed": self.config.seed, "devices": all_devices()}
        rank = choice.rule(self.config, self.reverse and self.reverse.score)
        return choice.Chooser(*given, rank=rank, **how) if rank else Translator(*given, **how)

    @functools.cached_property
    def scorer(self) -> Scorer:
        """The scoring of given translations, compiled likewise."""
        how = {"target_token": self.config.decode.target_token, "devices": all_devices()}
        return Scorer(self.transformers, self.tokenizers, **how)

    def fingerprint(self) -> str:
        """Identifies what decides a translation: hexadecimal digits of SHA-256."""
        return _fingerprint(self)

    def hypotheses(
        self,
        sentences: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        n_best: int | None = None,
        progress: Progress = _silent,
    ) -> list[list[Hypothesis]]:
        """The n best translations of each sentence (None = all): see `Translator.translate`."""
        return self.translator.translate(
            self.all_params, sentences, prefixes=prefixes, n_best=n_best, progress=progress
        )

    def as_found(
        self,
        sentences: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        n_best: int | None = None,
        done: Container[int] = (),
        first: int = 0,
    ) -> Iterator[tuple[list[int], list[list[Hypothesis]]]]:
        """The same, as it is found; see `Translator.as_found`."""
        how = {"prefixes": prefixes, "n_best": n_best, "done": done, "first": first}
        return self.translator.as_found(self.all_params, sentences, **how)

    @overload
    def translate(self, text: str) -> str: ...
    @overload
    def translate(self, text: Sequence[str]) -> list[str]: ...
    @overload
    def translate(self, text: str, *, n_best: int = 1, return_scores: bool = False) -> Found: ...
    @overload
    def translate(
        self, text: Sequence[str], *, n_best: int = 1, return_scores: bool = False
    ) -> list[Found]: ...
    def translate(
        self, text: str | Sequence[str], *, n_best: int = 1, return_scores: bool = False
    ) -> Found | list[Found]:
        """Translates a sentence, or each of a list.

        Args:
          text: raw text.
          n_best: how many translations of each sentence to return; more than 1 returns a list for
            each, best first, which is shorter where the search found fewer; when sampling, as many
            samples, in the order in which they are drawn, unless decode.choose ranks them. More
            than the search returns is a UserError.
          return_scores: return each translation as a `Hypothesis`, with its score, log-probability
            (nats) and pieces, instead of a string.

        Returns:
          A string (with `n_best` a list, with `return_scores` a `Hypothesis`), or a list of these.
          A sentence that is too long gives "" (None with `return_scores`).
        """
        check_n_best(self.config.decode, n_best)
        texts = [text] if isinstance(text, str) else list(text)
        found = self.hypotheses(texts, n_best=n_best)
        rows = [row if return_scores else [h.text for h in row] for row in found]
        nothing = None if return_scores else ""
        results = [row[:n_best] if n_best > 1 else row[0] if row else nothing for row in rows]
        return results[0] if isinstance(text, str) else results

    @overload
    def score(self, sources: str, targets: str) -> TokenScores | None: ...
    @overload
    def score(
        self, sources: Sequence[str], targets: Sequence[str], *, progress: Progress = _silent
    ) -> list[TokenScores | None]: ...
    def score(
        self,
        sources: str | Sequence[str],
        targets: str | Sequence[str],
        *,
        progress: Progress = _silent,
    ) -> TokenScores | list[TokenScores | None] | None:
        """Scores given translations: the log-probability (nats) of each piece, `<eos>` included.

        Args:
          sources: raw text, a sentence or a list.
          targets: the translation of each; another number of them is a ValueError.
          progress: called now and then with the number of pairs done since the last call.

        Returns:
          `TokenScores`, or a list of them; None for a pair that is too long.
        """
        if isinstance(sources, str) != isinstance(targets, str):
            raise ValueError("sources and targets must both be sentences, or both be lists")
        single = isinstance(sources, str)
        pairs = [(sources, targets)] if single else list(zip(sources, targets, strict=True))
        found = self.scorer.score(self.all_params, pairs, progress=progress)
        return found[0] if single else found

    def inside(
        self,
        source: str,
        target: str | None = None,
        *,
        step: int | None = None,
        beams: bool = True,
        off: Sequence[str] = (),
        length_penalty: float | None = None,
    ) -> Inside:
        """All that the model, of an ensemble the first one, computes for a sentence: see `Inside`.

        Args:
          source: raw text.
          target: a translation that the decoder reads, teacher-forced; None = the model's own.
          step: of a checkpoint to take the parameters from, in place of the model's.
          beams: whether to search with a beam, too.
          off: parts to switch off, as in "encoder_0/self_attention/head_3": see `ablation.parse`.
          length_penalty: of the beam search; None = that of the options.

        Raises:
          UserError: for a blank sentence, a text that is too long, or no such checkpoint or part.
        """
        params = self.params if step is None else load_step(self.workdirs[0], step, self.params)
        steps = self.steps[0] if step is None else [step]
        how = {"beams": beams, "off": off, "length_penalty": length_penalty}
        return self._capture.inside(params, steps, source, target, **how)

    @functools.cached_property
    def _capture(self) -> Capture:
        return Capture(self.transformer, self.tokenizers, self.config.decode)

    @overload
    def encode(self, text: str) -> np.ndarray: ...
    @overload
    def encode(self, text: Sequence[str]) -> list[np.ndarray]: ...
    def encode(self, text: str | Sequence[str]) -> np.ndarray | list[np.ndarray]:
        """The encoder's output, float32 [S, D], for a sentence of S pieces with its `<eos>`.

        A list of sentences gives a list; one that the model cannot read, for its length, is a
        UserError. Of an ensemble, the first model encodes.
        """
        sentences = [text] if isinstance(text, str) else list(text)
        lengths, found = self.scorer.lengths, []
        for ids in self.scorer.sources.encode(sentences):
            if len(ids) > lengths[-1]:
                raise UserError(f"the sentence has {len(ids)} pieces; the most are {lengths[-1]}")
            tokens = padded([ids], (1, bucket(len(ids), lengths)))
            encoded = self._encoder({"params": self.params}, tokens)
            found.append(np.asarray(encoded[0, : len(ids)], np.float32))
        return found[0] if isinstance(text, str) else found

    @functools.cached_property
    def _encoder(self) -> Callable[..., jax.Array]:
        return jax.jit(functools.partial(self.transformer.apply, method="encode"))


def _fingerprint(model: Model) -> str:
    models = [dataclasses.asdict(t.config) for t in model.transformers]
    decode = dataclasses.asdict(model.config.decode) | {"batch_size": None}
    digest = hashlib.sha256(json.dumps([model.config.seed, decode, models]).encode())
    for tokenizer in model.tokenizers:
        digest.update(tokenizer.model + "\n".join(tokenizer.vocabulary).encode())
    for leaf in jax.tree.leaves(model.all_params):
        digest.update(np.asarray(leaf).tobytes())
    digest.update(model.reverse.fingerprint().encode() if model.reverse else b"")
    return digest.hexdigest()


def load(
    workdir: str | Path,
    *,
    config: Config | None = None,
    weights: str = "average",
    ensemble: Sequence[str | Path] = (),
    reverse: str | Path | None = None,
) -> Model:
    """Loads a trained model.

    Args:
      workdir: a trained one, on this machine or in a bucket.
      config: options to use; None = those of the workdir. Only options that leave the model as it
        is may differ, such as those of `decode`.
      weights: "average" of the last checkpoints, "latest", or "best" by validation BLEU, of every
        workdir named here.
      ensemble: further workdirs, whose models' probabilities are averaged with the first one's.
      reverse: a workdir of the other direction, for decode.choose="reverse"; None = none.

    Raises:
      UserError: if something is missing or damaged, vocabularies differ, or `reverse` is not wanted
        or has another direction.
    """
    workdir, *others = (storage.path(str(folder)) for folder in (workdir, *ensemble))
    for folder in (workdir, *others):
        storage.check_workdir(folder)
    saved = load_config(workdir / CONFIG_FILE)
    config = check_config(saved if config is None else config)
    differing = differences(flatten(saved), flatten(config), Change.AFTER_TRAINING)
    refuse_differences(workdir, differing)
    members = [_load_member(config, workdir, weights)]
    vocabularies = [side.vocabulary for side in members[0][0]]
    for other in others:
        members.append(_load_member(load_config(other / CONFIG_FILE), other, weights))
        if [side.vocabulary for side in members[-1][0]] != vocabularies:
            raise UserError(
                f"{workdir} and {other} cannot be an ensemble: their vocabularies differ"
            )
    backward = None
    if reverse is not None:
        backward = load(reverse, weights=weights)
        choice.check_reverse(config, workdir, backward.config, backward.workdirs[0])
    tokenizers, transformers, params, steps = zip(*members, strict=True)
    return Model((workdir, *others), config, tokenizers[0], transformers, params, steps, backward)


def _load_member(
    config: Config, workdir: Path, weights: str
) -> tuple[Tokenizers, Transformer, Any, list[int]]:
    parts.check_last(workdir)  # of other tokenizers there may be no such model
    tokenizers = Tokenizers.load(workdir)
    model = Transformer(config.model, tokenizers.target.vocab_size, tokenizers.source.vocab_size)
    everywhere = all_devices().replicated
    like = parameter_shapes(model)
    params, steps = load_weights(workdir, config.train, weights, like, everywhere)
    return tokenizers, model, params, steps


def check_n_best(decode: DecodeConfig, n_best: int, name: str = "n_best") -> None:
    """Raises UserError, which calls it `name`, if the search finds fewer translations."""
    if n_best < 1:
        raise UserError(f"{name}={n_best} must be at least 1")
    if decode.method == "greedy" and n_best > 1:
        raise UserError(
            f"{name}={n_best} is more than decode.method='greedy' gives, at most 1: set it to beam "
            "or sample"
        )
    if decode.method == "beam" and n_best > decode.beam_size:
        raise UserError(
            f"{name}={n_best} is more than decode.method='beam' gives with "
            f"decode.beam_size={decode.beam_size}: at most {decode.beam_size}"
        )
    if decode.choose != "model" and decode.method == "sample" and n_best > decode.candidates:
        raise UserError(
            f"{name}={n_best} is more than the decode.candidates={decode.candidates} that "
            f"decode.choose={decode.choose!r} ranks: raise that"
        )
