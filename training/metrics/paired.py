"""Whether one model is better than another on the same questions, or whether chance would do.

The differences line by line are resampled with replacement (Efron's percentile bootstrap of paired
samples): the mean of 10,000 such samples lies within the interval 95 times in 100.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 20_261_123
DIRECTLY = 1000  # up to so many lines, whole samples are drawn
BINS = 256
SAME = 1e-12  # of two scores that differ by less, none is better

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Candidate minus baseline. `verdict` is better, worse or unclear: the interval holds 0."""

    difference: float
    low: float
    high: float
    verdict: str
    wins: int
    losses: int
    ties: int
    pairs: int
    lower_is_better: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    baseline: Scores, candidate: Scores, *, lower_is_better: bool = False, seed: int = SEED
) -> Comparison | None:
    """Of two rows of scores, line by line; NaN where a line has none. None without any pair.

    The same scores and seed give the same figures.
    """
    both = ~(np.isnan(baseline) | np.isnan(candidate))
    differences = candidate[both] - baseline[both]
    if not len(differences):
        return None
    low, high = interval(differences, seed=seed)
    gains = -differences if lower_is_better else differences
    worst, best = (-high, -low) if lower_is_better else (low, high)
    wins, losses = int((gains > SAME).sum()), int((gains < -SAME).sum())
    return Comparison(
        difference=float(differences.mean()),
        low=low,
        high=high,
        verdict="better" if worst > SAME else "worse" if best < -SAME else "unclear",
        wins=wins,
        losses=losses,
        ties=len(differences) - wins - losses,
        pairs=len(differences),
        lower_is_better=lower_is_better,
    )


def interval(values: Scores, *, seed: int = SEED) -> tuple[float, float]:
    """The 95 % interval of the mean."""
    rng = np.random.default_rng(seed)
    count = len(values)
    if count <= DIRECTLY:
        drawn = values[rng.integers(0, count, (RESAMPLES, count), dtype=np.int32)]
        means = drawn.mean(axis=1)
    else:
        means = _means_of_bins(values, rng)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _means_of_bins(values: Scores, rng: np.random.Generator) -> Scores:
    """Of many values, those that are alike are drawn together: how often each comes up in a sample
    is multinomial. Where there are more than 256 different ones, neighbours share their mean, which
    leaves the mean of all as it is."""
    kinds, counts = np.unique(values, return_counts=True)
    if len(kinds) > BINS:
        span = kinds[-1] - kinds[0]
        where = np.minimum(((values - kinds[0]) / span * BINS).astype(np.int64), BINS - 1)
        counts = np.bincount(where, minlength=BINS)
        sums = np.bincount(where, weights=values, minlength=BINS)
        kinds, counts = sums[counts > 0] / counts[counts > 0], counts[counts > 0]
    drawn = rng.multinomial(len(values), counts / counts.sum(), size=RESAMPLES)
    means: Scores = drawn @ kinds / len(values)
    return means
