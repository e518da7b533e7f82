"""The sections of a sweep's report that judge: which options mattered, and whether the best is."""

from collections.abc import Sequence

from transformer_jax.errors import UserError
from transformer_jax.evaluation import comparison
from transformer_jax.report import figures, importance, runs, sections, statistics
from transformer_jax.report.document import Block, Figure, Heading, Paragraph, Preformatted, Table
from transformer_jax.report.runs import Group, Run


def importances(listed: Sequence[Run]) -> list[Block]:
    """Which options explain the differences in validation loss."""
    found = importance.importances(listed)
    blocks: list[Block] = [Heading("Which options mattered")]
    if found.shares:
        blocks.append(
            Paragraph(
                f"Shares of the differences in validation loss among {found.points} finished "
                f"points that each option explains: {importance.EVALUATOR}. Options that were "
                "changed together cannot be distinguished, and what the seed explains is chance."
            )
        )
    if found.warning:
        blocks.append(Paragraph(found.warning, True))
    if found.shares:
        names, shares = list(found.shares), list(found.shares.values())
        png = figures.bars(names, shares, label="share of the differences in validation loss")
        rows = [[name, f"{100 * share:.1f} %"] for name, share in found.shares.items()]
        blocks.append(Figure("importances", png, "Importance of each option"))
        blocks.append(Table(["option", "importance"], rows, numbers=(1,)))
    return blocks


def significance(groups: Sequence[Group]) -> list[Block]:
    """The best group against the baseline: over seeds, and over sentences."""
    blocks: list[Block] = [Heading("The best against the baseline")]
    best, base = runs.best(groups), runs.baseline(groups)
    if best is None or not base.values("loss"):
        what = "no point is" if best is None else f"the baseline, {base.name}, is not"
        return [*blocks, Paragraph(f"Nothing to compare: {what} finished with a loss.", True)]
    why = "it changes nothing" if not base.overrides else "the first: none changes nothing"
    blocks.append(
        Paragraph(f"Best, by mean validation loss: {best.name}. Baseline: {base.name} ({why}).")
    )
    if best is base:
        return [*blocks, Paragraph("They are the same: nothing is better than the baseline.")]
    return [*blocks, *_over_seeds(best, base, len(groups)), *_over_sentences(best, base)]


def _over_seeds(best: Group, base: Group, number: int) -> list[Block]:
    rows, tested = [], False
    for metric, label, digits in (("loss", "validation loss", 4), ("bleu", "BLEU", 2)):
        of_base, of_best = base.values(metric), best.values(metric)
        means = [
            sections.interval(statistics.mean(values), digits) for values in (of_base, of_best)
        ]
        found = statistics.welch(of_base, of_best)
        tested = tested or found is not None
        counts = f"{len(of_base)} and {len(of_best)}"
        test = [sections.NONE] * 3
        if found:
            # The best of many is the best by chance, too: Bonferroni's correction for that.
            corrected = min(1.0, found.p * (number - 1))
            difference = f"{found.value:+.{digits}f} ± {found.half_width:.{digits}f}"
            test = [difference, f"{found.p:.4f}", f"{corrected:.4f}"]
        rows.append([label, *means, counts, *test])
    header = ["", "baseline", "best", "seeds", "difference", "p", f"p × {number - 1}"]
    blocks: list[Block] = [Table(header, rows, numbers=range(1, 7))]
    if tested:
        note = (
            "Over seeds: Welch's t-test, two-sided, with the 95 % interval of the difference. p is "
            "how often chance alone makes a difference this large, were both equally good. As the "
            f"best was chosen among {number}, the last column is the p to go by (Bonferroni). "
            "Seeds that both have are not paired: what a seed does to both alike makes p larger."
        )
        return [*blocks, Paragraph(note)]
    note = "No test over seeds: it needs two finished seeds or more of each, that differ."
    return [*blocks, Paragraph(note, True)]


def _over_sentences(best: Group, base: Group) -> list[Block]:
    a, b = base.runs[0], best.runs[0]
    try:
        text = comparison.significance(a.workdir, b.workdir, split="valid")
    except UserError as e:
        note = f"No test over the sentences of the validation set: {e}"
        return [Paragraph(note, True)]
    about = (
        f"Over sentences, {a.name} (A) and {b.name} (B) on the same validation set, by the paired "
        "bootstrap. It tells apart these two models, not what another seed would give:"
    )
    return [Paragraph(about), Preformatted(text)]
