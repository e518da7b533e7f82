"""What the page asks for: facts of a workdir's model, and what it computes for a sentence."""

import dataclasses
import json
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from transformer_jax.data.text import is_blank
from transformer_jax.errors import UserError
from transformer_jax.inference.record import DecoderLayer, EncoderLayer
from transformer_jax.inference.trained import Model
from transformer_jax.inference.weights import checkpoint_steps, load_step
from transformer_jax.inside import code
from transformer_jax.inside.serialize import to_json

MAX_CHARACTERS = 500
MAX_PIECES = 64  # of a sentence; figures of longer ones cannot be read
_EXAMPLES = 8
_KEPT = 4  # records, of some 60 MB for a long sentence and a base model


class Refused(UserError):
    """A question that the page explains in the reader's language.

    Attributes:
      facts: `code`, by which the page knows the reason, the message, and numbers for the text.
    """

    def __init__(self, code: str, message: str, **facts: int) -> None:
        super().__init__(message)
        self.facts = {"code": code, "message": message, **facts}


@dataclasses.dataclass(frozen=True)
class Question:
    """What to look into.

    Attributes:
      source: a sentence.
      target: a translation for the decoder to read; None = the model's own.
      checkpoint: step whose parameters to use; None = those of the model.
      off: parts to switch off, as `Model.inside` names them.
    """

    source: str
    target: str | None = None
    checkpoint: int | None = None
    off: tuple[str, ...] = ()

    @classmethod
    def of(cls, asked: Any) -> "Question":
        """The question in a value that came as JSON.

        Raises:
          Refused: if it is none.
        """
        types = {
            "source": str,
            "target": str | None,
            "checkpoint": int | None,
            "off": list,
        }
        if not isinstance(asked, Mapping) or not set(asked) <= set(types) or "source" not in asked:
            raise Refused("malformed", f"the question must be an object of: {', '.join(types)}")
        for name, value in asked.items():
            if not isinstance(value, types[name]) or isinstance(value, bool):
                raise Refused("malformed", f"{name} is {type(value).__name__}")
        off = tuple(asked.get("off", ()))
        if not all(isinstance(name, str) for name in off):
            raise Refused("malformed", "off must be a list of names")
        return cls(**{**asked, "off": off})


class Answers:
    """Answers for one model, whose checkpoints share what is compiled.

    The layers of the latest records are kept, because the page asks for them one by one.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._workdir = model.workdirs[0]
        self._layers: dict[str, dict[str, EncoderLayer | DecoderLayer]] = {}

    def facts(self) -> dict[str, Any]:
        """What the page must know before the first sentence."""
        data = self.model.config.data
        return {
            "name": self.model.config.name,
            "source_language": data.source_language,
            "target_language": data.target_language,
            "examples": self.examples(),
            "steps": list(self.model.steps[0]),
            "checkpoints": self.checkpoints(),
            "decode": dataclasses.asdict(self.model.config.decode),
            "limits": {"characters": MAX_CHARACTERS, "pieces": MAX_PIECES},
            "code": code.excerpts(),
        }

    def warm_up(self) -> None:
        """Compiles what the first sentence needs, so that the page does not wait for it."""
        for sentence in self.examples()[:1]:
            self.inside(Question(sentence))

    def examples(self) -> list[str]:
        """Sentences to begin with: the experiment's own, and some of the last validation."""
        file = self._workdir / "samples.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        sampled = [json.loads(line)["source"] for line in lines[-_EXAMPLES:]]
        found = dict.fromkeys([self.model.config.demo, *sampled])
        return [text for text in found if text and len(text) <= MAX_CHARACTERS]

    def checkpoints(self) -> list[int]:
        """The steps of the complete checkpoints: a run that still trains adds some."""
        return checkpoint_steps(self._workdir)

    def inside(self, question: Question, **options: Any) -> dict[str, Any]:
        """The record of a sentence without its layers, and without the logits.

        Args:
          question: what to look into.
          **options: of `to_json`.

        Returns:
          The fields of the record, the `depth` of each stack, and the `id` by which `layer` finds
          the layers.

        Raises:
          UserError: if the sentence or the checkpoint cannot be used.
        """
        self._check(question.source, "source")
        if question.target is not None:
            self._check(question.target, "target")
        if question.checkpoint not in (None, *self.checkpoints()):
            message = f"there is no complete checkpoint of step {question.checkpoint}"
            raise Refused("no_checkpoint", message)
        record = self.model.inside(
            question.source, question.target, step=question.checkpoint, off=question.off
        )
        name = secrets.token_hex(8)  # a number would be another sentence's after a restart
        stacks = {"encoder": record.encoder, "decoder": record.decoder}
        self._layers[name] = {
            f"{stack}_{number}": _bare(layer)
            for stack, layers in stacks.items()
            for number, layer in enumerate(layers)
        }
        for old in list(self._layers)[:-_KEPT]:
            del self._layers[old]
        found = to_json(dataclasses.replace(record, encoder=(), decoder=()), **options)
        for stack in stacks:
            del found[stack]
        del found["prediction"]["logits"]  # many, of a large vocabulary; the page shows the best
        return {"id": name, "depth": {s: len(layers) for s, layers in stacks.items()}, **found}

    def layer(self, record: str, name: str, **options: Any) -> dict[str, Any]:
        """One layer of a record that is still kept, without its parameters.

        Args:
          record: the `id` that `inside` gave it.
          name: "encoder_0", "decoder_0", …
          **options: of `to_json`.

        Raises:
          Refused: if the record is no longer kept, or has no such layer.
        """
        if record not in self._layers:
            message = f"only the last {_KEPT} sentences are kept: look inside this one again"
            raise Refused("gone", message)
        layers = self._layers[record]
        if name not in layers:
            raise Refused("malformed", f"layer={name!r} is none of: {', '.join(layers)}")
        return to_json(layers[name], **options)

    def whole(self, question: Question, **options: Any) -> dict[str, Any]:
        """The record of a sentence with its `layers`, each by its name."""
        found = self.inside(question, **options)
        record = found.pop("id")
        layers = {name: self.layer(record, name, **options) for name in self._layers[record]}
        return {**found, "layers": layers}

    def parameters(self, part: str, step: int | None, **options: Any) -> dict[str, Any]:
        """The matrices of one attention, as `to_json` writes them; large models have many.

        Args:
          part: "encoder_0/self_attention", "decoder_0/cross_attention", …
          step: of a checkpoint; None = the model's.
          **options: of `to_json`.

        Raises:
          UserError: if there is no such part or no such checkpoint.
        """
        if part not in self.attentions():
            raise Refused("malformed", f"part={part!r} is none of: {', '.join(self.attentions())}")
        params = self.model.params
        if step is not None:
            params = load_step(self._workdir, step, params)
        layer, name = part.split("/")
        return to_json({k: np.asarray(x) for k, x in params[layer][name].items()}, **options)

    def attentions(self) -> list[str]:
        """The attentions of the model."""
        paths = traverse_util.flatten_dict(self.model.params, sep="/")
        ending = "/output_kernel"
        return [path.removesuffix(ending) for path in paths if path.endswith(ending)]

    def _check(self, text: str, side: str) -> None:
        if is_blank(text):
            raise Refused("empty", "the text is blank")
        if len(text) > MAX_CHARACTERS:
            most = f"the most are {MAX_CHARACTERS}"
            raise Refused("too_many_characters", f"the text has {len(text)} characters; {most}")
        (ids,) = getattr(self.model.tokenizers, side).encode([text])
        if len(ids) > MAX_PIECES:
            message = f"the text has {len(ids)} pieces; the most are {MAX_PIECES}"
            raise Refused("too_long", message, pieces=len(ids), most=MAX_PIECES)


def _bare(part: Any) -> Any:
    """`part` without its parameters, which would keep a whole checkpoint in memory."""
    fields = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    parts = {name: _bare(x) for name, x in fields.items() if dataclasses.is_dataclass(x)}
    return dataclasses.replace(
        part, **parts, **{"parameters": {}} if "parameters" in fields else {}
    )
