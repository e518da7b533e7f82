"""Word vectors: forms of files, the pieces that match, what is refused, and a training."""

import dataclasses
import gzip

import jax
import numpy as np
import pytest
from launching import refused, tiny_config

import transformer_jax as tj
from transformer_jax.config.files import save_config
from transformer_jax.config.options import Config, ModelConfig
from transformer_jax.data import word_vectors
from transformer_jax.data.small_world import grammar
from transformer_jax.data.tokenizer import Tokenizers, train_tokenizer
from transformer_jax.model.transformer import Transformer
from transformer_jax.training.run import train
from transformer_jax.training.step import create_state

D = 3
CAT, DOG, I_AM = [0.5, -1.25, 3.0], [1e-3, 2.0, -7.0], [9.0, 8.0, -6.5]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<0x0A>", "<0xFF>"]


def text_of(words, *, header=False, end="\n"):
    """Lines as word2vec and GloVe write them."""
    lines = [" ".join([word, *map(str, vector)]) + end for word, vector in words]
    return (f"{len(lines)} {len(words[0][1])}{end}" if header else "") + "".join(lines)


def write(folder, content, name="vectors.txt"):
    path = folder / name
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def load(folder, content, vocabulary, **options):
    return word_vectors.load(write(folder, content, **options), vocabulary, dimension=D)


# ------------------------------------------------------------------------------------- what matches
@pytest.mark.fast
def test_a_piece_matches_the_word_without_its_sign_for_a_space(tmp_path):
    vocabulary = [*SPECIAL, "▁cat", "cat", "▁Cat", "猫", "▁", "▁dog", "▁ca", "狗", "<b>"]
    words = {"cat": CAT, "猫": I_AM, "dog": DOG, "▁": CAT, "": CAT, "<b>": DOG, "unused": DOG}
    words |= dict.fromkeys(SPECIAL, CAT)
    expected = {"▁cat": CAT, "cat": CAT, "猫": I_AM, "▁dog": DOG, "<b>": DOG}
    vectors, found = load(tmp_path, text_of(list(words.items())), vocabulary)
    assert (vectors.dtype, vectors.shape, found.dtype) == (np.float32, (len(vocabulary), D), bool)
    assert [piece for piece, f in zip(vocabulary, found, strict=True) if f] == list(expected)
    for piece, vector in zip(vocabulary, vectors, strict=True):
        np.testing.assert_array_equal(vector, np.float32(expected.get(piece, [0, 0, 0])))


BOTH = [("cat", CAT), ("dog", DOG)]
FORMS = {
    "glove": (text_of(BOTH), "v.txt"),
    "word2vec": (text_of(BOTH, header=True), "v.vec"),
    "trailing spaces": (text_of(BOTH, header=True, end=" \n"), "v.txt"),
    "windows": ("\ufeff" + text_of(BOTH, header=True, end="\r\n"), "v.txt"),
    "no last line feed": (text_of(BOTH).rstrip(), "v.txt"),
    "gzip": (text_of(BOTH, header=True), "v.txt.gz"),
    # A number before the vector is part of the word; so is what Python calls a space or a line end.
    "words with spaces": (
        text_of([(word, I_AM) for word in (". . .", "cat 1", "cat\u2028", "cat\u00a0")] + BOTH),
        "v.txt",
    ),
    "the first of equals": (text_of([*BOTH, ("cat", I_AM), ("dog", CAT)]), "v.txt"),
    "a word that is a number": (text_of([("7", I_AM), *BOTH]), "v.txt"),
    # Vectors that do not match are not parsed.
    "nonsense elsewhere": (text_of(BOTH[:1]) + "\nbird x y\n" + text_of(BOTH[1:]), "v.txt"),
    "shortened by head": ("99 3\n" + text_of(BOTH), "v.txt"),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_files(tmp_path, form):
    content, name = FORMS[form]
    vectors, found = load(tmp_path, content, ["▁dog", "▁bat", "cat"], name=name)
    assert found.tolist() == [True, False, True]
    np.testing.assert_array_equal(vectors, np.float32([DOG, [0, 0, 0], CAT]))


def test_only_matching_vectors_are_kept(tmp_path):
    """100,000 lines take less memory than their text: the file is never in memory as a whole."""
    import tracemalloc

    lines = (f"word{n} 0.125 0.25 0.5\n".encode() for n in range(100_000))
    path = write(tmp_path, b"".join(lines) + text_of([("cat", CAT)]).encode())
    tracemalloc.start()
    try:
        vectors, found = word_vectors.load(path, ["▁cat", "word7"], dimension=D)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(vectors, np.float32([CAT, [0.125, 0.25, 0.5]]))
    assert found.all()
    assert most < 0.1 * path.stat().st_size


# ---------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["is empty"]),
        ("cat\n", ["does not begin with a word and its vector"]),
        ("<html>\n", ["does not begin with"]),
        ("5 4\ncat 1 2 3 4\n", ["vectors of 4 numbers", "model.d_model=3", "model.d_model=4"]),
        ("cat 1 2 3 4\n", ["vectors of 4 numbers", "model.d_model=3"]),
        (". . 1 2\n", ["vectors of 2 numbers", "model.d_model=3"]),
        ("bird 1 2 3\ncat 1 2\n", ["line 2 has 2 numbers, not 3"]),
        ("1 3\ncat 1 zwei 3\n", ["line 2", "damaged", "zwei"]),
        ("bird 1 2 3\ncat 1 x 3\n", ["line 2", "damaged", "'x'"]),
        ("bird 1 2 3\n\ncat 1 nan 3\n", ["line 3", "damaged", "nan"]),
        ("bird 1 2 3\ncat 1 2 -inf\n", ["line 2", "damaged"]),
        ("bird 1 2 3\ncat 1 2 1e39\n", ["line 2", "damaged", "too large"]),
        ("cat 1 2 3\n你好 1 2 3\n".encode("gbk"), ["line 2 is not UTF-8"]),
        ("cat 1 2 3\n".encode("utf-16"), ["line 1 is not UTF-8"]),
    ],
)
def test_a_file_that_makes_no_sense_is_named(tmp_path, content, parts):
    message = refused(load, tmp_path, content, ["▁cat"])
    assert str(tmp_path / "vectors.txt") in message
    assert all(part in message for part in parts), message


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    rng = np.random.default_rng(0)
    words = [(f"word{n}", rng.standard_normal(D).tolist()) for n in range(999)]
    whole = write(tmp_path, text_of(words), name="vectors.txt.gz").read_bytes()
    damaged = {"cut.gz": whole[: len(whole) // 2]}
    damaged["wrong.gz"] = whole[:2000] + bytes(2000) + whole[4000:]
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
    parts = dict.fromkeys(damaged, "cannot be read")
    parts |= {"vectors.text.gz": "did you mean vectors.txt.gz?", "": "is a directory"}
    for name, part in parts.items():
        message = refused(word_vectors.load, tmp_path / name, ["cat"], dimension=D)
        assert str(tmp_path / name) in message and part in message


# --------------------------------------------------------------------------------- the model's rows
ZH, EN = zip(*grammar.pairs("train", size=150), strict=True)
SHARED = train_tokenizer([*ZH, *EN], vocab_size=701)
APART = Tokenizers(train_tokenizer(ZH, vocab_size=613), train_tokenizer(EN, vocab_size=431))
SIZE = 14
MODEL = ModelConfig(num_layers=1, d_model=SIZE, d_ff=11, num_heads=2, embedding_stddev=0.3)


def words_of(*vocabularies):
    """Every other word that is a piece, with its own vector far from the scale of the tables."""
    pieces = (p.removeprefix("▁") for vocabulary in vocabularies for p in vocabulary)
    words = [p for p in dict.fromkeys(pieces) if p and p not in SPECIAL and "<0x" not in p][::2]
    rng = np.random.default_rng(1)
    return {word: (5 + 7 * rng.standard_normal(SIZE)).round(3).tolist() for word in words}


@pytest.mark.parametrize(
    ("shared", "tied"),
    [
        *((True, tied) for tied in ("all", "source_target", "target_softmax", "none")),
        *((False, tied) for tied in ("target_softmax", "none")),
    ],
)
def test_matched_rows_are_the_vectors_at_the_scale_of_the_table(tmp_path, shared, tied):
    tokenizers = Tokenizers(SHARED, SHARED) if shared else APART
    sizes = [t.vocab_size for t in (tokenizers.target, tokenizers.source)]
    config = dataclasses.replace(MODEL, tied_embeddings=tied)
    before = create_state(Config(model=config), Transformer(config, *sizes)).params
    words = words_of(*(t.vocabulary for t in tokenizers))
    path = write(tmp_path, text_of(list(words.items())))
    after, summary = word_vectors.initialise(before, path, tokenizers, stddev=0.3)

    apart = {f"{side}_embedding": getattr(tokenizers, side) for side in ("source", "target")}
    one = tied in ("all", "source_target")
    tables = {"embedding": tokenizers.target} if one else apart
    pieces = {n: [p.removeprefix("▁") for p in t.vocabulary] for n, t in tables.items()}
    rows = {name: np.array([p in words for p in of]) for name, of in pieces.items()}
    given = {name: np.array([words[p] for p in of if p in words]) for name, of in pieces.items()}
    factor = 0.3 / np.concatenate(list(given.values())).std()
    for name, taken in rows.items():
        assert 60 < taken.sum() < len(taken) - 256
        assert after[name].dtype == np.float32
        np.testing.assert_allclose(after[name][taken], factor * given[name], rtol=1e-5)
        np.testing.assert_array_equal(after[name][~taken], before[name][~taken])
        assert f"{taken.sum()} of {len(taken)} " in summary
    assert ("source pieces" in summary) == ("source_embedding" in tables)
    assert str(path) in summary
    every = np.concatenate([after[name][taken] for name, taken in rows.items()])
    np.testing.assert_allclose(every.std(), 0.3, rtol=1e-5)
    assert after.keys() == before.keys()
    for name in set(before) - set(tables):  # a softmax of its own among them
        jax.tree.map(np.testing.assert_array_equal, after[name], before[name])


@pytest.mark.parametrize(
    ("content", "part"),
    [("Unbekannt " + "1 " * SIZE, "none of the 701 pieces"), ("a " + "1 " * SIZE, "same number")],
)
def test_vectors_that_help_nothing_are_refused(tmp_path, content, part):
    params = {"embedding": np.zeros((701, SIZE), np.float32)}
    path = write(tmp_path, content)
    message = refused(word_vectors.initialise, params, path, Tokenizers(SHARED, SHARED), stddev=1.0)
    assert part in message
    assert str(path) in message


# -------------------------------------------------------------------------------------- a training
@pytest.fixture
def config(tmp_path):
    """A training too slow to move an embedding by a thousandth."""
    vectors = {word: vector[:8] for word, vector in words_of(SHARED.vocabulary).items()}
    path = write(tmp_path, text_of(list(vectors.items()), header=True), name="vectors.vec.gz")
    steps = {"train.steps": 1, "train.checkpoint_every": 1, "train.evaluate_every": 0}
    slow = {"optimizer.learning_rate_scale": 1e-6, "model.pretrained_embeddings": str(path)}
    return tiny_config(steps | slow)


def test_a_training_starts_from_them_and_needs_them_only_once(config, tmp_path, capsys):
    path, workdir = tmp_path / "vectors.vec.gz", tmp_path / "run"
    train(config, workdir)
    assert f"pieces start from {path}" in capsys.readouterr().err
    trained = tj.load(workdir, config=config, weights="latest")
    vectors, found = word_vectors.load(path, trained.tokenizers.target.vocabulary, dimension=8)
    assert 0.1 < found.mean() < 0.7
    expected = vectors[found] * 8**-0.5 / vectors[found].std()
    np.testing.assert_allclose(trained.params["embedding"][found], expected, atol=1e-3)

    # The file has moved, or is gone: resuming and translating need only the checkpoint.
    path.unlink()
    config.model.pretrained_embeddings = str(tmp_path / "moved.vec.gz")
    config.train.steps = 2
    train(config, workdir)
    printed = capsys.readouterr().err
    assert "resuming from step 1" in printed
    assert "start from" not in printed
    assert isinstance(tj.load(workdir).translate("我有一只猫"), str)

    config.model.pretrained_embeddings = ""
    message = refused(train, config, workdir)
    assert "model.pretrained_embeddings" in message and "moved.vec.gz" in message


def test_a_run_without_them_does_not_get_them_later(config, tmp_path):
    save_config(dataclasses.replace(config, model=MODEL), tmp_path / "config.json")
    config.model = dataclasses.replace(MODEL, pretrained_embeddings="vectors.vec.gz")
    message = refused(train, config, tmp_path)
    assert "(model.pretrained_embeddings: '' in the workdir, 'vectors.vec.gz' now)" in message


def test_a_file_that_is_refused_leaves_the_workdir_free(config, tmp_path):
    """So the width can be corrected in the same workdir."""
    config.model.d_model = 6
    message = refused(train, config, tmp_path / "run")
    assert "vectors of 8 numbers, and model.d_model=6" in message
    assert not (tmp_path / "run" / "config.json").exists()
