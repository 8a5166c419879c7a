"""Streaming observers: independent of batching, bounded, right for awkward distributions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.passes.algorithms.exponents import fake_quantize
from vit_opt.passes.algorithms.observers import BINS, ChannelRange, Histogram


@given(st.lists(st.integers(1, 200), min_size=1, max_size=6), st.integers(0, 2**32))
@settings(max_examples=30)
def test_batching_does_not_matter(sizes: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    batches = [generator.normal(0, 10.0 ** generator.integers(-3, 4), (n, 3)) for n in sizes]
    streamed, whole = Histogram(), Histogram()
    channels = ChannelRange.empty(3)
    for batch in batches:
        streamed.update(batch)
        channels.update(batch)
    everything = np.concatenate(batches)
    whole.update(everything)
    assert streamed.exponent == whole.exponent
    np.testing.assert_array_equal(streamed.counts, whole.counts)
    np.testing.assert_array_equal(channels.minimum, everything.min(0))
    np.testing.assert_array_equal(channels.maximum, everything.max(0))
    np.testing.assert_allclose(channels.rms, np.sqrt(np.square(everything).mean(0)))
    assert streamed.total == everything.size and len(streamed.counts) == BINS


def test_positive_channel_keeps_its_minimum() -> None:
    channels = ChannelRange.empty(2)
    channels.update(np.array([[2.0, -3.0], [5.0, -1.0]]))
    assert channels.minimum.tolist() == [2.0, -3.0]
    assert channels.maximum.tolist() == [5.0, -1.0]
    assert channels.magnitude.tolist() == [5.0, 3.0]


def test_percentile_drops_the_tails() -> None:
    generator = np.random.default_rng(3)
    x = generator.normal(0, 1, 100_000)
    x[:10] = 500.0
    histogram = Histogram()
    histogram.update(x)
    assert histogram.range == (float(x.min()), 500.0)
    low, high = histogram.percentile(0.999)
    width = 2.0 * 512 / BINS
    assert abs(low - np.quantile(x, 0.0005)) <= width
    assert abs(high - np.quantile(x, 0.9995)) <= width
    assert histogram.percentile_frac(0.999, -128, 127) > histogram.minmax_frac(-128, 127)
    assert histogram.percentile(1.0) == histogram.range
    with pytest.raises(ValueError, match="percentile"):
        histogram.percentile(0.0)


def test_rectified_activations_keep_zero_inside() -> None:
    generator = np.random.default_rng(4)
    x = np.maximum(generator.normal(0, 1, 50_000) - 1.5, 0)
    histogram = Histogram()
    histogram.update(x)
    low, high = histogram.percentile(0.99)
    assert low == 0.0 and 0 < high < x.max()
    frac, zero = histogram.asymmetric(0, 255)
    assert zero == 0 and frac == histogram.minmax_frac(0, 255)


@pytest.mark.parametrize("limit", [(-8, 7), (-128, 127)])
@pytest.mark.parametrize("tail", [2, 5, 40])
def test_least_error_exponent_is_that_of_the_data(limit: tuple[int, int], tail: int) -> None:
    generator = np.random.default_rng(5)
    x = generator.standard_t(tail, 40_000)
    histogram = Histogram()
    histogram.update(x)
    start = histogram.minmax_frac(*limit)
    errors = [np.square(fake_quantize(x, start + i, *limit) - x).sum() for i in range(4)]
    chosen = histogram.mse_frac(*limit) - start
    assert errors[chosen] <= 1.02 * min(errors)


def test_degenerate_streams() -> None:
    histogram = Histogram()
    histogram.update(np.zeros((0, 4)))
    assert histogram.total == 0 and histogram.range == (0.0, 0.0)
    histogram.update(np.zeros(10))
    assert histogram.range == (0.0, 0.0) and histogram.percentile(0.9) == (0.0, 0.0)
    assert histogram.mse_frac(-128, 127) == histogram.minmax_frac(-128, 127) == 30
    histogram.update(np.full(10, -4.0))
    assert histogram.range == (-4.0, 0.0) and histogram.total == 20
    assert histogram.minmax_frac(-128, 127) == 5
    for observer in (histogram, ChannelRange.empty(2)):
        with pytest.raises(ValueError, match="1 of 2 values are not finite"):
            observer.update(np.array([[1.0, np.nan]]))
    assert ChannelRange.empty(2).rms.tolist() == [0.0, 0.0]
