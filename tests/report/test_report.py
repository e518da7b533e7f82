"""Reports: of runs and sweeps, whole and with parts missing; what is damaged is said in a line."""

import json
import math
import re
import shutil

import matplotlib.axes
import numpy as np
import pytest
from folders import write_lines, write_run, write_sweep
from launching import ROOT, launch, refusal
from scipy import stats

from experiments import table3
from transformer_jax.config import experiment_files
from transformer_jax.config.files import load_config, save_config
from transformer_jax.config.options import Config
from transformer_jax.errors import UserError
from transformer_jax.report import document, figures, importance, runs, statistics
from transformer_jax.report import page as report_page
from transformer_jax.report.document import Document, Figure, Heading, Paragraph, Preformatted
from transformer_jax.report.document import Table as TableBlock
from transformer_jax.workdir import card

HOSTILE = ["a|b", "`c`", "**d**", "[e](http://f)", "<b>g</b>", "\n\n# h", "\\", "![i](j)", "&lt;"]


def page(folder, paper=None):
    """The report of a folder as Markdown, which is written, with its figures, into it."""
    report_page.write(runs.read(folder), folder, paper, "an experiment")
    return (folder / "report.md").read_text(encoding="utf-8")


def table_rows(markdown, first):
    """The cells of the table whose header begins with `first`."""
    lines = iter(markdown.split("\n"))
    next(line for line in lines if line.startswith(f"| {first} |"))
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


# ----------------------------------------------------------------------------------- statistics
@pytest.mark.parametrize("n", [2, 3, 5])
def test_intervals_hold_the_truth_as_often_as_they_say(n):
    rng, hits = np.random.default_rng(7), 0
    for _ in range(4000):
        found = statistics.mean(rng.normal(3.0, 2.0, n).tolist())
        hits += abs(found.value - 3.0) <= found.half_width
    assert hits / 4000 == pytest.approx(0.95, abs=0.012)


def test_one_seed_has_no_interval():
    assert statistics.mean([1.5]) == statistics.Mean(1.5, None, 1)
    assert statistics.mean([]) is None


def test_welch_is_scipys():
    a, b = [1.0, 1.3, 0.9], [2.0, 2.9, 1.1, 2.2, 1.7]
    found, expected = statistics.welch(a, b), stats.ttest_ind(b, a, equal_var=False)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.95)
    assert found.value - found.half_width == pytest.approx(interval.low)
    assert found.value + found.half_width == pytest.approx(interval.high)


@pytest.mark.parametrize(("a", "b"), [([1.0], [2.0, 3.0]), ([1.0, 1.0], [2.0, 2.0]), ([], [])])
def test_without_two_seeds_that_differ_there_is_no_test(a, b):
    assert statistics.welch(a, b) is None


# ----------------------------------------------------------------------------------- the document
def test_in_a_table_of_markdown_nothing_is_markup():
    table = TableBlock(["x"], [[text] for text in HOSTILE])
    lines = document.to_markdown(Document("t", [table]), "f").strip().split("\n")[4:]
    assert lines == [
        "| a\\|b |",
        "| \\`c\\` |",
        "| \\*\\*d\\*\\* |",
        "| \\[e\\](http&#58;//f) |",
        "| &lt;b&gt;g&lt;/b&gt; |",
        "| \\# h |",
        "| \\\\ |",
        "| \\!\\[i\\](j) |",
        "| &amp;lt; |",
    ]


@pytest.mark.parametrize("text", ["- x", "+ x", "1. x", "12) x", "12.", "=== ", "---"])
def test_a_paragraph_of_markdown_begins_no_list(text):
    written = document.to_markdown(Document("t", [Paragraph(text)]), "f").split("\n")[2]
    assert re.match(r"&#\d+;", written)


def test_a_fence_is_longer_than_what_it_holds():
    written = document.to_markdown(Document("t", [Preformatted("a\n````\nb")]), "f")
    assert written.split("\n")[2:] == ["`````text", "a", "````", "b", "`````", ""]


def test_in_html_nothing_is_markup():
    blocks = [
        Heading("<i>"),
        Paragraph("<i>"),
        Preformatted("<i>"),
        Figure("f", b"png", '"<i>'),
        TableBlock(["<i>"], [["<i>\x00\ud800"]]),
    ]
    written = document.to_html(Document("<i>", blocks))
    assert "<i>" not in written
    assert written.count("&lt;i&gt;") == 8 + 1
    assert 'alt="&quot;&lt;i&gt;"' in written
    assert "\x00" not in written and "\ud800" not in written


# ---------------------------------------------------------------------------------------- figures
def test_a_curve_without_points_is_none():
    nothing = figures.Line("a", [1, 2], [math.nan, math.inf])
    assert figures.curves([nothing], label="x") is None
    assert figures.curves([], label="x") is None


def test_names_are_drawn_as_they_are():
    lines = [figures.Line(name, [1, 2], [3, 4]) for name in ("_a", "$\\frac$", "猫" * 60, "")]
    for logarithmic in (True, False):
        png = figures.curves(lines, label="$x", logarithmic=logarithmic)
        assert png.startswith(b"\x89PNG")
    assert figures.curves(lines, label="$x") == figures.curves(lines, label="$x")


# ---------------------------------------------------------------------------------------- a sweep
POINTS = [
    ("base_seed_0", {"seed": 0}, 2.0, 20.0),
    ("d_ff_17_seed_0", {"model.d_ff": 17, "seed": 0}, 1.5, 25.0),
    ("base_seed_1", {"seed": 1}, 2.2, 21.0),
    ("d_ff_17_seed_1", {"model.d_ff": 17, "seed": 1}, 1.6, 26.0),
    ("d_ff_19", {"model.d_ff": 19}, None, None),
    ("d_ff_23", {"model.d_ff": 23}, 1.9, 22.0),
]


def test_points_that_differ_in_the_seed_are_one_row(tmp_path):
    text = page(write_sweep(tmp_path / "sweep", POINTS))
    found = {row[0]: row[1:4] for row in table_rows(text, "point")}
    assert list(found) == ["d\\_ff\\_17", "d\\_ff\\_23", "base", "d\\_ff\\_19"], "the best first"
    width = stats.t.ppf(0.975, 1) * np.std([2.0, 2.2], ddof=1) / math.sqrt(2)
    assert found["base"] == ["2", f"2.1000 ± {width:.4f}", "20.50 ± 6.35"]
    assert found["d\\_ff\\_23"] == ["1", "1.9000", "22.00"]
    assert found["d\\_ff\\_19"] == ["0 of 1", "–", "–"]
    assert "error: it &lt;diverges&gt;" in text


def test_the_best_is_tested_against_the_baseline(tmp_path):
    text = page(write_sweep(tmp_path / "sweep", POINTS))
    assert "Best, by mean validation loss: d\\_ff\\_17. Baseline: base (it changes nothing)" in text
    loss, bleu = table_rows(text, "")
    expected = stats.ttest_ind([1.5, 1.6], [2.0, 2.2], equal_var=False).pvalue
    assert loss[3] == "2 and 2"
    assert loss[5:] == [f"{expected:.4f}", f"{min(1, 3 * expected):.4f}"]
    assert loss[4].startswith("-0.5500 ±") and bleu[4].startswith("+5.00 ±")
    # Neither was evaluated on the validation set, and the page says so, and how.
    assert "No test over the sentences" in text
    assert "--mode=evaluate" in text and "--split=valid" in text


def test_the_same_translations_of_the_validation_set_are_compared(tmp_path, caplog):
    folder = write_sweep(tmp_path / "sweep", POINTS[:2])
    signature = {"bleu_signature": "nrefs:1|tok:13a"}
    for name, word in (("base_seed_0", "dog"), ("d_ff_17_seed_0", "cat")):
        evaluated = folder / name / "evaluation" / "valid"
        evaluated.mkdir(parents=True)
        rows = [
            {
                "source": f"s{n}",
                "translation": f"I have {n} {word}s",
                "reference": f"I have {n} cats",
            }
            for n in range(13)
        ]
        write_lines(evaluated / "translations.jsonl", rows)
        (evaluated / "scores.json").write_text(json.dumps(signature))
    text = page(folder)
    assert "No test over seeds" in text
    assert re.search(r"BLEU +\d+\.\d ± .* 100\.0 ± ", text)
    assert "13 sentences are too few" in text
    assert not caplog.records, "sacrebleu's steps are nobody's business"


def test_without_a_plain_point_the_first_is_the_baseline(tmp_path):
    points = [POINTS[5], POINTS[1]]
    text = page(write_sweep(tmp_path / "sweep", points))
    assert "Baseline: d\\_ff\\_23 (the first: none changes nothing)" in text


def test_of_forty_points_all_stand_in_the_table(tmp_path):
    points = [(f"p{n}", {"model.d_ff": n + 1}, 2 + n / 50, 20.0) for n in range(40)]
    text = page(write_sweep(tmp_path / "sweep", points))
    assert len(table_rows(text, "point")) == 40
    assert "In colour: p0, which is the baseline, and the 7 with the least validation loss" in text


def test_losses_of_different_vocabularies_are_not_compared_in_silence(tmp_path):
    folder = write_sweep(tmp_path / "sweep", POINTS[:2])
    assert "vocabularies" not in page(folder)
    path = folder / "base_seed_0" / "card.json"
    path.write_text(path.read_text().replace("fedcba98", "00000000"))
    assert "different vocabularies: their losses do not compare" in page(folder)


def test_other_validation_sets_are_not_compared_in_silence(tmp_path):
    folder = write_sweep(tmp_path / "sweep", POINTS[:2])
    for point, text in zip(POINTS, ("aaaa", "bbbb"), strict=False):
        path = folder / point[0] / "card.json"
        found = json.loads(path.read_text())
        found["data"]["validation_text"] = text
        assert "different validation sets" not in page(folder)
        path.write_text(json.dumps(found))
    assert "different validation sets: neither losses nor BLEU compare" in page(folder)


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ({"commit": "aaaa", "describe": "aaaa"}, "none"),
        ({"commit": "aaaa", "describe": "v1-2-gaaaa-dirty"}, "yes"),
        ({"commit": "aaaa", "uncommitted": "0123456789abcdef"}, "0123456789abcdef"),  # older cards
        ({"commit": "aaaa", "uncommitted": None}, "none"),
    ],
)
def test_uncommitted_changes_are_named(tmp_path, code, shown):
    text = page(write_run(tmp_path / "run", code=code))
    assert ["uncommitted changes", shown] in table_rows(text, "fact")


# ------------------------------------------------------------------------------------ importances
def test_the_option_that_decides_is_the_important_one(tmp_path):
    points = [
        (f"p{a}{b}{c}", {"model.d_ff": a + 1, "model.norm": b, "seed": c}, 2 + a / 3 + c / 100, 9.0)
        for a in range(5)
        for b in ("post", "pre")
        for c in range(3)
    ]
    found = importance.importances(runs.read(write_sweep(tmp_path / "sweep", points)).runs)
    assert next(iter(found.shares)) == "model.d_ff"
    assert found.shares["model.d_ff"] > 0.9
    assert set(found.shares) == {"model.d_ff", "model.norm", "seed"}
    assert sum(found.shares.values()) == pytest.approx(1)
    assert (found.points, found.warning) == (30, "")


def test_an_option_that_a_point_does_not_override_counts_as_configured(tmp_path):
    points = [
        ("base", {}, 2.0, 1.0),
        *((f"p{n}", {"model.d_ff": n}, n / 7, 1.0) for n in (2, 3, 5)),
    ]
    listed = runs.read(write_sweep(tmp_path / "sweep", points)).runs
    assert importance._varied(listed) == {"model.d_ff": [Config().model.d_ff, 2, 3, 5]}
    found = importance.importances(listed)
    assert found.points == 4
    assert found.shares == {"model.d_ff": pytest.approx(1)}
    assert "4 points are too few for 1 options" in found.warning


def test_where_nothing_can_have_mattered_the_page_says_so(tmp_path):
    points = [("a", {"seed": 0}, 2.0, 20.0), ("b", {"seed": 0, "model.d_ff": 5}, 2.0, 20.0)]
    text = page(write_sweep(tmp_path / "sweep", points))
    assert "Too little to say which option mattered" in text
    assert not (tmp_path / "sweep/report_figures/importances.png").exists()
    assert "no option differs" in page(write_sweep(tmp_path / "one", points[:1]))


# -------------------------------------------------------------------------------------- the paper
@pytest.mark.parametrize("scale", ["", "laptop"])
def test_every_row_of_table_3_has_what_the_paper_printed(scale):
    rows = [table3.paper(point["name"]) for point in table3.sweep(scale)]
    expected = [(r.label, r.perplexity, r.bleu, r.millions) for r in table3.TABLE]
    expected *= 2 if scale else 1
    assert [(r["row"], r["perplexity"], r["bleu"], r["millions"]) for r in rows] == expected
    in_table_2 = [(r["row"], r["test_bleu"], r["flops"]) for r in rows if "flops" in r]
    expected = [("base", 27.3, 3.3e18), ("big", 28.4, 2.3e19)] * (2 if scale else 1)
    assert in_table_2 == expected
    assert table3.paper("quickstart") is None


def test_an_experiment_without_a_paper_has_none(tmp_path):
    assert experiment_files.load_paper(ROOT / "experiments" / "quickstart.py") is None
    assert (
        experiment_files.load_paper(ROOT / "experiments" / "table3.py")("table3_big")["bleu"]
        == 26.4
    )


def test_the_numbers_of_the_paper_stand_beside_ours(tmp_path):
    points = [
        ("table3_base", {}, math.log(5), 20.0),
        ("table3_A_heads_4", {"model.num_heads": 4}, 2.0, 10.0),
        ("other", {"model.d_ff": 9}, 2.0, 10.0),
    ]
    folder = write_sweep(tmp_path / "sweep", points)
    for split, bleu, paper_bleu in (("test", 3.0, 4.0), ("test", 5.0, 6.04), ("valid", 7.0, 8.0)):
        measured = {"split": split, "weights": f"{bleu}", "bleu": bleu, "paper_bleu": paper_bleu}
        card.add_evaluation(folder / "table3_base", measured)
    measured = {"split": "test", "bleu": 9.0, "paper_bleu": None}  # not German
    card.add_evaluation(folder / "table3_A_heads_4", measured)
    base, heads = table_rows(page(folder, table3.paper), "row")
    sizes = ["0.00695", "65", "5.55e+09", "3.30e+18"]
    assert base == ["base", "5.00", "4.92", "20.0", "25.8", "6.0", "27.3", *sizes]
    assert heads[:3] == ["A\\_heads\\_4", "7.39", "5.00"]
    assert heads[5:] == ["9.0", "–", "0.00695", "–", "5.55e+09", "–"]


@pytest.mark.parametrize(
    ("name", "bleu", "flops"),
    [
        ("wmt14_en_de_base", 27.3, 3.3e18),
        ("wmt14_en_de_big", 28.4, 2.3e19),
        ("wmt14_en_fr_base", 38.1, 3.3e18),
        ("wmt14_en_fr_big", 41.8, 2.3e19),
    ],
)
def test_table_2_stands_beside_the_papers_own_experiments(tmp_path, name, bleu, flops):
    paper = experiment_files.load_paper(ROOT / "experiments" / f"{name}.py")
    (row,) = table_rows(page(write_run(tmp_path / name), paper), "row")
    assert (row[6], row[-1]) == (f"{bleu}", f"{flops:.2e}")


# ------------------------------------------------------------------------- missing and damaged
def test_a_run_with_nothing_but_a_configuration_has_a_page(tmp_path):
    workdir = write_run(tmp_path / "run")
    for name in ("metrics.jsonl", "samples.jsonl", "card.json"):
        (workdir / name).unlink()
    text = page(workdir)
    assert "There is no validation yet" in text
    assert "No curve of the validation loss" in text
    assert "has kept no samples" in text
    assert "Without a card" in text
    assert "has measured nothing" in text
    assert not list((workdir / "report_figures").iterdir())


def test_a_sweep_that_has_only_begun_has_a_page(tmp_path):
    folder = write_sweep(tmp_path / "sweep", [("p", {"seed": 1}, None, None)])
    assert "Nothing to compare: no point is finished" in page(folder)
    summary = json.loads((folder / "sweep.json").read_text()) | {"points": []}
    (folder / "sweep.json").write_text(json.dumps(summary))
    assert "has no points" in page(folder)


def test_the_last_translations_are_shown(tmp_path):
    text = page(write_run(tmp_path / "run"))
    assert table_rows(text, "source") == [["我有一只猫", "I have a cat", "I have a dog"]]
    assert "at step 400" in text


@pytest.mark.parametrize("name", ["card.json", "metrics.jsonl", "samples.jsonl", "config.json"])
@pytest.mark.parametrize("content", [b"{\n", b"[]\n", b"\xff\xfe\n", b'{"step": 1}\n'])
def test_what_is_damaged_is_named_in_one_line(tmp_path, name, content):
    workdir = write_run(tmp_path / "run")
    (workdir / name).write_bytes(content)
    if (name, content) == ("metrics.jsonl", b'{"step": 1}\n'):
        return
    with pytest.raises(UserError, match=re.escape(name)) as raised:
        runs.read(workdir)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("card.json", '{"results": {}, "flops": 1' + 400 * "0" + "}"),
        ("card.json", '{"results": {"evaluations": [{"bleu": 1e308}]}}'),
        ("card.json", 100_000 * "["),
        ("config.json", 100_000 * "["),
        ("metrics.jsonl", '{"step": 1, "valid": {"loss": 1e308}}\n'),
        ("metrics.jsonl", '{"step": 1, "valid": {"loss": 1' + 400 * "0" + "}}\n"),
        ("metrics.jsonl", '{"step": 1' + 400 * "0" + "}\n"),
        ("card.json", None),
        ("config.json", None),
    ],
)
def test_numbers_beyond_reason_and_folders_are_damage(tmp_path, name, content):
    workdir = write_run(tmp_path / "run")
    (workdir / name).unlink()
    if content is None:
        (workdir / name).mkdir()
    else:
        (workdir / name).write_text(content)
    with pytest.raises(UserError, match=re.escape(name)):
        runs.read(workdir)


def test_a_folder_of_workdirs_is_a_sweep(tmp_path):
    """What --sweep_index leaves, on machines that know nothing of one another."""
    for name, overrides in (
        ("fast_0", {"optimizer.learning_rate_scale": 2.0}),
        ("fast_1", {"optimizer.learning_rate_scale": 2.0, "seed": 1}),
        ("slow_0", {}),
    ):
        write_run(tmp_path / name, overrides)
    found = runs.read(tmp_path)
    assert found.is_sweep
    fast = {"optimizer.learning_rate_scale": 2.0}
    assert [run.overrides for run in found.runs] == [fast, fast | {"seed": 1}, {}]
    grouped = runs.groups(found.runs)
    assert [len(group.runs) for group in grouped] == [2, 1]
    assert runs.baseline(grouped).name == "slow_0"
    assert "what a point changes is what differs from most runs" in page(tmp_path)


def test_the_baseline_of_a_folder_is_what_most_runs_have_or_what_config_names(tmp_path):
    """Rows of Table 3 as the tasks of an array: each differs from base, which none is by name."""
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


def test_what_is_no_run_in_a_folder_of_workdirs_is_said(tmp_path):
    write_run(tmp_path / "a")
    write_sweep(tmp_path / "inner", [("b", {}, 1.5, 20.0)])
    write_run(tmp_path / "c")
    (tmp_path / "c" / "card.json").write_text("x\n")
    found = runs.read(tmp_path)
    assert [(run.name, run.state) for run in found.runs] == [("a", "finished"), ("c", "damaged")]
    text = page(tmp_path)
    assert "Left out, being sweeps: inner" in text and "1 finished, 1 damaged" in text


def test_points_on_another_disk_have_the_loss_that_the_sweep_knows(tmp_path):
    folder = write_sweep(tmp_path / "s", [("a", {}, 1.5, 20.0), ("b", {"seed": 1}, 1.75, 21.0)])
    shutil.rmtree(folder / "b")
    (group,) = runs.groups(runs.read(folder).runs)
    assert group.values("loss") == [1.5, 1.75]
    assert group.values("bleu") == [20.0]


def test_only_what_is_finished_counts(tmp_path):
    folder = write_sweep(tmp_path / "s", [*POINTS, ("half", {"model.d_ff": 9}, 0.1, 90.0)])
    summary = json.loads((folder / "sweep.json").read_text())
    for state in ("running", "pruned", "interrupted"):
        summary["points"][-1]["state"] = state
        (folder / "sweep.json").write_text(json.dumps(summary))
        found = runs.read(folder).runs
        groups = runs.groups(found)
        assert runs.best(groups).name != "half", state
        assert groups[-1].values("loss") == [], state
        assert importance.importances(found).points == len(POINTS) - 1, state  # one failed


def test_the_same_seed_twice_is_one(tmp_path):
    points = [("a_seed_3", {"seed": 3}, 1.5, 20.0), ("again", {"seed": 3}, 1.5, 20.0)]
    text = page(write_sweep(tmp_path / "s", points))
    ((_, seeds, loss, *_),) = table_rows(text, "point")
    assert (seeds, loss) == ("1 of 2", "1.5000"), "no interval is made of a repetition"
    assert "Not counted, being of a seed that is there already: again." in text


def test_an_ensemble_is_no_row_of_the_paper_and_all_seeds_are(tmp_path):
    points = [("table3_base", {}, 1.5, 20.0), ("table3_base_seed_1", {"seed": 1}, 1.5, 20.0)]
    folder = write_sweep(tmp_path / "s", points)
    decode = {"method": "beam", "beam_size": 4}
    for name, bleu, ensemble in (
        ("table3_base", 30.0, {}),
        ("table3_base_seed_1", 10.0, {}),
        ("table3_base", 35.5, {"ensemble": ["b", "c"]}),
    ):
        measured = {"split": "test", "weights": "latest", "decode": decode, "bleu": bleu}
        card.add_evaluation(folder / name, measured | ensemble)
    text = page(folder, table3.paper)
    (row,) = table_rows(text, "row")
    assert row[5] == "20.0"
    measured = [(row[0], row[3]) for row in table_rows(text, "run")]
    assert measured == [
        ("table3\\_base", "beam 4"),
        ("table3\\_base", "beam 4, ensemble of 3"),
        ("table3\\_base\\_seed\\_1", "beam 4"),
    ]


def test_one_damaged_point_does_not_cost_the_others_their_page(tmp_path):
    folder = write_sweep(tmp_path / "s", [("a", {}, 1.5, 20.0), ("b", {"seed": 1}, 1.75, 21.0)])
    (folder / "a" / "metrics.jsonl").write_text("x\n")
    found = runs.read(folder)
    assert [run.state for run in found.runs] == ["damaged", "finished"]
    assert "metrics.jsonl is damaged" in found.runs[0].reason
    assert page(folder)


def test_each_figure_shows_its_own_metric(tmp_path, monkeypatch):
    drawn, plotted = {}, []
    curves, plot = figures.curves, matplotlib.axes.Axes.plot

    def see(lines, **options):
        drawn[options["label"]] = lines, options.get("logarithmic", False)
        return curves(lines, **options)

    def see_plot(axes, steps, values, **options):
        plotted.append((list(steps), list(values)))
        return plot(axes, steps, values, **options)

    monkeypatch.setattr(figures, "curves", see)
    monkeypatch.setattr(matplotlib.axes.Axes, "plot", see_plot)
    run = write_run(tmp_path / "run")
    page(run)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for label, group, metric, logarithmic in (
        ("nats per token", "valid", "loss", False),
        ("BLEU, greedy", "valid", "bleu", False),
        ("learning rate", "train", "learning_rate", False),
        ("norm of the gradient", "train", "gradient_norm", True),
    ):
        lines, log = drawn[label]
        expected = [(row["step"], row[group][metric]) for row in rows if group in row]
        assert list(zip(lines[-1].steps, lines[-1].values, strict=True)) == expected, label
        assert log == logarithmic
    losses = [row["train"]["loss"] for row in rows if "train" in row]
    lines, _ = drawn["nats per token, smoothed labels"]
    assert lines[-1].values[-1] == pytest.approx(sum(losses[-25:]) / 25)
    assert lines[-1].values[2] == pytest.approx(sum(losses[:3]) / 3)
    given = [(list(line.steps), list(line.values)) for lines, _ in drawn.values() for line in lines]
    assert sorted(plotted) == sorted(given)


def test_the_page_may_load_nothing_and_run_nothing(tmp_path):
    page(write_run(tmp_path / "run"))
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in html
    assert "<script" not in html


POINT = {"name": "p", "overrides": {}, "state": "failed"}


@pytest.mark.parametrize(
    "points",
    [
        7,
        [7],
        [{}],
        [POINT | {"name": "../other"}],
        [POINT | {"name": "/etc"}],
        [POINT | {"overrides": {"seed": []}}],
        [POINT | {"state": None}],
        [POINT | {"seconds": "x"}],
    ],
)
def test_a_damaged_summary_of_a_sweep_is_refused(tmp_path, points):
    (tmp_path / "sweep.json").write_text(json.dumps({"points": points}))
    with pytest.raises(UserError, match=r"sweep\.json is damaged"):
        runs.read(tmp_path)


def test_a_card_of_anything_has_a_page(tmp_path):
    facts = dict.fromkeys(("flops", "parameters", "data", "code", "tokens", "seed"), "x")
    results = {"validation": 3, "evaluations": [{"bleu": "x", "split": ["y"]}]}
    assert page(write_run(tmp_path / "run", **facts, results=results, wall_seconds="x"))


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


def test_the_report_of_a_sweep(trained, tmp_path):
    rows = {"base": {}, "C_d_ff_4096": {"model.d_ff": 14}}
    points = [
        (f"table3_laptop_{label}_seed_{seed}", {"seed": seed, **overrides}, 1.0, 1.0)
        for label, overrides in rows.items()
        for seed in (0, 1)
    ]
    folder = write_sweep(tmp_path / "sweep", points, config="experiments/table3.py:laptop")
    for name, overrides, *_ in points:
        shutil.rmtree(folder / name)
        shutil.copytree(trained[0], folder / name)
        config = load_config(folder / name / "config.json")
        config.seed = overrides["seed"]
        save_config(config, folder / name / "config.json")
    done = launch("--mode=report", f"--workdir={folder}")
    assert (done.returncode, done.stderr) == (0, "")
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert [row[1] for row in table_rows(text, "point")] == ["2", "2"]
    assert [row[0] for row in table_rows(text, "row")] == ["base", "C\\_d\\_ff\\_4096"]


def test_an_experiment_that_a_folder_brings_along_is_not_run(tmp_path):
    for place in (tmp_path / "x.py", tmp_path / "experiments" / "x.py"):
        place.parent.mkdir(exist_ok=True)
        place.write_text("raise SystemExit('run')\n")
        folder = write_sweep(tmp_path / f"sweep{len(place.parts)}", POINTS[:1], config=str(place))
        assert launch("--mode=report", f"--workdir={folder}").returncode == 0


def test_what_is_no_workdir_is_refused(tmp_path):
    assert "is no workdir and no sweep" in refusal("--mode=report", f"--workdir={tmp_path}")


def test_without_matplotlib_the_line_that_installs_it(tmp_path, monkeypatch):
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('x', name='matplotlib')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    error = refusal("--mode=report", f"--workdir={write_run(tmp_path / 'run')}")
    assert "--mode=report needs matplotlib: pip install 'transformer_jax[report]'" in error
