"""Show what the model computes for a sentence, figure by figure, as a page in the browser.

With --output, the same page is written as one file that needs no server and no network.

Examples:
    launch.py --mode=inside --workdir=runs/quickstart
    launch.py --mode=inside --workdir=runs/quickstart --sentence=我有一只猫 --output=cat.html
"""

from typing import TYPE_CHECKING

from transformer_jax import storage
from transformer_jax.console import log
from transformer_jax.data import text
from transformer_jax.errors import UserError
from transformer_jax.modes import output
from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch
from transformer_jax.parallel import compilation_cache

if TYPE_CHECKING:
    from transformer_jax.inside.answers import Answers

MAX_SAVED_PARAMETERS = 3_000_000  # a larger model's matrices would not fit into a file of 5 MB


def define(flags: Flags) -> None:
    """Defines the flags."""
    flags.weights()
    flags.whole("port", "Port of the page; the next free one if it is taken.", 8321, at_least=1)
    flags.path("output", "File for the page, instead of a server.")
    flags.text("sentence", "With --output: sentence to show (default: the experiment's demo).")
    flags.path("input", "With --output: file of sentences to show, one a line.")


def run(launch: Launch) -> int:
    """Serves the page until it is interrupted, or writes it."""
    compilation_cache.use()
    if launch["output"]:
        sentences = _sentences(launch)
        with output.Output(launch["output"]) as file:
            file.write(_page(_answers(launch), sentences))
    elif launch["sentence"] or launch["input"]:
        raise UserError("--sentence and --input are for a file: give --output=FILE.html")
    else:
        _serve(_answers(launch), launch["port"])
    return 0


def _answers(launch: Launch) -> "Answers":
    from transformer_jax.inside.answers import Answers

    found = Answers(launch.load_model())
    steps = ", ".join(map(str, found.model.steps[0]))
    log(f"showing {launch.workdir}, checkpoint of step {steps}")
    return found


def _sentences(launch: Launch) -> list[str]:
    if launch["sentence"] and launch["input"]:
        raise UserError("--sentence and --input both name what to show: give one of them")
    if launch["input"]:
        lines = text.read_lines(storage.path(launch["input"]))
        found = [line for line in lines if not text.is_blank(line)]
    else:
        found = list(filter(None, [launch["sentence"] or launch.config.demo]))
    if not found:
        raise UserError("there is no sentence to show: give --sentence=…")
    return found


def _serve(answers: "Answers", port: int) -> None:
    try:
        from transformer_jax.inside import server
    except ModuleNotFoundError as e:
        raise UserError(
            f"--mode=inside needs {e.name}: pip install 'transformer_jax[inside]'"
        ) from None
    listening = server.bind(port)
    answers.warm_up()
    found = listening.getsockname()[1]
    taken = f" (port {port} is taken)" if found != port else ""
    log(f"open http://{server.ADDRESS}:{found}/ in a browser{taken}; press Ctrl-C to stop")
    server.serve(answers, listening)


def _page(answers: "Answers", sentences: list[str]) -> str:
    import jax

    from transformer_jax.inside import assets
    from transformer_jax.inside.answers import Question

    records = []
    for sentence in sentences:
        for checkpoint in (None, *answers.checkpoints()):
            question = Question(sentence, checkpoint=checkpoint)
            record = answers.whole(question, floats="float16")
            records.append({"source": sentence, "checkpoint": checkpoint, "record": record})
    number = sum(x.size for x in jax.tree.leaves(answers.model.params))
    parts = answers.attentions() if number <= MAX_SAVED_PARAMETERS else []
    matrices = {part: answers.parameters(part, None, floats="float16") for part in parts}
    return assets.single_file(answers.facts(), records, matrices)
