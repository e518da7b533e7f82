"""The page in a real browser: its numbers are the model's, and nothing leaves the machine."""

import dataclasses
import itertools
import json
import re
import shutil

import numpy as np
import pytest
import toy
from launching import launch
from playwright.sync_api import expect, sync_playwright
from serving import serving

import transformer_jax as tj
from transformer_jax import ModelConfig
from transformer_jax.config.files import load_config
from transformer_jax.inside.answers import MAX_PIECES, Answers, Question
from transformer_jax.model.transformer import Transformer

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SENTENCE, OTHER = "我有一只猫", "她们不需要碗。"
HOSTILE = "<img src=x onerror=console.error('run')>猫"
PATIENCE = 120_000  # milliseconds: a new length is compiled first
expect.set_options(timeout=PATIENCE)
FIGURES = ["overview", "embedding", "attention", "heads", "layers", "decoder", "search"]


@pytest.fixture(scope="module")
def chromium():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def model(trained):
    config = load_config(trained[0] / "config.json")
    decode = dataclasses.replace(config.decode, beam_size=3)
    return tj.load(trained[0], config=dataclasses.replace(config, decode=decode))


@pytest.fixture(scope="module")
def address(model):
    with serving(Answers(model)) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def visit(chromium):
    """visit(address, **options of the browser): the page, which must stay quiet and at home.

    All figures are drawn, as after a scroll to the end, unless `scroll` is false.
    """
    contexts, lines, requests = [], [], []

    def opened(address, scroll=True, **options):
        contexts.append(chromium.new_context(locale="en-US", **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: lines.append(message.text))
        page.on("pageerror", lambda error: lines.append(str(error)))
        page.on("request", lambda request: requests.append((request.url, address)))
        page.goto(address)
        page.wait_for_selector("#translation b")
        for figure in FIGURES if scroll else ():
            page.locator(f"#{figure}").scroll_into_view_if_needed()
            page.wait_for_selector(f"#{figure} .drawing > *")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert lines == []
    outside = [url for url, home in requests if not url.startswith((home, "data:"))]
    assert outside == []


@pytest.fixture(scope="module", params=["served", "saved"])
def home(request, trained, address, tmp_path_factory):
    """The address of the page from the server, and of the same page as a file."""
    if request.param == "served":
        return address
    file = tmp_path_factory.mktemp("saved") / "page.html"
    done = launch(
        *("--mode=inside", f"--workdir={trained[0]}", f"--output={file}", f"--sentence={SENTENCE}"),
        "--config.decode.beam_size=3",
    )
    assert done.returncode == 0, done.stderr
    return file.as_uri()


def settle(page):
    """Waits until every figure shows the layer that was asked for."""
    expect(page.locator(".waiting")).to_have_count(0)


def written(text):
    return float(text.replace("−", "-"))


# Reads the canvas's row of so many columns, and returns to its start.
READ_ROW = """(canvas, columns) => {
    const press = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key }));
    const readout = canvas.closest(".heat").querySelector(".readout");
    const read = () => [readout.textContent, press("ArrowRight")][0];
    const texts = Array.from({ length: columns }, read);
    for (const _ of texts) press("ArrowLeft");
    return texts;
}"""


def values(page, key, rows=None):
    """What the page writes for each cell of the heat map `key`, read with the arrow keys.

    Only its first `rows` are read, if given.
    """
    canvas = page.locator(f'[data-key="heat-{key}"]').first
    height, columns = (int(canvas.get_attribute(side)) for side in ("height", "width"))
    canvas.focus()
    found = []
    for _ in range(rows or height):
        texts = canvas.evaluate(READ_ROW, columns)  # a press of the driver's takes milliseconds
        found.append([written(text.rpartition("= ")[2]) for text in texts])
        page.keyboard.press("ArrowDown")
    return np.array(found)


def cells(page, number):
    """The numbers of the table `number` of figure 2; masked cells are nan."""
    rows = page.locator("#attention .matrix").nth(number).locator("tbody tr").all()
    texts = [[c.text_content() for c in row.locator("td").all()] for row in rows]
    return np.array([[np.nan if t == "×" else written(t) for t in row] for row in texts])


def test_every_figure_is_there(visit, home):
    page = visit(home)
    assert [s.get_attribute("id") for s in page.locator("main > section").all()] == FIGURES
    for figure in FIGURES:
        drawing = page.locator(f"#{figure} .drawing")
        assert drawing.bounding_box()["height"] > 100
        assert page.locator(f"#{figure} details.code").count() >= 2
    assert page.locator("details.question").count() >= 8


def test_the_numbers_are_those_of_the_model(visit, home, model):
    page, record = visit(home), model.inside(SENTENCE)
    assert page.locator("#translation b").text_content() == record.translation
    near = {"atol": 1e-3} if home.startswith("file") else {"atol": 6e-5}
    np.testing.assert_allclose(values(page, "embedding"), record.source.embedding, **near)
    np.testing.assert_allclose(values(page, "sum"), record.source.sum, **near)
    head = record.encoder[0].self_attention
    np.testing.assert_allclose(values(page, "Q"), head.query[:, 0], **near)
    np.testing.assert_allclose(values(page, "Z"), head.heads[:, 0], **near)
    np.testing.assert_allclose(cells(page, 0), head.scores[0], atol=0.06)
    np.testing.assert_allclose(cells(page, 1), head.scaled[0], atol=0.06)
    np.testing.assert_allclose(cells(page, 3), head.weights[0], atol=0.006)
    probs = [
        written(s.text_content().removesuffix(" %")) for s in page.locator("[data-prob]").all()
    ]
    np.testing.assert_allclose(probs, 100 * record.prediction.best_probs[0], atol=0.6)


def test_masked_cells_are_marked_and_a_click_writes_the_arithmetic(visit, home, model):
    page, record = visit(home), model.inside(SENTENCE)
    page.click('[data-key="kind-self"]')
    page.click('[data-key="head-1"]')
    attention = record.decoder[0].self_attention
    shown = cells(page, 3)
    assert np.array_equal(np.isnan(shown), ~attention.mask)
    rows = len(record.target.pieces)
    page.click(f'[data-key="softmax-{rows - 1}"]')
    sums = [t.text_content() for t in page.locator("td[data-weight]").all()]
    found = [written(text.rpartition("= ")[2]) for text in sums]
    np.testing.assert_allclose(found, attention.weights[1, -1], atol=1e-3)


def test_a_typed_sentence_is_looked_into(visit, address, model):
    page = visit(address)
    page.fill('[data-key="sentence"]', OTHER)
    page.keyboard.press("Enter")
    expect(page.locator("#embedding .chips")).to_contain_text("碗")
    record = model.inside(OTHER)
    chips = page.locator("#embedding .chips b").all_text_contents()
    assert tuple(chips) == record.source.pieces
    assert page.locator("#translation b").text_content() == record.translation


def test_a_part_is_switched_off_and_on_again(visit, address, model):
    page, off = visit(address), "decoder_0/cross_attention/head_1"
    page.click('[data-key="kind-cross"]')
    page.click(f'[data-key="off-{off}"]')
    expect(page.locator("#off")).to_contain_text("decoder over C, layer 1, head 2")
    record = model.inside(SENTENCE, off=[off])
    assert page.locator("#translation b").text_content() == record.translation
    assert page.locator("#off b").text_content() == model.inside(SENTENCE).translation
    page.click('[data-key="all-on"]')
    expect(page.locator("#off")).to_be_empty()


def test_the_learned_matrices_give_the_queries(visit, home, model):
    page = visit(home)
    page.click('[data-key="kind-cross"]')
    page.click('[data-key="head-1"]')
    page.click('[data-key="projections-matrices"]')
    page.wait_for_selector('[data-key="heat-W_Q"]')
    matrix, x = values(page, "W_Q"), values(page, "Y, for Q")
    kernel = model.params["decoder_0"]["cross_attention"]["query_kernel"]
    np.testing.assert_allclose(matrix, kernel[:, 1], atol=1e-3)
    np.testing.assert_allclose(x @ matrix, values(page, "Q"), atol=0.01)
    assert page.locator('#heads [data-key="heat-W_Q of all heads"]').count() == 1


def test_the_decoder_reads_a_given_translation(visit, address):
    page = visit(address)
    page.fill('[data-key="target"]', "I have a dog")
    page.keyboard.press("Enter")
    expect(page.locator('[data-key="own"]')).to_be_visible()
    page.click('[data-key="way-inference"]')
    page.click('[data-key="next"]')
    assert page.locator("#decoder .column.absent").count() > 0
    assert page.locator("#decoder .column:not(.absent, .names)").count() == 2
    asking = page.locator('#decoder [data-key="heat-Y: where Q comes from"]')
    assert asking.get_attribute("height") == "2"  # nor do the later positions ask yet


def test_the_tree_and_the_ranking_are_those_of_the_search(visit, home, model):
    page, beam = visit(home), model.inside(SENTENCE).beam
    assert page.locator("#search .leaf").count() == sum(len(s.candidates) for s in beam.steps)
    assert page.locator("#search .leaf.winner").count() == beam.hypotheses[0].length
    rows = page.locator("#search .hypotheses tbody tr")
    assert rows.first.locator("th").text_content() == beam.hypotheses[0].text
    score = written(rows.first.locator("td").last.text_content())
    np.testing.assert_allclose(score, beam.hypotheses[0].score, atol=6e-5)
    page.locator('[data-key="alpha"]').focus()
    page.keyboard.press("Home")  # without a penalty the most probable one wins
    ended = [c for s in beam.steps for c in s.candidates if c.kept == "finished"]
    best = max((*ended, *beam.hypotheses), key=lambda c: c.log_prob)
    assert rows.first.locator("th").text_content() == best.text
    page.locator('[data-key="grown"]').focus()
    page.keyboard.press("Home")
    assert page.locator("#search .leaf").count() == len(beam.steps[0].candidates)


def test_another_architecture_is_shown(visit, model):
    """Pre-norm, learned positions, biases, other depths, heads wider than d_model / N."""
    config = ModelConfig(
        **{"d_model": 14, "d_ff": 19, "num_heads": 3, "d_key": 5, "d_value": 7},
        **{"num_encoder_layers": 1, "num_decoder_layers": 3, "norm": "pre"},
        **{"positions": "learned", "attention_bias": True, "max_positions": 97},
    )
    sizes = [side.vocab_size for side in model.tokenizers]
    transformer = Transformer(config, sizes[1], sizes[0])
    params = toy.random_params(transformer)
    other = dataclasses.replace(model, transformers=(transformer,), all_params=(params,))
    with serving(Answers(other)) as port:
        page = visit(f"http://127.0.0.1:{port}/")
        page.click('[data-key="kind-cross"]')
        page.click('[data-key="layer-2"]')
        page.click('[data-key="head-2"]')
        settle(page)
        page.click('[data-key="projections-matrices"]')
        page.wait_for_selector('[data-key="heat-W_Q"]')
        attention = other.inside(page.locator('[data-key="sentence"]').input_value()).decoder[2]
        np.testing.assert_allclose(
            values(page, "Z"), attention.cross_attention.heads[:, 2], atol=6e-5
        )
        page.click('[data-key="stack-decoder"]')
        assert page.locator("#embedding .dial").count() == 0  # they are of sinusoids


@pytest.fixture(scope="module")
def base(model):
    """The paper's base model with random weights."""
    transformer = Transformer(ModelConfig(), *(side.vocab_size for side in model.tokenizers))
    params = toy.random_params(transformer, stddev=0.04)
    decode = dataclasses.replace(model.config.decode, extra_length=5)  # it would never end
    config = dataclasses.replace(model.config, decode=decode)
    parts = {"transformers": (transformer,), "all_params": (params,)}
    return dataclasses.replace(model, config=config, **parts)


def test_the_layers_of_a_large_model_come_when_their_figures_are_reached(visit, base):
    answers, asked = Answers(base), []
    with serving(answers) as port:
        page = visit(f"http://127.0.0.1:{port}/", scroll=False)
        page.on("request", lambda request: asked.append(request.url))
        assert page.locator("#attention .drawing > *").count() == 0
        page.locator("#attention .drawing").scroll_into_view_if_needed()
        page.wait_for_selector("#attention .matrix")
        page.click('[data-key="layer-5"]')
        settle(page)
        record = base.inside(page.locator('[data-key="sentence"]').input_value())
        z = record.encoder[5].self_attention.heads[:, 0]
        np.testing.assert_allclose(values(page, "Z", rows=1), z[:1], atol=6e-5)
        page.click('[data-key="kind-cross"]')
        settle(page)
        page.click('[data-key="kind-encoder"]')  # what has been fetched is not fetched again
    names = [url.partition("name=")[2] for url in asked if "/api/layer" in url]
    assert names == ["encoder_0", "encoder_5", "decoder_5"]
    first = answers.inside(Question(SENTENCE))
    layers = [answers.layer(first["id"], f"{s}_{n}") for s in first["depth"] for n in range(6)]
    assert len(json.dumps(first)) < 300_000 < 8_000_000 < len(json.dumps(layers))


def test_a_door_leads_to_its_figure_although_those_above_it_are_not_drawn_yet(visit, home):
    page = visit(home, scroll=False)
    assert page.locator("#search .leaf").count() == 0
    page.click('#overview a[href="#search"]')
    page.wait_for_selector("#layers .drawing > *")
    expect(page.locator("#search h2")).to_be_in_viewport()
    assert page.locator("#search .leaf").count() > 0


def test_a_record_that_the_server_no_longer_keeps_is_a_line_in_the_page(chromium, model):
    answers = Answers(model)
    page = chromium.new_page(locale="en-US")  # a refusal is a line on the console, too
    with serving(answers) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("#translation b")
        for _ in range(4):  # other pages
            answers.inside(Question(OTHER))
        page.locator("#decoder").scroll_into_view_if_needed()
        expect(page.locator("#message")).to_contain_text("look inside it again")
        page.click(".primary")
        page.wait_for_selector("#decoder .alignment")
        assert page.locator("#message").text_content() == ""
    page.close()


def test_typed_text_is_text(visit, address):
    page = visit(address)
    page.fill('[data-key="sentence"]', HOSTILE)
    page.keyboard.press("Enter")
    expect(page.locator("#embedding .chips")).to_contain_text("0x3C")
    assert page.locator("img").count() == 0
    assert page.locator('[data-key="sentence"]').input_value() == HOSTILE


@pytest.mark.parametrize(
    "text, answer",
    [(" ", "can be seen"), ("猫" * 99, f"at most {MAX_PIECES}")],
    ids=["blank", "long"],
)
def test_a_sentence_that_cannot_be_shown_is_a_line_in_the_page(chromium, address, text, answer):
    page = chromium.new_page(locale="en-US")  # a refusal is a line on the console, too
    page.goto(address)
    page.wait_for_selector("#translation b")
    page.fill('[data-key="sentence"]', text)
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_contain_text(answer)
    page.click('[data-key="language"]')
    assert page.locator("#embedding .chips b").count() > 1  # the last sentence is still there
    page.close()


def test_the_slider_goes_through_the_checkpoints(visit, home, trained):
    page = visit(home)
    first = values(page, "sum")
    slider = page.locator('[data-key="checkpoint"]')
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("#overview")).to_contain_text("checkpoint of step 2")
    assert not np.array_equal(values(page, "sum"), first)


def test_one_button_switches_the_language_and_another_the_colours(visit, home):
    page = visit(home)
    page.click('[data-key="language"]')
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    assert "注意力" in page.locator("#attention h2").text_content()
    latin = page.locator(".text > p:not(.formula):not(.section)").all_text_contents()
    assert all(re.search("[\u4e00-\u9fff]", text) for text in latin)
    assert page.evaluate("document.activeElement.dataset.key") == "language"  # the focus stays
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click('[data-key="theme"]')
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_the_page_fits_its_window(visit, address):
    page = visit(address, viewport={"width": 390, "height": 900})
    root = "document.documentElement"
    for width, language in itertools.product([390, 1280, 1920], ["en", "zh"]):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.locator("html").get_attribute("lang").startswith(language)
        assert page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") <= 0
        page.evaluate("scrollTo({ left: 999, behavior: 'instant' })")
        assert page.evaluate("scrollX") == 0
        # What is wider than a phone scrolls within its own box.
        tree = page.locator(".scroll", has=page.locator(".tree"))
        assert tree.evaluate("box => box.scrollWidth > box.clientWidth") or width > 390
        page.click('[data-key="language"]')


def test_half_floats_are_read_as_numpy_reads_them(visit, address):
    script = """async () => {
        const { half } = await import("/page/arrays.js");
        const numbers = Array.from({ length: 65536 }, (_, bits) => half(bits));
        return numbers.map((x) => String(x).replace("Infinity", "inf"));
    }"""
    found = np.array([float(text) for text in visit(address, scroll=False).evaluate(script)])
    expected = np.arange(65536, dtype=np.uint16).view(np.float16).astype(float)
    np.testing.assert_array_equal(found, expected)
