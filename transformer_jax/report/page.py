"""Composes and writes the report of a run or a sweep: report.html, and report.md with its figures.

It uses no network and no device, and reads only what runs recorded.
"""

import collections
from collections.abc import Sequence
from pathlib import Path

from transformer_jax.report import curves, document, importance, runs, sections, significance
from transformer_jax.report.document import Block, Document, Figure, Paragraph
from transformer_jax.report.runs import Contents, Group, Run
from transformer_jax.report.sections import Paper
from transformer_jax.storage import make_folder, write_whole

HTML, MARKDOWN, FIGURES = "report.html", "report.md", "report_figures"


def write(contents: Contents, folder: Path, paper: Paper | None = None) -> None:
    """Writes report.html, report.md and report_figures/ into `folder`.

    Args:
      contents: see `runs.read`.
      folder: the workdir, or the sweep's folder.
      paper: see `experiment_files.load_paper`; None if there is no paper to compare with.

    Raises:
      UserError: if a file cannot be written.
    """
    page = compose(contents, paper)
    make_folder(folder / FIGURES)
    for block in page.blocks:
        if isinstance(block, Figure):
            write_whole(folder / FIGURES / f"{block.name}.png", block.png)
    write_whole(folder / MARKDOWN, document.to_markdown(page, FIGURES))
    write_whole(folder / HTML, document.to_html(page))


def compose(contents: Contents, paper: Paper | None) -> Document:
    """The page of a run or of a sweep."""
    groups = runs.groups(contents.runs)
    compared = sections.paper(groups, paper)
    blocks = _sweep(contents, groups, compared) if contents.is_sweep else _run(groups, compared)
    return Document(f"Report of {contents.title}", blocks)


def _run(groups: Sequence[Group], compared: Sequence[Block]) -> list[Block]:
    (run,) = groups[0].runs
    return [
        Paragraph(f"State: {run.state}. {_validation(run)}."),
        *curves.section(groups),
        *sections.evaluations([run]),
        *compared,
        *sections.samples([("Validation sentences", run)]),
        *sections.facts([run]),
        *sections.options(run),
    ]


def _validation(run: Run) -> str:
    if not run.validation:
        return "There is no validation yet"
    loss, bleu = run.score("loss"), run.score("bleu")
    found = [f"validation loss {loss:.4f} nats per token"] if loss is not None else ["not finite"]
    found += [f"BLEU {bleu:.2f} (greedy)"] if bleu is not None else []
    steps, (last, _) = run.validation["steps"], run.series("valid", "loss")
    is_last = steps == last[-1:]
    which = "last validation, at" if is_last else "average that validation chose, of"
    return f"The {which} step {', '.join(f'{step:,}' for step in steps)}: {' and '.join(found)}"


def _sweep(contents: Contents, groups: Sequence[Group], compared: Sequence[Block]) -> list[Block]:
    if not groups:
        return [Paragraph("The sweep has no points.", True)]
    counts = collections.Counter(run.state for run in contents.runs)
    states = ", ".join(f"{number} {state}" for state, number in counts.items())
    best, base = runs.ranking(groups)[0], runs.baseline(groups)
    chosen = [(f"Best, {best.name}", best.runs[0])] if best.finished else []
    if base is not best or not chosen:
        chosen.append((f"Baseline, {base.name}", base.runs[0]))
    return [
        Paragraph(f"{len(contents.runs)} points in {len(groups)} groups: {states}."),
        *([Paragraph(contents.note)] if contents.note else []),
        *sections.points(groups),
        *significance.section(groups),
        *importance.section(contents.runs),
        *curves.section(groups),
        *compared,
        *sections.samples(chosen),
        *sections.evaluations(contents.runs),
        *sections.facts(contents.runs),
    ]
