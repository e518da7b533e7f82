"""Sub-word pieces by SentencePiece (Kudo & Richardson 2018): one vocabulary for both languages."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from transformer_jax.config import BOS_ID, EOS_ID, PAD_ID, UNK_ID, UserError, write_whole


class Tokenizer:
    """Text ↔ piece ids. Every Unicode string has pieces: what is rare falls back to bytes."""

    def __init__(self, model: bytes) -> None:
        """`model` is the serialised SentencePiece model: the content of `tokenizer.model`."""
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._processor.get_piece_size()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Piece ids of each text, without <bos> or <eos>."""
        return self._processor.encode(list(texts))

    def decode(self, ids: Sequence[Sequence[int]] | np.ndarray) -> list[str]:
        """The text of each sequence of ids, up to its first <eos>; padding is skipped."""
        return self._processor.decode([_until_eos(row) for row in ids])

    def pieces(self, text: str) -> list[str]:
        """The pieces of one text as strings, e.g. ["▁a", "▁c", "at"]."""
        return self._processor.encode(text, out_type=str)

    def save(self, path: Path) -> None:
        """Writes the model, whole or not at all."""
        write_whole(path, self.model)

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Reads a model.

        Raises:
          UserError: if the file is missing or damaged.
        """
        try:
            tokenizer = cls(path.read_bytes())
            tokenizer.encode(["a"])  # an empty file makes a processor that fails here only
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{path.parent} has no {path.name}: train there first") from None
        except OSError as e:
            raise UserError(f"{path} cannot be read: {e.strerror}") from None
        except RuntimeError:
            raise UserError(f"{path} is damaged: it is not a SentencePiece model") from None
        return tokenizer


def _until_eos(row: Sequence[int]) -> list[int]:
    ids = [int(i) for i in row]
    ids = ids[: ids.index(EOS_ID)] if EOS_ID in ids else ids
    return [i for i in ids if i not in (PAD_ID, BOS_ID)]


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Trains byte-pair encoding (Sennrich et al. 2016) with byte fallback on `texts`.

    No normalisation: SentencePiece's default rewrites Chinese punctuation, which costs BLEU.

    Raises:
      UserError: if `texts` cannot support that many pieces, naming both numbers.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            normalization_rule_name="identity",
            character_coverage=1.0,
            byte_fallback=True,
            pad_id=PAD_ID,
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            # Longer lines are skipped in training the pieces, not in training the model.
            max_sentence_length=10_000,
            num_threads=2,
            minloglevel=2,
        )
    except RuntimeError as e:
        reason = str(e).split("] ")[-1].strip()
        raise UserError(
            f"data.vocab_size={vocab_size} does not suit this text: {reason or e}"
        ) from None
    return Tokenizer(model.getvalue())
