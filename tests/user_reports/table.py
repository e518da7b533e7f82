"""What users of other toolkits reported, and whether it is right here: `make user-reports`.

Each kind of report has tests in this folder; this script runs them and prints a table.
"""

import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent


class Kind(NamedTuple):
    """A kind of report; its tests are those of `file` whose names match `pattern`."""

    reported: str
    here: str
    file: str
    pattern: str = ""


KINDS = [
    Kind(
        'evaluating on "test" text that was trained on, since the text or an option has changed',
        "the held-out pairs belong to the workdir; another cut is an error, other text counted",
        "test_held_out.py",
        "grew|gone|cut|recorded|record_is|ensemble|training_split|another_text",
    ),
    Kind(
        "a test set that lies inside the training set",
        "pairs and sources are counted in the log, scores.json, the card and the report",
        "test_held_out.py",
        "given|white_space|fingerprints",
    ),
    Kind(
        "one process of several waits in silence, then aborts",
        "a line at once, one after a minute, and a clean exit; what needs no company joins nobody",
        "test_waiting.py",
    ),
    Kind(
        "~ in a path makes a folder of that name; relative and comma-ridden paths",
        "every path is read in one place; config.json has absolute ones; quotes hold a comma",
        "test_paths.py",
    ),
    Kind(
        "a line of invisible characters is translated into an invented sentence",
        "what has nothing visible is blank, in training, translation, scoring and at the prompt",
        "test_text.py",
        "visible",
    ),
    Kind(
        "no-break spaces, byte order marks and NFD change a translation",
        "the tokenizer's own rules give text that looks alike the same pieces",
        "test_text.py",
        "look|alike|normal|rules|no_break|references",
    ),
    Kind(
        "BLEU of 0 for Japanese, Thai and others; tokenised references",
        "a table of languages chooses the tokenizer; a warning follows the text",
        "test_bleu.py",
    ),
    Kind(
        "a tokenizer, configuration or checkpoint of another run is used",
        "refused by name: a checkpoint lists what it was trained with",
        "test_parts.py",
    ),
    Kind(
        "an interruption, or an output that cannot be written, loses hours of translation",
        "the output is opened first, written in order, and resumed",
        "test_output.py",
        "interrupt|keeps|saved|save_|job|written|pipe|reader|link|failure|several",
    ),
    Kind(
        "text that the locale cannot write is a traceback after the work",
        "the standard streams are UTF-8",
        "test_output.py",
        "utf8",
    ),
    Kind(
        "jax or Optuna fails with pages of traceback; advice that cannot be followed",
        "one line with what to change",
        "test_mistakes.py",
    ),
    Kind(
        "compressed text is not UTF-8, or is written without compression",
        "gz, bz2, xz and zst are known by their first bytes, and written by the file's name",
        "test_text.py",
        "compressed|archive|package|first_bytes",
    ),
    Kind(
        "a file with carriage returns alone is one line",
        "refused, with the counts",
        "test_text.py",
        "carriage",
    ),
    Kind(
        "a library's message names options that do not exist; lines are skipped in silence",
        "our option, and a size that fits; the lines are counted",
        "test_text.py",
        "vocabulary",
    ),
    Kind(
        "two lines cost what a full batch costs",
        "batches have a power of two of rows, and lengths share them",
        "test_batches.py",
    ),
    Kind("one sample a line; the prompt repeats itself", "n samples, new ones", "test_sampling.py"),
    Kind(
        "distilled models, whose decoder is shallower, are refused",
        "encoder and decoder have depths of their own",
        "test_depth.py",
        "student",
    ),
    Kind(
        "a model with two vocabularies is described with the size of one",
        "a workdir is described by the parameters that it has",
        "test_depth.py",
        "describe",
    ),
    Kind(
        "an import drops what the model's files say about generating",
        "it is honoured, as Hugging Face does it, or named in one line",
        "test_imports.py",
    ),
    Kind(
        "a wrong, misplaced or missing >>code<< gives another language",
        "an error lists the codes; one option sets the code of all lines; none is a warning",
        "test_multilingual.py",
    ),
    Kind('an imported model prints " ⁇ "', "<unk> is never generated", "test_unknown_pieces.py"),
]


def results() -> dict[str, list[tuple[str, str]]]:
    """{file: [(name of a test, "passed", "skipped" or "failed")]} of the tests in this folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-q", str(FOLDER), f"--junit-xml={path}"]
        subprocess.run([*command, "-n", "2"], stdout=sys.stderr, check=False)
        found: dict[str, list[tuple[str, str]]] = {}
        for case in ElementTree.parse(path).iter("testcase"):
            file = case.get("classname", "").rpartition(".")[2] + ".py"
            kinds = {child.tag for child in case}
            how = "failed" if kinds & {"failure", "error"} else "passed"
            how = "skipped" if "skipped" in kinds else how
            found.setdefault(file, []).append((case.get("name", ""), how))
    return found


def main() -> int:
    """Prints the table; returns 1 if a kind is wrong."""
    found, wrong = results(), 0
    print("| reported | here | tests | |\n| --- | --- | --- | --- |")
    for kind in KINDS:
        tests = [t for t in found.get(kind.file, []) if re.search(kind.pattern, t[0])]
        hows = ("passed", "skipped", "failed")
        passed, skipped, failed = ([name for name, how in tests if how == h] for h in hows)
        right = passed and not failed
        wrong += not right
        verdict = "right" if right else f"wrong: {', '.join(failed) or 'no test ran'}"
        verdict += f" ({len(skipped)} skipped)" if skipped else ""
        print(f"| {kind.reported} | {kind.here} | {len(passed)} in {kind.file} | {verdict} |")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
