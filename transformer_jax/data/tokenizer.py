"""Sub-word pieces, by SentencePiece (Kudo & Richardson 2018), for each side of a translation."""

import contextlib
import io
import itertools
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID, UNK_ID, DataConfig
from transformer_jax.console import log
from transformer_jax.data.language_codes import codes_in, codes_of_corpus, split_code
from transformer_jax.data.normalization import normalize, rules, whole
from transformer_jax.data.text import is_blank
from transformer_jax.errors import UserError
from transformer_jax.storage import write_whole
from transformer_jax.workdir.parts import SIDE_FILES, TOKENIZER_FILE, VOCABULARIES_FILE

_LEARNED = 1_000_000  # pairs, at most, that shape the pieces
# SentencePiece learns pieces from no line that is longer, in bytes, or that has its sign for an
# unknown character; a model is trained on these lines all the same.
_LONGEST = 10_000
_UNLEARNABLE = "\u2585"
# Four special pieces and the bytes; of fewer, SentencePiece does not say how many it lacks.
_SMALLEST = 260
# What `normalization.rules` alone makes "é①" of: NFKC rewrites the last character, too.
_PROBE = "\ufeffe\u0301①"


class Tokenizer:
    """Text ↔ piece ids. Every visible text has pieces: rare characters fall back to bytes."""

    def __init__(self, model: bytes, vocabulary: Sequence[str] | None = None) -> None:
        """Makes the tokenizer of a serialised SentencePiece model.

        Args:
          model: the content of a `.model` or `.spm` file.
          vocabulary: for an imported model, whose ids are not SentencePiece's own: the pieces in
            the order of their ids. Other pieces are unknown.
        """
        self.model, self.imported = model, vocabulary is not None
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        size = self._processor.get_piece_size()
        own = self._processor.id_to_piece(list(range(size)))
        self.vocabulary = list(own if vocabulary is None else vocabulary)
        self._ids = {piece: i for i, piece in enumerate(self.vocabulary)}
        self.codes = codes_in(self.vocabulary)
        self._normalizes = self._processor.normalize(_PROBE).strip("▁") == "é①"

    @property
    def vocab_size(self) -> int:
        """V, the number of pieces."""
        return len(self.vocabulary)

    def merge_scores(self) -> dict[str, float]:
        """The pieces that byte-pair encoding works with: the higher one's score, the sooner merged.

        Raises:
          UserError: if the pieces are not of byte-pair encoding.
        """
        model = sentencepiece_model_pb2.ModelProto.FromString(self.model)
        if model.trainer_spec.model_type != sentencepiece_model_pb2.TrainerSpec.BPE:
            kind = sentencepiece_model_pb2.TrainerSpec.ModelType.Name(model.trainer_spec.model_type)
            raise UserError(
                f"data.subword_dropout is for byte-pair encoding, and the tokenizer is a "
                f"{kind.lower()} model: set data.subword_dropout to 0"
            )
        normal = sentencepiece_model_pb2.ModelProto.SentencePiece.NORMAL
        return {p.piece: p.score for p in model.pieces if p.type == normal}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The piece ids of each text, without <bos> and <eos>; a blank text has none."""
        codes, rests = self._split(texts)
        if self.imported:
            cut = self._processor.encode(rests, out_type=str)
            rows = [[self._ids.get(piece, UNK_ID) for piece in pieces] for pieces in cut]
        else:
            rows = self._processor.encode(rests)
        return [
            [self._ids[code], *row] if code and row else row
            for code, row in zip(codes, rows, strict=True)
        ]

    def decode(self, ids: Sequence[Sequence[int]] | np.ndarray) -> list[str]:
        """The text of each sequence of ids, up to its first <eos>; padding is skipped."""
        rows = [_until_eos(row) for row in ids]
        if not self.imported:
            # Row by row, which takes 2 µs: a list of rows starts threads, which takes 80.
            return [self._processor.decode(row) for row in rows]
        texts = [self._processor.decode([self.vocabulary[i] for i in row]) for row in rows]
        # SentencePiece leaves the ▁ of pieces that only the other side's model knows in the text.
        return [text.replace("▁", " ").strip() for text in texts]

    def pieces(self, text: str) -> list[str]:
        """The pieces of one text as strings, e.g. ["▁a", "▁c", "at"]."""
        (code,), (rest,) = self._split([text])
        found = self._processor.encode(rest, out_type=str)
        return [code, *found] if code and found else found

    def _split(self, texts: Sequence[str]) -> tuple[list[str], list[str]]:
        """The code of each text, if the vocabulary has it, else ""; and the rest, normalised."""
        if not self.codes:
            return [""] * len(texts), list(map(self.normalized, texts))
        parts = [split_code(text) for text in texts]
        parts = [p if p[0] in self._ids else ("", t) for p, t in zip(parts, texts, strict=True)]
        return [code for code, _ in parts], [self.normalized(rest) for _, rest in parts]

    def normalized(self, text: str) -> str:
        """`text` as it is cut into pieces: "" if it is blank, otherwise by data.normalization."""
        if is_blank(text):
            return ""
        return normalize(text) if self._normalizes else whole(text)

    def save(self, path: Path) -> None:
        """Writes the model, whole or not at all."""
        write_whole(path, self.model)

    @classmethod
    def load(cls, path: Path, vocabulary: Sequence[str] | None = None) -> "Tokenizer":
        """Reads a model; see `__init__` for `vocabulary`.

        Raises:
          UserError: if the file is missing or damaged.
        """
        try:
            content = path.read_bytes()
            if not content:  # SentencePiece would accept it, and fail noisily later
                raise RuntimeError
            tokenizer = cls(content, vocabulary)
            tokenizer.encode(["a"])
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{path.parent} has no {path.name}: train there first, or import with source.spm, "
                "target.spm and vocab.json"
            ) from None
        except OSError as e:
            raise UserError(f"{path} cannot be read: {e.strerror or e}") from None
        except RuntimeError:
            raise UserError(f"{path} is damaged: it is not a SentencePiece model") from None
        return tokenizer


class Tokenizers(NamedTuple):
    """The two tokenizers of a translation; the same one twice if the vocabulary is shared."""

    source: Tokenizer
    target: Tokenizer

    def save(self, workdir: Path) -> None:
        """Writes tokenizer.model, or one file for each side."""
        if self.source is self.target:
            self.source.save(workdir / TOKENIZER_FILE)
            return
        if self.source.imported:
            vocabularies = [t.vocabulary for t in self]
            write_whole(workdir / VOCABULARIES_FILE, json.dumps(vocabularies, ensure_ascii=False))
        for tokenizer, name in zip(self, SIDE_FILES, strict=True):
            tokenizer.save(workdir / name)

    @classmethod
    def load(cls, workdir: Path) -> "Tokenizers":
        """Reads what `save` wrote.

        Raises:
          UserError: if a file is missing or damaged.
        """
        if not (workdir / SIDE_FILES[0]).exists():
            tokenizer = Tokenizer.load(workdir / TOKENIZER_FILE)
            return cls(tokenizer, tokenizer)
        vocabularies, path = (None, None), workdir / VOCABULARIES_FILE
        if path.exists():
            try:
                vocabularies = json.loads(path.read_text(encoding="utf-8"))
                if not all(type(piece) is str for side in vocabularies for piece in side):
                    raise ValueError("pieces are text")
            except (ValueError, TypeError) as e:
                raise UserError(f"{path} is damaged: {e}") from None
        files = zip(SIDE_FILES, vocabularies, strict=True)
        return cls(*(Tokenizer.load(workdir / name, vocabulary) for name, vocabulary in files))

    @classmethod
    def exist(cls, workdir: Path) -> bool:
        """Whether `workdir` has a tokenizer."""
        return any((workdir / name).exists() for name in (TOKENIZER_FILE, *SIDE_FILES))


def train_tokenizers(
    pairs: Sequence[tuple[str, str]],
    *,
    vocab_size: int,
    shared: bool,
    normalization: str = DataConfig.normalization,
    tags: Sequence[str] = (),
) -> Tokenizers:
    """Trains one tokenizer on both sides of `pairs`, or one on each side.

    Of more than a million pairs, a random million shapes the pieces. Codes that most sources begin
    with become pieces of the source's, and so do `tags`, with which any source may begin.
    """
    options = {"vocab_size": vocab_size, "normalization": normalization}

    def untagged(source: str) -> str:
        code, rest = split_code(source) if tags else ("", source)
        return rest if code in tags else code + rest

    found, chosen = codes_of_corpus(untagged(source) for source, _ in pairs), _chosen(len(pairs))

    def learned() -> Iterator[tuple[str, str]]:
        for source, target in itertools.compress(pairs, chosen):
            bare = untagged(source)
            yield split_code(bare)[1] if found else bare, target

    codes = sorted({*found, *tags})
    if shared:
        texts = itertools.chain.from_iterable(learned())
        tokenizer = train_tokenizer(texts, codes=codes, **options)
        return Tokenizers(tokenizer, tokenizer)
    source = train_tokenizer((text for text, _ in learned()), codes=codes, **options)
    return Tokenizers(source, train_tokenizer((text for _, text in learned()), **options))


def _chosen(count: int) -> bytes:
    """Which of `count` pairs shape the pieces, 1 or 0 each: SentencePiece keeps them in memory."""
    chosen = np.full(count, count <= _LEARNED)
    if count > _LEARNED:
        log(f"{_LEARNED:,} of {count:,} pairs, at random, shape the vocabulary")
        chosen[np.random.default_rng(0).choice(count, _LEARNED, replace=False)] = True
    return chosen.tobytes()


def _until_eos(row: Sequence[int]) -> list[int]:
    ids = [int(i) for i in row]
    ids = ids[: ids.index(EOS_ID)] if EOS_ID in ids else ids
    return [i for i in ids if i not in (PAD_ID, BOS_ID)]


def train_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int,
    normalization: str = DataConfig.normalization,
    codes: Sequence[str] = (),
) -> Tokenizer:
    """Trains byte-pair encoding (Sennrich et al. 2016) with byte fallback on `texts`.

    Args:
      texts: raw.
      vocab_size: V.
      normalization: "nfc", by `normalize`, whose rules become part of the model; or "none".
        SentencePiece's own default, NFKC, rewrites Chinese punctuation, which costs BLEU.
      codes: of languages, which become pieces.

    Raises:
      UserError: if `texts` do not support so many pieces; it names both numbers.
    """
    model = io.BytesIO()
    try:
        with _rule_option(normalization) as rule:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_learnable(
                    texts if normalization == "none" else map(normalize, texts)
                ),
                model_writer=model,
                model_type="bpe",
                vocab_size=max(vocab_size, _SMALLEST),
                character_coverage=1.0,
                byte_fallback=True,
                pad_id=PAD_ID,
                unk_id=UNK_ID,
                bos_id=BOS_ID,
                eos_id=EOS_ID,
                max_sentence_length=_LONGEST,
                num_threads=2,
                minloglevel=2,
                user_defined_symbols=list(codes),
                **rule,
            )
    except RuntimeError as e:
        raise UserError(_why_untrained(str(e), vocab_size)) from None
    found = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    # The name of a temporary file, by which equal models would differ.
    found.normalizer_spec.ClearField("normalization_rule_tsv")
    return Tokenizer(found.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _rule_option(normalization: str) -> Iterator[dict[str, str]]:
    """SentencePiece's option for the rules, which it reads from a file."""
    if normalization == "none":
        yield {"normalization_rule_name": "identity"}
        return
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as file:
        for pair in rules().items():
            columns = (" ".join(f"{ord(c):X}" for c in text) for text in pair)
            print(*columns, sep="\t", file=file)
        file.flush()
        yield {"normalization_rule_tsv": file.name}


def _learnable(texts: Iterable[str]) -> Iterator[str]:
    """Yields the texts that SentencePiece learns pieces from, and logs how many it skips."""
    skipped = 0
    for text in texts:
        if len(text.encode()) > _LONGEST or _UNLEARNABLE in text:
            skipped += 1
        else:
            yield text
    if skipped:
        log(
            f"{skipped:,} lines of more than {_LONGEST:,} bytes, or with {_UNLEARNABLE}, do not "
            "shape the vocabulary"
        )


def _why_untrained(reason: str, vocab_size: int) -> str:
    """SentencePiece's reason for not training, in terms of our options."""
    if too_few := re.search(r"required_chars\. \d+ vs (\d+)", reason):
        return f"data.vocab_size={vocab_size} is too small for this text: raise it to {too_few[1]}"
    if too_many := re.search(r"too high .*<= (\d+)", reason):
        return f"data.vocab_size={vocab_size} is too large for this text: lower it to {too_many[1]}"
    if "sentences_.empty()" in reason:
        return (
            f"data.vocab_size={vocab_size} pieces cannot be learned: the text is empty, or all of "
            f"its lines have more than {_LONGEST:,} bytes"
        )
    return f"data.vocab_size={vocab_size} does not suit this text: {reason.split('] ')[-1].strip()}"
