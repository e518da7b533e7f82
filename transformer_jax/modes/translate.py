"""Translate text: a file, standard input, or sentences typed at a prompt.

Line k of the output is the translation of line k of the input.

Examples:
    echo 我有一只猫 | launch.py --mode=translate --workdir=runs/quickstart
    launch.py --mode=translate --workdir=runs/mine --input=in.en --output=out.de
"""

import itertools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformer_jax import storage
from transformer_jax.console import log, progress_bar
from transformer_jax.data import text
from transformer_jax.errors import UserError
from transformer_jax.modes import output
from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch

if TYPE_CHECKING:
    from transformer_jax.inference.trained import Model
    from transformer_jax.inference.translator import Hypothesis


def define(flags: Flags) -> None:
    """Defines the flags."""
    flags.weights()
    flags.ensemble()
    flags.processes()
    flags.path("input", "File of sentences, one a line (default: standard input).")
    flags.path("output", "File for the translations (default: standard output).")
    flags.path("prefixes", "File whose line k is the text that translation k begins with.")
    many = "Translations of each line; more than 1 writes lines of NUMBER<TAB>SCORE<TAB>TEXT."
    flags.whole("n_best", many, default=1, at_least=1)


def run(launch: Launch) -> int:
    """Translates every line, or answers at a prompt."""
    launch.start(only_if_asked=True)
    from transformer_jax.inference.trained import check_n_best
    from transformer_jax.parallel import processes

    n_best, prefix_file, input_file = launch["n_best"], launch["prefixes"], launch["input"]
    check_n_best(launch.config.decode, n_best, "--n_best")
    output.check_writable(launch["output"])
    typed = input_file is None and sys.stdin.isatty() and not processes.joined()
    if typed and prefix_file:
        raise UserError("--prefixes goes with lines of text: give --input=FILE")
    sentences = [] if typed else _sentences(input_file)
    prefixes = text.read_lines(storage.path(prefix_file)) if prefix_file else None
    if prefixes is not None and len(prefixes) != len(sentences):
        raise UserError(
            f"{prefix_file} has {len(prefixes)} lines, and there are {len(sentences)} to "
            "translate: give one for each, which may be blank"
        )
    model = launch.load_model()
    if typed:
        _prompt(model, n_best)
        return 0
    with progress_bar(len(sentences), "translating") as bar:
        found = model.hypotheses(sentences, prefixes=prefixes, progress=bar.update)
    for number, hypotheses in enumerate(found, start=1):
        if not hypotheses:
            which = "it or its prefix is " if prefixes else ""
            log(f"line {number}: {which}too long to translate, left empty")
    lines = (_format(number, row, n_best) for number, row in enumerate(found, start=1))
    output.write(launch["output"], "".join(lines))
    return 0


def _sentences(input_file: str | None) -> list[str]:
    from transformer_jax.parallel import processes

    if input_file is not None:
        return text.read_lines(storage.path(input_file))
    if processes.joined():  # each would read its own, and wait for the others' sentences
        raise UserError("several processes cannot share standard input: give --input=FILE")
    return text.lines_of(sys.stdin.buffer, "standard input")


def _prompt(model: "Model", n_best: int) -> None:
    from transformer_jax.inference.batching import SOURCE_LENGTHS

    data = model.config.data
    log(f"{data.source_language} → {data.target_language}; an empty line ends")
    # Compiles now, so that only the first very long sentence has to wait.
    (word,) = model.tokenizers.source.encode(["a"])
    for pieces in SOURCE_LENGTHS[:3]:
        model.translate(" ".join(["a"] * ((pieces - 1) // len(word))))
    for number in itertools.count(1):
        try:
            line = input("> ")
        except EOFError:
            return
        if text.is_blank(line):
            return
        (hypotheses,) = model.hypotheses([line])
        answer = _format(number, hypotheses, n_best) if hypotheses else "too long to translate\n"
        print(answer, end="")


def _format(number: int, hypotheses: Sequence["Hypothesis"], n_best: int) -> str:
    if n_best == 1:
        return (hypotheses[0].text if hypotheses else "") + "\n"
    return "".join(f"{number}\t{h.score:.4f}\t{h.text}\n" for h in hypotheses[:n_best])
