"""The cost of a few lines, as users of other toolkits reported it."""

import pytest

from transformer_jax.inference.batching import by_length

MOST, LENGTHS = 64, (11, 23, 47)
# Sentences are mostly short; the sizes of n of them are spread alike whatever n is.
SIZES = {"one length": lambda share: 7, "a mix": lambda share: 3 + int(43 * share**3)}


def batches_of(count, mix):
    sizes = {n: SIZES[mix]((n + 0.5) / count) for n in range(count)}
    batches = list(by_length(sizes, LENGTHS, lambda length: MOST))
    assert [n for _, numbers in batches for n in numbers] == list(range(count)), "shortest first"
    for (rows, length), numbers in batches:
        assert len(numbers) <= rows <= MOST
        assert sizes[numbers[-1]] <= length
    return batches


def positions(batches):
    return sum(rows * length for (rows, length), _ in batches)


@pytest.mark.fast
@pytest.mark.parametrize("mix", SIZES)
@pytest.mark.parametrize("count", range(1, 131))
def test_a_few_lines_cost_no_more_than_their_power_of_two(count, mix):
    batches, full = batches_of(count, mix), batches_of(1 << (count - 1).bit_length(), mix)
    assert positions(batches) <= 1.3 * positions(full)
    # No more than two batches are saved by padding, each of which would cost 8 rows.
    assert sum(rows for (rows, _), _ in batches) < count + 2 * 8
    assert len(batches) <= len(LENGTHS) + 4 + count // MOST


@pytest.mark.fast
def test_33_lines_do_not_cost_64_rows():
    assert [shape for shape, _ in batches_of(33, "one length")] == [(32, 11), (1, 11)]
    assert [shape for shape, _ in batches_of(33, "a mix")] == [(16, 11), *[(8, s) for s in LENGTHS]]


@pytest.mark.fast
def test_the_shapes_are_each_length_with_each_power_of_two():
    shapes = {s for mix in SIZES for n in range(1, 131) for s, _ in batches_of(n, mix)}
    assert shapes <= {(1 << n, length) for n in range(7) for length in LENGTHS}
    few = [len({shape for shape, _ in batches_of(n, mix)}) for mix in SIZES for n in range(1, 131)]
    assert max(few) <= 6, "programs of one call"
    full = list(by_length(dict.fromkeys(range(5), 7), LENGTHS, lambda length: 5))
    assert full == [((5, 11), [0, 1, 2, 3, 4])], "the most need not be a power of two"
