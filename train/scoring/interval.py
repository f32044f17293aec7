"""The part of chance in an accuracy, and in the difference of two: Wilson's interval and McNemar's exact test."""

from math import sqrt
from statistics import NormalDist

Z_95 = NormalDist().inv_cdf(0.975)  # 1.96: 95 % of a normal distribution lie within


def wilson(mean: float, num_questions: int) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, at least 0 and at most 1; of no question, everything.

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", Journal of the American
    Statistical Association 22 (1927), 209-212. For scores between 0 and 1 it is no narrower than it should be: none of
    the same mean vary more than zeros and ones do. The questions count as independent.
    """
    if not num_questions:
        return 0.0, 1.0
    share = Z_95**2 / num_questions
    middle = mean + share / 2
    half = Z_95 * sqrt((mean * (1 - mean) + share / 4) / num_questions)
    # At both ends the formula's own end is the mean, up to rounding.
    low, high = (middle - half) / (1 + share), (middle + half) / (1 + share)
    return (0.0 if mean == 0 else low), (1.0 if mean == 1 else high)


def mcnemar(num_wins: int, num_losses: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: how often fair coins would differ at least as much.

    Q. McNemar, "Note on the Sampling Error of the Difference between Correlated Proportions or Percentages",
    Psychometrika 12 (1947), 153-157, with the binomial distribution in place of its approximation.
    """
    num_coins = num_wins + num_losses
    term = total = 1  # the ways to get no heads; then those to get at most `heads`
    for heads in range(1, min(num_wins, num_losses) + 1):
        term = term * (num_coins - heads + 1) // heads
        total += term
    return min(1.0, 2 * total / 2**num_coins)
