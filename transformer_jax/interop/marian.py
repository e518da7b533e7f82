"""Hugging Face's Marian translation models ↔ a workdir.

A Marian model is this Transformer with other conventions, which import undoes and export restores:
Linear weights are [out, in]; sinusoids come in halves; attention and logits have biases; and ids
have another order, eos first and pad last. Marian has no <bos>: its translations start with pad.
An example of the rows of the tables, with `decoder_start_token_id` 5:

  Marian  0 </s>   1 <unk>  2 ▁a    3 ▁cat   4 ▁dog  5 <pad>
  ours    0 <pad>  1 <unk>  2 <s>   3 </s>   4 ▁a    5 ▁cat   6 ▁dog

Our row of <s> is a copy of the row of <pad>, so that translations start as Marian's do. Its bias on
the logits is -100, which leaves it no probability and does not change that of the other pieces.
Export drops such a copy. A <s> that is no copy becomes the last piece before <pad>, and
`decoder_start_token_id`. No weight is ever rounded, and import and export are inverses, with two
exceptions: export writes zeros for a bias that our model lacks, and it writes the rows in Marian's
usual order.

Hugging Face's `generate` differs from our search if generation_config.json has renormalize_logits,
as Helsinki-NLP's files have: it divides the small probability of <pad> among the other pieces. Its
tokenizer also normalises punctuation, if sacremoses is installed.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax.config.files import CONFIG_FILE, save_config
from transformer_jax.config.options import BOS_ID, Config
from transformer_jax.console import log
from transformer_jax.data.tokenizer import Tokenizer, Tokenizers
from transformer_jax.errors import UserError
from transformer_jax.functional.positions import sinusoidal_positions
from transformer_jax.interop import marian_config as options
from transformer_jax.interop import marian_weights as weights
from transformer_jax.interop.marian_generation import get, to_decode, to_generation
from transformer_jax.interop.requirements import (
    log_lost,
    require_empty,
    require_finite,
    require_package,
)
from transformer_jax.model.size import parameter_shapes
from transformer_jax.model.transformer import Transformer
from transformer_jax.storage import make_folder, write_whole
from transformer_jax.training.step import TrainState
from transformer_jax.workdir.checkpoints import Checkpoints

_GENERATION_FILE, _WEIGHTS_FILE = "generation_config.json", "model.safetensors"
_TOKENIZER_FILE = "tokenizer_config.json"
_SPM_FILES, _VOCABULARY_FILES = ("source.spm", "target.spm"), ("vocab.json", "target_vocab.json")
# In the order of our ids. Marian has <s> only if translations start with it.
_SPECIAL_PIECES = ("<pad>", "<unk>", "<s>", "</s>")


def import_marian(source: Path, workdir: Path) -> None:
    """Makes a workdir of a Marian model, which can translate, evaluate and score.

    `source` is a folder with config.json and model.safetensors, and to translate text also
    source.spm, target.spm and vocab.json; or the path of its .safetensors file.

    Raises:
      UserError: naming the file, option or tensor that is missing, damaged or not supported.
    """
    path = source if source.suffix == ".safetensors" else source / _WEIGHTS_FILE
    folder = path.parent
    require_empty(workdir, "--workdir")
    theirs = _read_json(folder / CONFIG_FILE)
    tensors = _read_tensors(path)
    model = options.to_model_config(theirs, one_table=weights.has_one_table(tensors))
    # Early versions store in config.json what later ones have in generation_config.json.
    generation = _read_json(folder / _GENERATION_FILE, optional=True)
    theirs |= {name: value for name, value in generation.items() if value is not None}
    vocabularies = _Vocabularies(folder, theirs)
    tokenizers = vocabularies.tokenizers(folder)
    config = options.to_config(
        folder.resolve().name,
        model,
        to_decode(theirs, vocabularies.target),
        vocab_size=len(vocabularies.target),
        shared_vocabulary=vocabularies.shared,
        languages=_read_json(folder / _TOKENIZER_FILE, optional=True),
    )
    transformer = Transformer(model, len(vocabularies.target), len(vocabularies.source))
    like = parameter_shapes(transformer)
    for name in weights.unknown_tensors(tensors, like):
        raise UserError(f"{path} has a tensor that this architecture lacks: {name}")
    _check_positions(tensors, model.d_model)
    params = weights.to_params(
        tensors,
        like,
        vocabularies.source,
        vocabularies.target,
        borrowed=vocabularies.borrowed,
    )
    make_folder(workdir)
    if tokenizers:
        tokenizers.save(workdir)
    save_config(config, workdir / CONFIG_FILE)
    # Marian's files have no moments of Adam, and translating needs none.
    state = TrainState(jnp.zeros((), jnp.int32), params, (), None)
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(0, state)
    checkpoints.close()


class _Vocabularies:
    """The vocabularies of a Marian model, and how their ids become ours.

    Attributes:
      source, target: the row of Marian's table for each row of ours.
      shared: whether both sides have one vocabulary.
      borrowed: whether our <bos> copies another row of the target's table.
    """

    def __init__(self, folder: Path, theirs: dict[str, Any]) -> None:
        sizes = [get(theirs, "vocab_size", int)] * 2
        one_table = get(theirs, "share_encoder_decoder_embeddings", bool, True)
        if not one_table and theirs.get("decoder_vocab_size"):
            sizes[1] = get(theirs, "decoder_vocab_size", int)
        paths = [folder / name for name in _VOCABULARY_FILES]
        self.shared = one_table or (sizes[0] == sizes[1] and not paths[1].exists())
        if self.shared:
            paths[1] = paths[0]
        self._pieces = [
            _read_vocabulary(path, size) if path.exists() else None
            for path, size in zip(paths, sizes, strict=True)
        ]
        ids = weights.SpecialIds(
            pad=get(theirs, "pad_token_id", int),
            unk=(self._pieces[1] or {}).get("<unk>", 1),
            eos=get(theirs, "eos_token_id", int),
            start=get(theirs, "decoder_start_token_id", int),
        )
        self.borrowed = ids.borrowed is not None
        self.target = _order(ids, sizes[1])
        self.source = _order(ids if self.shared else self._source_ids(ids), sizes[0])

    def _source_ids(self, target: weights.SpecialIds) -> weights.SpecialIds:
        """Ids of a separate source vocabulary: config.json has the target's, vocab.json these."""
        pieces = self._pieces[0] or {}
        pad, unk = pieces.get("<pad>", target.pad), pieces.get("<unk>", target.unk)
        eos = pieces.get("</s>", target.eos)
        own = pieces.get("<s>", pad) if pieces else target.start  # no source begins with it
        start = {"pad": pad, "unk": unk, "eos": eos, None: own}[target.borrowed]
        return weights.SpecialIds(pad, unk, eos, start)

    def tokenizers(self, folder: Path) -> Tokenizers | None:
        """Tokenizers of the imported pieces; logs and returns None if their files are missing."""
        needed = [folder / name for name in (*_SPM_FILES, _VOCABULARY_FILES[not self.shared])]
        missing = [path.name for path in needed if not path.exists()]
        if missing or None in self._pieces:
            log(
                f"{folder} has no {', '.join(missing)}: the workdir gets no tokenizer "
                "and cannot translate text"
            )
            return None
        sides = zip(_SPM_FILES, self._pieces, (self.source, self.target), strict=True)
        loaded = []
        for name, pieces, order in sides:
            names = {row: piece for piece, row in pieces.items()}
            vocabulary = [*_SPECIAL_PIECES, *(names[row] for row in order[len(_SPECIAL_PIECES) :])]
            loaded.append(Tokenizer.load(folder / name, vocabulary))
        return Tokenizers(*loaded)


def _order(ids: weights.SpecialIds, size: int) -> list[int]:
    for name, row in dataclasses.asdict(ids).items():
        if not 0 <= row < size:
            raise UserError(f"the id of {name} is {row}, outside a vocabulary of {size}")
    if len({ids.pad, ids.unk, ids.eos}) < 3:
        raise UserError(f"ids must differ: pad {ids.pad}, unk {ids.unk}, eos {ids.eos}")
    return weights.import_order(size, ids)


def _check_positions(tensors: weights.Tensors, d_model: int) -> None:
    for name in weights.POSITIONS:
        if name in tensors:
            theirs = np.asarray(tensors[name], np.float32)
            ours = sinusoidal_positions(jnp.arange(len(theirs)), d_model, layout="halves")
            if theirs.shape != ours.shape or not np.allclose(theirs, ours, rtol=0, atol=1e-2):
                raise UserError(f"tensor {name} is not the sinusoids that Marian computes")


def _read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.exists():
        return {}
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path.parent} has no {path.name}: give --input the folder of a Marian model"
        ) from None
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from None
    except ValueError as e:
        raise UserError(f"{path} is damaged: {e}") from None
    if not isinstance(read, dict):
        raise UserError(f"{path} is damaged: it is not a JSON object")
    return read


def _read_vocabulary(path: Path, size: int) -> dict[str, int]:
    pieces = _read_json(path)
    if sorted(map(str, pieces.values())) != sorted(map(str, range(size))):
        raise UserError(
            f"{path} has {len(pieces)} pieces, but config.json asks for one for each of the ids "
            f"0 to {size - 1}"
        )
    return pieces


def _read_tensors(path: Path) -> weights.Tensors:
    if not path.exists() and list(path.parent.glob("*.bin")):
        raise UserError(
            f"the weights in {path.parent} are a .bin file, which may run code when it is read: "
            "convert it with transformers, MarianMTModel.from_pretrained(folder).save_pretrained("
            "folder, safe_serialization=True)"
        )
    if not path.exists():
        raise UserError(f"{path.parent} has no {path.name}")
    safetensors = require_package("safetensors.numpy")
    try:
        return safetensors.load_file(path)
    except (require_package("safetensors").SafetensorError, OSError) as e:
        raise UserError(f"{path} cannot be read: {e}") from None


def export_marian(config: Config, params: Any, tokenizers: Tokenizers | None, output: Path) -> None:
    """Writes a folder that transformers' MarianMTModel.from_pretrained loads.

    The tokenizers, if there are any, become files of MarianTokenizer.

    Raises:
      UserError: naming every option that Marian does not have, or if the folder is not empty.
    """
    options.check_exportable(config.model)
    log_lost(config, ("target_token", "temperature", "top_k", "top_p", "choose"), "Marian")
    require_empty(output, "--output")
    safetensors = require_package("safetensors.numpy")
    params = jax.device_get(params)
    require_finite(params)
    tables = [
        params.get(f"{side}_embedding", params.get("embedding")) for side in ("source", "target")
    ]
    copy = weights.borrowed_bos(params)
    sizes = [len(table) - (copy is not None) for table in tables]
    pad = min(sizes) - 1  # Marian has one id of <pad> for both sides
    orders = [weights.export_order(len(t), drop_bos=copy is not None, pad=pad) for t in tables]
    start = orders[1].index(BOS_ID if copy is None else copy)
    make_folder(output)
    theirs = options.to_marian(config.model, sizes, orders[1], start)
    tensors = weights.to_tensors(params, *orders)
    write_whole(output / _WEIGHTS_FILE, safetensors.save(tensors, {"format": "pt"}))
    _write_json(output / _GENERATION_FILE, to_generation(config.decode, orders[1], start))
    if tokenizers:
        _write_tokenizers(config, tokenizers, orders, output)
    _write_json(output / CONFIG_FILE, theirs)


def _write_tokenizers(
    config: Config, tokenizers: Tokenizers, orders: Sequence[Sequence[int]], output: Path
) -> None:
    separate = tokenizers.source.vocabulary != tokenizers.target.vocabulary
    for side in range(2):
        tokenizer = tokenizers[side]
        tokenizer.save(output / _SPM_FILES[side])
        if side == 0 or separate:
            names = [*_SPECIAL_PIECES, *tokenizer.vocabulary[len(_SPECIAL_PIECES) :]]
            pieces = {names[row]: i for i, row in enumerate(orders[side])}
            _write_json(output / _VOCABULARY_FILES[side], pieces)
    about = {
        "tokenizer_class": "MarianTokenizer",
        "source_lang": config.data.source_language,
        "target_lang": config.data.target_language,
        "separate_vocabs": separate,
        "model_max_length": 512,
        **{"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"},
    }
    _write_json(output / _TOKENIZER_FILE, about)


def _write_json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
