"""Sentences to translate or to score, as the ids of their pieces."""

from collections.abc import Sequence

from transformer_jax.config.options import EOS_ID
from transformer_jax.console import log
from transformer_jax.data.language_codes import listed, split_code
from transformer_jax.data.text import is_blank
from transformer_jax.data.tokenizer import Tokenizer
from transformer_jax.errors import UserError


class Sources:
    """Cuts sources into pieces, and sees to it that each names its language, if that is needed."""

    def __init__(self, tokenizer: Tokenizer, target_token: str = "") -> None:
        """`target_token` begins the sources that begin with no code of a language; "" = none does.

        Raises:
          UserError: if the vocabulary lacks it.
        """
        self._tokenizer, self._target_token = tokenizer, target_token
        self._logged = False
        if target_token:
            self._check(target_token, f"decode.target_token={target_token!r}")

    def check(self, texts: Sequence[str]) -> None:
        """Warns once of sources without a code for a model with codes, or with one for one without.

        Raises:
          UserError: naming a code that the vocabulary lacks, and those that it has.
        """
        known = self._tokenizer.codes
        codes = [split_code(text)[0] for text in texts]
        given = dict.fromkeys(filter(None, codes))
        if known or self._tokenizer.imported:
            for code in given:
                self._check(code, code)
        elif given:
            self._warn(f"this model has no codes of languages: it reads {min(given)} as text")
        bare = sum(not (code or is_blank(text)) for code, text in zip(codes, texts, strict=True))
        if bare and known and not self._target_token:
            self._warn(
                f"{bare:,} of {len(texts):,} sources begin with none of the codes that this model "
                f"reads ({listed(known)}): if it was trained with one on each, set "
                "decode.target_token, or begin each source with one"
            )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, and `<eos>`. Checks them as `check` does."""
        self.check(texts)
        if self._target_token:
            code = self._target_token
            texts = [text if split_code(text)[0] else f"{code} {text}" for text in texts]
        return [[*pieces, EOS_ID] for pieces in self._tokenizer.encode(texts)]

    def _warn(self, message: str) -> None:
        if not self._logged:
            self._logged = True
            log(f"warning: {message}")

    def _check(self, code: str, name: str) -> None:
        codes = self._tokenizer.codes
        if code not in codes:
            known = f"it has {listed(codes)}" if codes else "it has no codes of languages"
            raise UserError(f"{name} is not in the model's vocabulary: {known}")
