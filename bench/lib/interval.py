"""How far two are apart that were measured in pairs, and how sure that is.

The logarithms of the pairs' ratios are taken as independent and symmetric around the true one; that
each pair is measured within one round, in either order by turns, is what makes them so. Estimate:
the median of all pairwise means (Hodges and Lehmann 1963). Interval: the pairwise means that the
signed-rank test does not reject (Wilcoxon 1945, Tukey 1949), from its exact distribution. It assumes
no normal distribution and one wild pair in many moves it little; with few pairs it is all that they
span, and its level is told with it.
"""

import math
import statistics
from dataclasses import dataclass

LEVEL = 0.95
# What is less sure than this tells nobody that two are different.
LEVEL_LEAST = 0.9
METHOD = ("ratio: Hodges-Lehmann estimate of the paired rounds' ratios; interval: exact Wilcoxon "
          "signed-rank, on logarithms")


@dataclass
class Comparison:
    ratio: float
    low: float
    high: float
    level: float  # of the interval: 0.95 or more with six pairs or more

    @property
    def is_beyond_noise(self):
        return self.level >= LEVEL_LEAST and not self.low <= 1 <= self.high


def rank_sum_counts(pairs):
    """How many of the 2^pairs choices of signs give each sum of positive ranks."""
    counts = [1]
    for rank in range(1, pairs + 1):
        longer = counts + [0] * rank
        for total, count in enumerate(counts):
            longer[total + rank] += count
        counts = longer
    return counts


def cut_of(pairs, level=LEVEL):
    """How many pairwise means to leave out at each end, and the level that this gives."""
    below, cut, reached = 0, 0, 0.0
    for total, count in enumerate(rank_sum_counts(pairs)):
        below += count
        tails = 2 * below / 2**pairs
        if total == 0:
            reached = max(0.0, 1 - tails)
        elif 1 - tails >= level:
            cut, reached = total, 1 - tails
        else:
            break
    return cut, reached


def compare(ours, theirs):
    """Ratios ours/theirs, pair by pair; each a positive number, at least one pair."""
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    means = sorted((logs[i] + logs[j]) / 2 for i in range(len(logs)) for j in range(i + 1))
    cut, level = cut_of(len(logs))
    return Comparison(math.exp(statistics.median(means)), math.exp(means[cut]),
                      math.exp(means[-1 - cut]), level)


def pairs_for(level):
    """How many pairs a level takes."""
    return math.ceil(1 - math.log2(1 - level))
