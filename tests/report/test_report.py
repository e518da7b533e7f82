"""Reports of runs and sweeps, complete and with parts missing, written as Markdown."""

import json
import math
import re
import shutil

import matplotlib.axes
import numpy as np
import pytest
from folders import write_lines, write_run, write_sweep
from launching import ROOT, launch, refusal

from experiments import table3
from transformer_jax.config import experiment_files
from transformer_jax.config.files import load_config
from transformer_jax.errors import UserError
from transformer_jax.report import document, importance, page, runs, statistics
from transformer_jax.report.document import (
    Document,
    Figure,
    Heading,
    Paragraph,
    Preformatted,
    Table,
)
from transformer_jax.workdir import average, card


def report(folder, paper=None):
    """Writes the report of a folder and returns its Markdown."""
    page.write(runs.read(folder), folder, paper)
    return (folder / "report.md").read_text(encoding="utf-8")


def table_rows(markdown, first):
    """The cells of the table whose header begins with `first`."""
    table = markdown[markdown.index(f"\n| {first} |") :].split("\n\n")[0]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.strip().split("\n")[2:]]
    return [[cell.strip().replace("\\", "") for cell in row] for row in cells]


# ----------------------------------------------------------------------------------- statistics
def two_sided(t, freedom):
    """P(|T| > t) of Student's distribution, by integrating its density."""
    x = np.linspace(0, t, 100_001)
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    density = math.exp(log_scale) / math.sqrt(freedom * math.pi)
    density = density * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    return 1 - 2 * np.trapezoid(density, x)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_an_interval_holds_the_true_mean_19_times_of_20(n):
    values = np.random.default_rng(7).normal(3.0, 2.0, n)
    error = np.std(values, ddof=1) / math.sqrt(n)
    assert two_sided(statistics.half_width(values.tolist()) / error, n - 1) == pytest.approx(0.05)
    assert statistics.half_width([1.5]) is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("a", "variance"), [([1.0, 2.0, 3.0], 1), ([2.0, 2.0, 2.0], 0)])
def test_welch_by_hand(a, variance):
    """Means 2 and 6, variances 1 or 0 of 3 values and 10 of 5."""
    found = statistics.welch(a, [2.0, 4.0, 6.0, 8.0, 10.0])
    error = math.sqrt(variance / 3 + 10 / 5)
    freedom = error**4 / ((variance / 3) ** 2 / 2 + (10 / 5) ** 2 / 4)
    assert found.value == pytest.approx(4)
    assert found.p == pytest.approx(two_sided(4 / error, freedom))
    assert two_sided(found.half_width / error, freedom) == pytest.approx(0.05)


@pytest.mark.parametrize(("a", "b"), [([1.0], [2.0, 3.0]), ([1.0, 1.0], [2.0, 2.0]), ([], [])])
def test_without_two_different_seeds_there_is_no_test(a, b):
    assert statistics.welch(a, b) is None


# ---------------------------------------------------------------------------- document and figures
def test_in_markdown_text_is_not_markup():
    texts = [
        "a|b",
        "`c`",
        "**d_e**",
        "[f](g)",
        "<b>h</b>",
        "i\n\n# j",
        "\\",
        "![k](l)",
        "&lt;",
        "$m$",
    ]
    written = document.to_markdown(Document("t", [Table(["x"], [[text] for text in texts])]), "f")
    assert written.strip().split("\n")[4:] == [
        "| a\\|b |",
        "| \\`c\\` |",
        "| \\*\\*d\\_e\\*\\* |",
        "| \\[f\\](g) |",
        "| &lt;b&gt;h&lt;/b&gt; |",
        "| i \\# j |",
        "| \\\\ |",
        "| \\!\\[k\\](l) |",
        "| &amp;lt; |",
        "| \\$m\\$ |",
    ]


def test_in_html_text_is_not_markup():
    text = "\"'<i>&amp;"
    figure, table = Figure("f", b"png", text), Table([text], [[text]])
    blocks = [
        Heading(text),
        Paragraph(text),
        Paragraph(text, True),
        Preformatted(text),
        figure,
        table,
    ]
    written = document.to_html(Document(text, blocks))
    assert "<i>" not in written
    assert written.count("&#34;&#39;&lt;i&gt;&amp;amp;") == 10, "title and alternative text twice"


def test_a_page_loads_nothing_and_runs_nothing(tmp_path):
    hostile = "</title></style><script>alert(1)</script>"
    report(write_run(tmp_path / "run", {"name": hostile, "data.path": hostile}))
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in html
    assert "<script" not in html and html.count("&lt;script&gt;") >= 3


@pytest.mark.filterwarnings("error")
def test_any_name_can_be_drawn(tmp_path):
    names = ("a_1", "$\\frac$", "猫" * 60, "<b>")
    points = [(name, {"model.d_ff": n + 1}, 2.0 + n, 1.0) for n, name in enumerate(names)]
    text = report(write_sweep(tmp_path / "sweep", points))
    assert len(re.findall(r"^!\[", text, re.MULTILINE)) == 6


def test_each_figure_shows_its_own_metric(tmp_path, monkeypatch):
    plotted, plot = [], matplotlib.axes.Axes.plot

    def see(axes, steps, values, **options):
        plotted.append((axes, list(zip(steps, values, strict=True))))
        return plot(axes, steps, values, **options)

    monkeypatch.setattr(matplotlib.axes.Axes, "plot", see)
    run = write_run(tmp_path / "run")
    report(run)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    of = lambda group, metric: [(r["step"], r[group][metric]) for r in rows if group in r]  # noqa: E731
    losses = of("train", "loss")
    windows = [losses[max(0, n - 24) : n + 1] for n in range(len(losses))]
    smooth = [(w[-1][0], pytest.approx(np.mean([loss for _, loss in w]))) for w in windows]
    valid, smoothed, raw, bleu, rate, norm = plotted
    for (axes, points), label, scale, expected in (
        (valid, "nats per token", "linear", of("valid", "loss")),
        (smoothed, "nats per token, smoothed labels", "linear", smooth),
        (raw, "nats per token, smoothed labels", "linear", losses),
        (bleu, "BLEU, greedy", "linear", of("valid", "bleu")),
        (rate, "learning rate", "linear", of("train", "learning_rate")),
        (norm, "norm of the gradient", "log", of("train", "gradient_norm")),
    ):
        assert (axes.get_ylabel(), axes.get_yscale()) == (label, scale)
        assert points == expected, label


# ---------------------------------------------------------------------------------------- a sweep
POINTS = [
    ("base_seed_0", {"seed": 0}, 2.0, 20.0),
    ("d_ff_17_seed_0", {"model.d_ff": 17, "seed": 0}, 1.5, 25.0),
    ("base_seed_1", {"seed": 1}, 2.2, 21.0),
    ("d_ff_17_seed_1", {"model.d_ff": 17, "seed": 1}, 1.6, 26.0),
    ("d_ff_19", {"model.d_ff": 19}, None, None),
    ("d_ff_23", {"model.d_ff": 23}, 1.9, 22.0),
]


def test_a_sweep_is_ranked_over_its_seeds_and_the_best_is_tested(tmp_path):
    text = report(write_sweep(tmp_path / "sweep", POINTS))
    found = {row[0]: row[1:4] for row in table_rows(text, "point")}
    assert list(found) == ["d_ff_17", "d_ff_23", "base", "d_ff_19"], "the best first"
    # Student's t at 97.5 % with one degree of freedom is 12.7062; the errors are 0.1 and 0.5.
    assert found["base"] == ["2", "2.1000 ± 1.2706", "20.50 ± 6.35"]
    assert found["d_ff_23"] == ["1", "1.9000", "22.00"]
    assert found["d_ff_19"] == ["0 of 1", "–", "–"]
    assert "error: it &lt;diverges&gt;" in text
    assert "Best, by mean validation loss: d\\_ff\\_17. Baseline: base (no changes)" in text
    loss, bleu = table_rows(text, "")
    error = math.hypot(0.1, 0.05)
    p = two_sided(0.55 / error, error**4 / (0.1**4 + 0.05**4))
    assert loss[3] == "2 and 2"
    assert loss[5:] == [f"{p:.4f}", f"{3 * p:.4f}"]
    assert loss[4].startswith("-0.5500 ±") and bleu[4].startswith("+5.00 ±")
    # Neither was evaluated on the validation set; the report names the command.
    assert "No test over the sentences" in text
    assert "--mode=evaluate" in text and "--split=valid" in text


def test_the_same_translations_of_the_validation_set_are_compared(tmp_path, caplog):
    folder = write_sweep(tmp_path / "sweep", POINTS[:2])
    for name, word in (("base_seed_0", "dog"), ("d_ff_17_seed_0", "cat")):
        evaluated = folder / name / "evaluation" / "valid"
        evaluated.mkdir(parents=True)
        texts = [(f"I have {n} {word}s", f"I have {n} cats") for n in range(13)]
        rows = [{"source": r, "translation": t, "reference": r} for t, r in texts]
        write_lines(evaluated / "translations.jsonl", rows)
        (evaluated / "scores.json").write_text('{"bleu_signature": "nrefs:1|tok:13a"}')
    text = report(folder)
    assert "No test over seeds" in text
    assert re.search(r"BLEU +\d+\.\d ± .* 100\.0 ± ", text)
    assert "13 sentences are too few" in text
    assert not caplog.records, "sacrebleu logs its steps"


def test_without_a_plain_point_the_first_is_the_baseline(tmp_path):
    text = report(write_sweep(tmp_path / "sweep", [POINTS[5], POINTS[1]]))
    assert "Baseline: d\\_ff\\_23 (the first point, since every point changes an option)" in text


def test_a_table_lists_all_of_forty_points_and_the_curves_the_best(tmp_path):
    points = [(f"p{n}", {"model.d_ff": n + 1}, 2 + n / 50, 20.0) for n in range(40)]
    text = report(write_sweep(tmp_path / "sweep", points))
    assert len(table_rows(text, "point")) == 40
    assert "In colour: the baseline, p0, and the 7 groups that rank highest" in text


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("tokenizer", "different vocabularies: their losses do not compare"),
        ("validation_text", "different validation sets: neither losses nor BLEU compare"),
    ],
)
def test_what_does_not_compare_is_named(tmp_path, name, warning):
    folder = write_sweep(tmp_path / "sweep", POINTS[:2])
    for point, content in zip(POINTS, ("aaaa", "bbbb"), strict=False):
        path = folder / point[0] / "card.json"
        found = json.loads(path.read_text())
        found["data"][name] = content
        path.write_text(json.dumps(found))
    text = report(folder)
    assert warning in text and text.count("The points have different") == 1


def test_points_with_different_vocabularies_are_ranked_by_bleu(tmp_path):
    points = [("small", {"data.vocab_size": 701}, 1.5, 20.0), ("large", {}, 2.5, 30.0)]
    folder = write_sweep(tmp_path / "sweep", points)
    assert "Best, by mean validation loss: small. Baseline: large" in report(folder)
    for name, _, _, _ in points:
        path = folder / name / "card.json"
        card = json.loads(path.read_text())
        card["data"]["tokenizer"] = name
        path.write_text(json.dumps(card))
    text = report(folder)
    assert "Best, by mean validation BLEU: large. Baseline: large" in text
    assert [row[0] for row in table_rows(text, "point")] == ["large", "small"]


def test_only_finished_points_count(tmp_path):
    folder = write_sweep(tmp_path / "s", [*POINTS, ("half", {"model.d_ff": 9}, 0.1, 90.0)])
    summary = json.loads((folder / "sweep.json").read_text())
    for state in ("running", "pruned", "interrupted"):
        summary["points"][-1]["state"] = state
        (folder / "sweep.json").write_text(json.dumps(summary))
        groups = runs.groups(runs.read(folder).runs)
        assert runs.ranking(groups)[0].name == "d_ff_17", state
        assert groups[-1].values("loss") == [], state


def test_the_same_seed_twice_is_one(tmp_path):
    points = [("a_seed_3", {"seed": 3}, 1.5, 20.0), ("again", {"seed": 3}, 1.5, 20.0)]
    text = report(write_sweep(tmp_path / "s", points))
    ((_, seeds, loss, *_),) = table_rows(text, "point")
    assert (seeds, loss) == ("1 of 2", "1.5000"), "a repetition makes no interval"
    assert "Not counted, because another point has the same seed: again." in text


def test_points_on_another_disk_have_the_loss_in_sweep_json(tmp_path):
    folder = write_sweep(tmp_path / "s", [("a", {}, 1.5, 20.0), ("b", {"seed": 1}, 1.75, 21.0)])
    shutil.rmtree(folder / "b")
    (group,) = runs.groups(runs.read(folder).runs)
    assert group.values("loss") == [1.5, 1.75]
    assert group.values("bleu") == [20.0]


def test_a_run_counts_with_the_average_that_validation_chose(tmp_path):
    folder = write_sweep(tmp_path / "s", [("a", {}, 1.5, 20.0), ("b", {"seed": 1}, 1.75, 21.0)])
    average.record(folder / "b", 400, [{"steps": [320, 400], "loss": 1.25, "bleu": 23.0}])
    (group,) = runs.groups(runs.read(folder).runs)
    assert (group.values("loss"), group.values("bleu")) == ([1.5, 1.25], [20.0, 23.0])
    chosen = "The average that validation chose, of step 320, 400: validation loss 1.2500"
    assert chosen in report(folder / "b")


def test_the_option_that_decides_is_the_important_one(tmp_path):
    points = [
        (f"p{a}{b}{c}", {"model.d_ff": a + 1, "model.norm": b, "seed": c}, 2 + a / 3 + c / 100, 9.0)
        for a in range(5)
        for b in ("post", "pre")
        for c in range(3)
    ]
    shares, warning = importance.importances(runs.read(write_sweep(tmp_path / "s", points)).runs)
    assert set(shares) == {"model.d_ff", "model.norm", "seed"}
    assert next(iter(shares)) == "model.d_ff" and shares["model.d_ff"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)
    assert warning == ""


def test_importances_of_few_points_are_a_hint_and_of_equal_points_none(tmp_path):
    """The base, which overrides nothing, counts with its configured d_ff."""
    base = ("base", {"seed": 0}, 2.0, 1.0)
    points = [(f"p{n}", {"seed": 0, "model.d_ff": n}, n / 7, 1.0) for n in (2, 3, 5)]
    text = report(write_sweep(tmp_path / "sweep", [base, *points]))
    assert table_rows(text, "option") == [["model.d_ff", "100.0 %"]]
    assert "4 points are too few for 1 options" in text
    same = [base, ("b", {"seed": 0, "model.d_ff": 5}, 2.0, 20.0)]
    assert "there are 2 of 1 different values" in report(write_sweep(tmp_path / "two", same))
    assert "No option differs" in report(write_sweep(tmp_path / "one", same[:1]))


def test_a_sweep_that_has_just_started_has_a_page(tmp_path):
    folder = write_sweep(tmp_path / "sweep", [("p", {"seed": 1}, None, None)])
    assert "Nothing to compare: no point has finished" in report(folder)
    (folder / "sweep.json").write_text('{"points": []}')
    assert "has no points" in report(folder)


# -------------------------------------------------------------------------------------- the paper
@pytest.mark.parametrize(
    ("experiment", "point", "bleu", "flops"),
    [
        ("table3", "table3_base", 27.3, 3.3e18),
        ("table3", "table3_laptop_big_seed_1", 28.4, 2.3e19),
        ("wmt14_en_de_base", "wmt14_en_de_base", 27.3, 3.3e18),
        ("wmt14_en_de_big", "wmt14_en_de_big", 28.4, 2.3e19),
        ("wmt14_en_fr_base", "wmt14_en_fr_base", 38.1, 3.3e18),
        ("wmt14_en_fr_big", "wmt14_en_fr_big", 41.8, 2.3e19),
    ],
)
def test_experiments_know_the_numbers_of_table_2(experiment, point, bleu, flops):
    paper = experiment_files.load_paper(ROOT / "experiments" / f"{experiment}.py")
    assert (paper(point)["test_bleu"], paper(point)["flops"]) == (bleu, flops)


def test_every_point_of_table_3_has_the_papers_numbers():
    rows = [
        table3.paper(point["name"]) for scale in ("", "laptop") for point in table3.sweep(scale)
    ]
    expected = [(r.label, r.perplexity, r.bleu, r.millions) for r in table3.TABLE]
    assert [(r["row"], r["perplexity"], r["bleu"], r["millions"]) for r in rows] == expected * 3
    assert table3.paper("quickstart") is None
    assert experiment_files.load_paper(ROOT / "experiments" / "quickstart.py") is None


def test_the_papers_numbers_stand_beside_ours(tmp_path):
    """Test BLEU is each seed's last by one model, the paper's tokenisation where there is one."""
    points = [
        ("table3_base", {}, math.log(5), 20.0),
        ("table3_base_seed_1", {"seed": 1}, math.log(5), 20.0),
        ("table3_A_heads_4", {"model.num_heads": 4}, 2.0, 10.0),
        ("other", {"model.d_ff": 9}, 2.0, 10.0),
    ]
    folder = write_sweep(tmp_path / "sweep", points)
    decode = {"method": "beam", "beam_size": 4}
    for name, split, bleu, facts in (
        ("table3_base", "test", 3.0, {"paper_bleu": 4.0}),
        ("table3_base", "test", 5.0, {"paper_bleu": 6.04}),
        ("table3_base", "test", 35.5, {"ensemble": ["b", "c"], "decode": decode}),
        ("table3_base", "valid", 7.0, {"paper_bleu": 8.0}),
        ("table3_base_seed_1", "test", 16.0, {"decode": decode}),
        ("table3_A_heads_4", "test", 9.0, {"paper_bleu": None}),  # not German
    ):
        scores = {"split": split, "weights": f"step {bleu}", "bleu": bleu}
        card.add_evaluation(folder / name, scores | facts)
    text = report(folder, table3.paper)
    base, heads = table_rows(text, "row")
    sizes = ["0.00695", "65", "5.55e+09", "3.30e+18"]
    assert base == ["base", "5.00", "4.92", "20.0", "25.8", "11.0", "27.3", *sizes]
    assert heads[:3] == ["A_heads_4", "7.39", "5.00"]
    assert heads[5:] == ["9.0", "–", "0.00695", "–", "5.55e+09", "–"]
    searches = {(row[0], row[3]) for row in table_rows(text, "run")}
    assert ("table3_base_seed_1", "beam 4") in searches
    assert ("table3_base", "beam 4, ensemble of 3") in searches


# ------------------------------------------------------------------ a run, and a folder of workdirs
def test_a_run_with_nothing_but_a_configuration_has_a_page(tmp_path):
    workdir = write_run(tmp_path / "run")
    for name in ("metrics.jsonl", "samples.jsonl", "card.json"):
        (workdir / name).unlink()
    text = report(workdir)
    assert "There is no validation yet" in text
    assert "Validation loss: nothing was recorded" in text
    assert "has kept no samples" in text
    assert "Without a card" in text
    assert "--mode=evaluate has not been run" in text
    assert not list((workdir / "report_figures").iterdir())


def test_the_last_translations_are_shown(tmp_path):
    text = report(write_run(tmp_path / "run"))
    assert table_rows(text, "source") == [["我有一只猫", "I have a cat", "I have a dog"]]
    assert "at step 400" in text


def test_evaluations_by_kind_of_sentence_are_tables(tmp_path):
    def row(name, bleu, chrf, sentences):
        return {"name": name, "sentences": sentences, "bleu": bleu, "chrf": chrf}

    workdir = write_run(tmp_path / "run")
    bins = {"words": [row("11–20", 7.06, 8.0, 1500), row("101 or more", 1.0, 2.0, 3)]}
    card.add_evaluation(workdir, {"split": "valid", "decode": {"method": "greedy"}, "bins": bins})
    bins = {"words": [row("1–10", 9.0, 10.0, 2)], "corpus": [row("a|b", 3.0, 4.0, 2)]}
    decode = {"method": "beam", "beam_size": 3, "choose": "mbr"}
    card.add_evaluation(workdir, {"split": "test", "decode": decode, "bins": bins})
    card.add_evaluation(workdir, {"split": "older", "bleu": 1.0})
    text = report(workdir)
    words = text[text.index("by words:") :]
    assert "| run | split | search | 1–10 | 11–20 | 101 or more |" in words
    assert table_rows(words, "run") == [
        ["run", "valid", "greedy", "–", "7.1 / 8.0 (1,500)", "1.0 / 2.0 (3)"],
        ["run", "test", "beam 3, mbr", "9.0 / 10.0 (2)", "–", "–"],
    ]
    assert table_rows(text[text.index("by corpus:") :], "run") == [
        ["run", "test", "beam 3, mbr", "3.0 / 4.0 (2)"]
    ]


def test_held_out_text_that_was_trained_on_is_named(tmp_path):
    counts = {
        "valid": {"pairs": 0, "sources": 0, "of": 7},
        "test": {"pairs": 2, "sources": 3, "of": 11},
    }
    workdir = write_run(tmp_path / "run", data={"trained_on": counts})
    for split in counts:
        scores = {"split": split, "bleu": 1.0, "trained_on": counts[split]}
        card.add_evaluation(workdir, scores)
    card.add_evaluation(workdir, {"split": "older", "bleu": 1.0})
    text = report(workdir)
    both = "0 pairs and 0 sources of 7 in valid; 2 pairs and 3 sources of 11 in test"
    assert ["also in the training text", both] in table_rows(text, "fact")
    assert "> run was trained on 2 pairs and 3 sources of 11 in test." in text
    assert text.count("was trained on") == 1


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ({"commit": "aaaa", "describe": "aaaa"}, "aaaa"),
        ({"commit": "aaaa", "describe": "v1-2-gaaaa-dirty"}, "aaaa with uncommitted changes"),
        ({"commit": "aaaa", "uncommitted": "0123"}, "aaaa with uncommitted changes"),  # older
        ({"commit": None, "describe": None}, "–"),
    ],
)
def test_uncommitted_changes_are_named(tmp_path, code, shown):
    assert ["commit", shown] in table_rows(report(write_run(tmp_path / "run", code=code)), "fact")


@pytest.mark.parametrize(
    "name",
    [
        *("card.json", "metrics.jsonl", "samples.jsonl", "config.json", "sweep.json"),
        "average.json",
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, name):
    workdir = write_run(tmp_path / "run")
    (workdir / name).write_bytes(b"\x00\n")
    with pytest.raises(UserError, match=rf"^[^\n]*{re.escape(name)} is damaged[^\n]*$"):
        runs.read(workdir)


def test_a_folder_of_workdirs_is_a_sweep(tmp_path):
    """As --sweep_index leaves it, on machines that know nothing of one another."""
    fast = {"optimizer.learning_rate_scale": 2.0}
    for name, overrides in (("fast_0", fast), ("fast_1", fast | {"seed": 1}), ("slow_0", {})):
        write_run(tmp_path / name, overrides)
    write_sweep(tmp_path / "inner", [("b", {}, 1.5, 20.0)])
    found = runs.read(tmp_path)
    assert found.is_sweep
    assert [run.overrides for run in found.runs] == [fast, fast | {"seed": 1}, {}]
    grouped = runs.groups(found.runs)
    assert [len(group.runs) for group in grouped] == [2, 1]
    assert runs.baseline(grouped).name == "slow_0"
    text = report(tmp_path)
    assert "a point changes the options that differ from most runs" in text
    assert "Sweeps in this folder are left out: inner" in text


def test_the_baseline_of_a_folder_is_what_most_runs_have_or_what_config_names(tmp_path):
    """Rows of Table 3 as the tasks of an array: each differs from base in one option."""
    for task, (name, overrides) in enumerate(
        [("heads", {"model.num_heads": 8}), ("base", {}), ("deep", {"model.num_layers": 7})]
    ):
        common = {"name": name, "model.num_heads": 2, "model.num_layers": 5}
        write_run(tmp_path / f"{task}", common | overrides)
    grouped = runs.groups(runs.read(tmp_path).runs)
    assert [group.name for group in grouped] == ["heads", "base", "deep"]
    assert runs.baseline(grouped).name == "base"
    deep = load_config(tmp_path / "2" / "config.json")
    grouped = runs.groups(runs.read(tmp_path, deep).runs)
    assert runs.baseline(grouped).name == "deep"
    assert grouped[1].overrides == {"model.num_layers": 5}


# -------------------------------------------------------------------------------- the launcher
@pytest.mark.fast
def test_the_report_of_a_training(workdir):
    done = launch("--mode=report", f"--workdir={workdir}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [f"{workdir}/report.html", f"{workdir}/report.md"]
    text = (workdir / "report.md").read_text(encoding="utf-8")
    names = re.findall(r"\]\((report_figures/\w+\.png)\)", text)
    assert len(names) == 5
    assert all((workdir / name).read_bytes().startswith(b"\x89PNG") for name in names)
    written = (workdir / "report.html").read_text(encoding="utf-8")
    assert written.count("data:image/png;base64,") == 5
    assert "6,948" in text and "tok:13a" in text
    assert launch("--mode=report", f"--workdir={workdir}").returncode == 0
    assert (workdir / "report.html").read_text(encoding="utf-8") == written, "the same every time"


def test_the_report_of_a_sweep_finds_the_paper(tmp_path):
    points = [
        (f"table3_laptop_{label}_seed_{seed}", {"seed": seed, **overrides}, 2.0, 3.0)
        for label, overrides in (("base", {}), ("C_d_ff_4096", {"model.d_ff": 14}))
        for seed in (0, 1)
    ]
    folder = write_sweep(tmp_path / "sweep", points, config="experiments/table3.py:laptop")
    done = launch("--mode=report", f"--workdir={folder}")
    assert (done.returncode, done.stderr) == (0, "")
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert [row[1] for row in table_rows(text, "point")] == ["2", "2"]
    assert [row[0] for row in table_rows(text, "row")] == ["base", "C_d_ff_4096"]


def test_an_experiment_that_a_folder_brings_along_is_not_run(tmp_path):
    for place in (tmp_path / "x.py", tmp_path / "experiments" / "x.py"):
        place.parent.mkdir(exist_ok=True)
        place.write_text("raise SystemExit('run')\n")
        folder = write_sweep(tmp_path / f"sweep{len(place.parts)}", POINTS[:1], config=str(place))
        assert launch("--mode=report", f"--workdir={folder}").returncode == 0


def test_a_folder_without_runs_is_refused(tmp_path):
    assert "is not a workdir, a sweep or a folder" in refusal(
        "--mode=report", f"--workdir={tmp_path}"
    )


def test_an_error_names_the_extra_that_is_missing(tmp_path, monkeypatch):
    (tmp_path / "jinja2.py").write_text("raise ModuleNotFoundError('x', name='jinja2')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    error = refusal("--mode=report", f"--workdir={write_run(tmp_path / 'run')}")
    assert "--mode=report needs jinja2: pip install 'transformer_jax[report]'" in error
