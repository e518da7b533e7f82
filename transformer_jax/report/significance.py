"""The section of a sweep's report that compares the best group with the baseline."""

from collections.abc import Sequence

from transformer_jax.errors import UserError
from transformer_jax.evaluation import comparison
from transformer_jax.report import runs, statistics
from transformer_jax.report.document import Block, Heading, Paragraph, Preformatted, Table
from transformer_jax.report.formats import NONE, mean
from transformer_jax.report.runs import Group


def section(groups: Sequence[Group]) -> list[Block]:
    """The best group against the baseline, over seeds and over sentences."""
    heading = Heading("The best against the baseline")
    best, base = runs.ranking(groups)[0], runs.baseline(groups)
    metric = runs.criterion(runs.all_runs(groups))
    if not best.values(metric) or not base.values(metric):
        missing = f"the baseline, {base.name}, has not" if best.values(metric) else "no point has"
        text = f"Nothing to compare: {missing} finished with a {runs.CRITERIA[metric]}."
        return [heading, Paragraph(text, True)]
    why = "the first point, since every point changes an option" if base.overrides else "no changes"
    which = f"Best, by mean {runs.CRITERIA[metric]}: {best.name}. Baseline: {base.name} ({why})."
    if best is base:
        return [heading, Paragraph(f"{which} Nothing is better than the baseline.")]
    compared = [*_over_seeds(best, base, len(groups)), *_over_sentences(best, base)]
    return [heading, Paragraph(which), *compared]


def _over_seeds(best: Group, base: Group, number: int) -> list[Block]:
    rows, tested = [], False
    for metric, label, digits in (("loss", "validation loss", 4), ("bleu", "BLEU", 2)):
        a, b = base.values(metric), best.values(metric)
        row = [label, mean(a, digits), mean(b, digits), f"{len(a)} and {len(b)}"]
        if test := statistics.welch(a, b):
            tested = True
            # The best of many is partly the best by chance: Bonferroni's correction.
            corrected = min(1.0, test.p * (number - 1))
            difference = f"{test.value:+.{digits}f} ± {test.half_width:.{digits}f}"
            rows.append([*row, difference, f"{test.p:.4f}", f"{corrected:.4f}"])
        else:
            rows.append([*row, NONE, NONE, NONE])
    header = ["", "baseline", "best", "seeds", "difference", "p", f"p × {number - 1}"]
    note = (
        "Over seeds: Welch's two-sided t-test, with the 95 % interval of the difference. p is the "
        "probability of a difference at least this large if both were equally good. Because the "
        f"best was chosen among {number}, rely on the last column (Bonferroni). Seeds that both "
        "share are not paired: what a seed does to both alike makes p larger."
    )
    if not tested:
        note = "No test over seeds: it needs two finished seeds of each, with different results."
    return [Table(header, rows, numbers=range(1, 7)), Paragraph(note, not tested)]


def _over_sentences(best: Group, base: Group) -> list[Block]:
    a, b = base.runs[0], best.runs[0]
    try:
        text = comparison.significance(a.workdir, b.workdir, split="valid")
    except UserError as e:
        return [Paragraph(f"No test over the sentences of the validation set: {e}", True)]
    about = (
        f"Over sentences: {a.name} (A) and {b.name} (B) on the same validation set, by the paired "
        "bootstrap. It distinguishes these two models, and does not predict other seeds:"
    )
    return [Paragraph(about), Preformatted(text)]
