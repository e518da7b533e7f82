"""Translate text: a file, standard input, or sentences typed at a prompt.

Line k of the output is the translation of line k of the input. Until all are translated, --output
is NAME.part; after Ctrl-C, SIGTERM or a crash the same command resumes there.

Examples:
    echo 我有一只猫 | launch.py --mode=translate --workdir=runs/quickstart
    launch.py --mode=translate --workdir=runs/mine --input=in.en --output=out.de
    launch.py --mode=translate --workdir=runs/mine --batch_lines=1   # kept running by a program
"""

import hashlib
import itertools
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformer_jax import storage
from transformer_jax.console import log, progress_bar
from transformer_jax.data import text
from transformer_jax.errors import UserError
from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch
from transformer_jax.modes.output import InOrder, Output
from transformer_jax.parallel.host import signals_interrupt

if TYPE_CHECKING:
    from transformer_jax.inference.trained import Model
    from transformer_jax.inference.translator import Hypothesis

_STANDARD_INPUT = "standard input"


def define(flags: Flags) -> None:
    """Defines the flags."""
    flags.weights()
    flags.ensemble()
    flags.reverse()
    flags.processes()
    flags.path("input", "File of sentences, one a line (default: standard input).")
    flags.path("output", "File for the translations (default: standard output).")
    few = "Lines of standard input to answer at a time, each before the next are read"
    flags.whole("batch_lines", f"{few} (default: all).", at_least=1)
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
    if launch["batch_lines"]:
        _check_streams(launch)
        _answer(launch.load_model(), launch["batch_lines"], n_best)
        return 0
    if input_file is None and sys.stdin.isatty() and not processes.joined():
        if prefix_file:
            raise UserError("--prefixes goes with lines of text: give --input=FILE")
        _prompt(launch.load_model(), n_best)
        return 0
    sentences = _sentences(input_file)
    prefixes = text.read_lines(storage.path(prefix_file)) if prefix_file else None
    if prefixes is not None and len(prefixes) != len(sentences):
        raise UserError(
            f"{prefix_file} has {len(prefixes)} lines, and there are {len(sentences)} to "
            "translate: give one for each, which may be blank"
        )
    with signals_interrupt(), InOrder(launch["output"]) as lines:
        _translate(launch.load_model(), sentences, prefixes, n_best, lines)
    return 0


def _translate(
    model: "Model",
    sentences: Sequence[str],
    prefixes: Sequence[str] | None,
    n_best: int,
    lines: InOrder,
) -> None:
    def job() -> str:
        what = json.dumps([model.fingerprint(), sentences, prefixes, n_best])
        return hashlib.sha256(what.encode()).hexdigest()

    done = lines.begin(len(sentences), job)
    with progress_bar(len(sentences), "translating") as bar:
        bar.update(len(done))
        given = {"prefixes": prefixes, "n_best": n_best, "done": done}
        for numbers, found in model.as_found(sentences, **given):
            which = "it or its prefix is " if prefixes else ""
            lines.add(_formatted(numbers, found, n_best, which))
            bar.update(len(numbers))


def _answer(model: "Model", batch_lines: int, n_best: int) -> None:
    """Translates standard input a few lines at a time, and writes them before it reads more."""
    lines, count = text.lines_as_they_come(sys.stdin.buffer.raw, _STANDARD_INPUT), 0
    with Output(None) as output:
        while batch := list(itertools.islice(lines, batch_lines)):
            answers = _answers(model, batch, n_best, count)
            output.write("".join(answers[number] for number in sorted(answers)))
            output.flush()
            count += len(batch)


def _answers(model: "Model", lines: Sequence[str], n_best: int, first: int) -> dict[int, str]:
    """What to write for each line, by its number; the mistake of one does not end the others."""
    answers: dict[int, str] = {}
    try:
        for numbers, found in model.as_found(lines, n_best=n_best, first=first):
            answers |= _formatted(numbers, found, n_best)
    except UserError as e:  # the code of a language that the model lacks
        if len(lines) == 1:
            log(f"line {first + 1}: {e}; left empty")
            return {first: _format(first + 1, [], n_best)}
        for number, line in enumerate(lines, first):
            answers |= _answers(model, [line], n_best, number)
    return answers


def _check_streams(launch: Launch) -> None:
    from transformer_jax.parallel import processes

    if given := [f"--{name}" for name in ("input", "output", "prefixes") if launch[name]]:
        raise UserError(
            f"--batch_lines is for standard input and standard output: leave out {given[0]}"
        )
    if processes.joined():
        raise UserError("several processes cannot share standard input: leave out --batch_lines")


def _sentences(input_file: str | None) -> list[str]:
    from transformer_jax.parallel import processes

    if input_file is not None:
        return text.read_lines(storage.path(input_file))
    if processes.joined():  # each would read its own, and wait for the others' sentences
        raise UserError("several processes cannot share standard input: give --input=FILE")
    return text.lines_of(sys.stdin.buffer, _STANDARD_INPUT)


def _prompt(model: "Model", n_best: int) -> None:
    from transformer_jax.inference.batching import SOURCE_LENGTHS

    data = model.config.data
    log(f"{data.source_language} → {data.target_language}; enter an empty line to quit")
    # Compiles now, so that only the first very long sentence has to wait.
    source = model.tokenizers.source
    (word,) = source.encode(["a"])
    for pieces in SOURCE_LENGTHS[:3]:
        # A code of a language is one piece, as <eos> is another.
        words = ["a"] * ((pieces - 2) // len(word))
        model.translate(" ".join([*source.codes[:1], *words]))
    for count in itertools.count():
        try:
            line = input("> ")
        except EOFError:
            return
        if text.is_blank(line):
            return
        try:
            # As line k of a file: what is sampled depends on the number of the line.
            ((_, (hypotheses,)),) = model.as_found([line], n_best=n_best, first=count)
        except UserError as e:  # the code of a language that the model lacks
            log(f"error: {e}")
            continue
        answer = _format(count + 1, hypotheses, n_best) if hypotheses else "too long to translate\n"
        print(answer, end="")


def _formatted(
    numbers: Sequence[int], found: Sequence[Sequence["Hypothesis"]], n_best: int, which: str = ""
) -> dict[int, str]:
    """What to write for each line; logs those that, or `which` of them, are too long."""
    rows = dict(zip(numbers, found, strict=True))
    for number in (number for number, row in rows.items() if not row):
        log(f"line {number + 1}: {which}too long to translate, left empty")
    return {number: _format(number + 1, row, n_best) for number, row in rows.items()}


def _format(number: int, hypotheses: Sequence["Hypothesis"], n_best: int) -> str:
    if n_best == 1:
        return (hypotheses[0].text if hypotheses else "") + "\n"
    return "".join(f"{number}\t{h.score:.4f}\t{h.text}\n" for h in hypotheses[:n_best])
