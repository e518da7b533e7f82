"""The cost of a few lines, as users of other toolkits reported it."""

import pytest

from transformer_jax.inference.batching import by_length


@pytest.mark.fast
@pytest.mark.parametrize("number", range(1, 71))
def test_a_few_lines_cost_no_more_than_their_power_of_two(number):
    batches = list(by_length(dict.fromkeys(range(number), 7), [11], lambda length: 32))
    assert [n for _, numbers in batches for n in numbers] == list(range(number))
    assert len({shape for shape, _ in batches}) == 1, "one program"
    rows = batches[0][0][0]
    assert rows in (1, 2, 4, 8, 16, 32)
    assert rows == 32 or rows < 2 * number
