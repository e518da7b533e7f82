"""Score given translations: how probable the model finds each, and each of its pieces.

Writes a line of JSON for each pair: source, translation, log_prob (nats), perplexity (per piece),
pieces and log_probs (of each piece, <eos> included). The numbers of a pair that is too long are
null. The perplexity of all pairs together is logged.

Examples:
    launch.py --mode=score --workdir=runs/mine --input=in.en --translations=out.de
    launch.py --mode=score --workdir=runs/mine --split=valid --output=scores.jsonl
"""

import json
import math
from typing import TYPE_CHECKING, Any

from transformer_jax import storage
from transformer_jax.console import log, progress_bar
from transformer_jax.data import text
from transformer_jax.errors import UserError
from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch
from transformer_jax.modes.output import Output

if TYPE_CHECKING:
    from transformer_jax.inference.scorer import TokenScores


def define(flags: Flags) -> None:
    """Defines the flags."""
    flags.split()
    flags.weights()
    flags.ensemble()
    flags.processes()
    flags.path("input", "File of sources, one a line.")
    flags.path("translations", "File whose line k translates line k of --input.")
    flags.path("output", "File for the scores (default: standard output).")


def run(launch: Launch) -> int:
    """Scores the pairs of two files or of a split."""
    launch.start()
    from transformer_jax.inference.scorer import perplexity

    pairs = _pairs(launch)
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
    with Output(launch["output"]) as output:
        model = launch.load_model()
        with progress_bar(len(pairs), "scoring") as bar:
            found = model.score(sources, targets, progress=bar.update)
        scored = [scores for scores in found if scores]
        if len(scored) < len(found):
            log(f"{len(found) - len(scored):,} pairs too long to score")
        if scored:
            log_prob = math.fsum(scores.log_prob for scores in scored)
            pieces = sum(len(scores.pieces) for scores in scored)
            log(
                f"{len(scored):,} translations, {pieces:,} pieces: {log_prob:.2f} nats, "
                f"perplexity {perplexity(log_prob, pieces):.3f} per piece"
            )
        output.write("".join(map(_line, pairs, found)))
    return 0


def _pairs(launch: Launch) -> list[tuple[str, str]]:
    from transformer_jax.data import held_out

    files = launch["input"], launch["translations"]
    if not any(files):
        workdirs = [launch.workdir, *launch.ensemble]
        corpus, _ = held_out.load_split(workdirs, launch.config.data, launch["split"])
        return corpus.pairs
    if not all(files):
        raise UserError("--mode=score takes --input=SOURCES --translations=FILE, or neither")
    sources, targets = (text.read_lines(storage.path(file)) for file in files)
    if len(sources) != len(targets):
        raise UserError(
            f"{files[0]} has {len(sources)} lines and {files[1]} {len(targets)}: line k of one "
            "has to translate line k of the other"
        )
    return list(zip(sources, targets, strict=True))


def _line(pair: tuple[str, str], scores: "TokenScores | None") -> str:
    line: dict[str, Any] = dict(zip(("source", "translation"), pair, strict=True))
    line["log_prob"] = scores and scores.log_prob
    # JSON has no infinity.
    line["perplexity"] = scores and (scores.perplexity if scores.perplexity < math.inf else None)
    line["pieces"] = scores and scores.pieces
    line["log_probs"] = scores and scores.log_probs
    return json.dumps(line, ensure_ascii=False) + "\n"
