"""What a run, or a sweep, has come to: report.html in one file, and report.md with its figures.

Nothing is asked of a network, and nothing of a device: what was written down is read and drawn.
"""

from collections.abc import Sequence
from pathlib import Path

from transformer_jax import storage
from transformer_jax.report import document, judgement, runs, sections
from transformer_jax.report.document import Block, Document, Paragraph
from transformer_jax.report.runs import Group, Reading
from transformer_jax.report.sections import Paper
from transformer_jax.storage import write_whole

HTML, MARKDOWN, FIGURES = "report.html", "report.md", "report_figures"


def write(reading: Reading, folder: Path, paper: Paper | None, where: str) -> None:
    """Writes report.html, report.md and report_figures/ into `folder`.

    Args:
      reading: see `runs.read`.
      folder: the workdir, or the sweep's folder.
      paper: see `command_line.load_paper`; None = there is none to compare with.
      where: the experiment file that it is from.

    Raises:
      UserError: if something cannot be written.
    """
    page = compose(reading, paper, where)
    storage.make_folder(folder / FIGURES)
    for figure in page.figures:
        write_whole(folder / FIGURES / f"{figure.name}.png", figure.png)
    write_whole(folder / MARKDOWN, document.to_markdown(page, FIGURES))
    write_whole(folder / HTML, document.to_html(page))


def compose(reading: Reading, paper: Paper | None, where: str) -> Document:
    """The page of a run or of a sweep."""
    groups = runs.groups(reading.runs)
    compared = sections.paper(groups, paper, where)
    blocks = _sweep(reading, groups, compared) if reading.is_sweep else _run(groups, compared)
    return Document(f"Report of {reading.title}", blocks)


def _run(groups: Sequence[Group], compared: Sequence[Block]) -> list[Block]:
    (run,) = groups[0].runs
    return [
        Paragraph(_summary(groups[0])),
        *sections.curves(groups),
        *sections.evaluations([run]),
        *compared,
        *sections.samples([("Validation sentences", run)]),
        *sections.facts([run]),
        *sections.options(run),
    ]


def _summary(group: Group) -> str:
    (run,) = group.runs
    loss, bleu = run.last("loss"), run.last("bleu")
    steps = run.series("valid", "loss")[0]
    if not steps:
        return f"State: {run.state}. There is no validation yet."
    said = [f"validation loss {loss:.4f} nats per token"] if loss is not None else []
    said += [f"BLEU {bleu:.2f} (greedy)"] if bleu is not None else []
    what = " and ".join(said) or "not finite"
    return f"State: {run.state}. The last validation, at step {steps[-1]:,}: {what}."


def _sweep(reading: Reading, groups: Sequence[Group], compared: Sequence[Block]) -> list[Block]:
    if not reading.runs:
        return [Paragraph("The sweep has no points.", True)]
    counts = {run.state: 0 for run in reading.runs}
    for run in reading.runs:
        counts[run.state] += 1
    states = ", ".join(f"{number} {state}" for state, number in counts.items())
    best, base = runs.best(groups), runs.baseline(groups)
    chosen = [] if best is None else [(f"Best, {best.name}", best.runs[0])]
    if base is not best:
        chosen.append((f"Baseline, {base.name}", base.runs[0]))
    return [
        Paragraph(f"{len(reading.runs)} points in {len(groups)} groups: {states}."),
        *([Paragraph(reading.note)] if reading.note else []),
        *sections.points(groups),
        *judgement.significance(groups),
        *judgement.importances(reading.runs),
        *sections.curves(groups),
        *compared,
        *sections.samples(chosen),
        *sections.evaluations(reading.runs),
        *sections.facts(reading.runs),
    ]
