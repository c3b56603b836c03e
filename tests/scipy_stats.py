#!/usr/bin/env python3
"""The statistics of qbench give what SciPy gives.

    tests/scipy_stats.py [PROBE]

Draws at least 1,000 random samples for each figure, the same in every run, has tests/stats_probe.rs compute the figure
of each, and compares it with SciPy's, which `tests/run --install` puts into target/test-tools/scipy. Where SciPy has no
exact answer (the null distribution of tied ranks, how many ordered values an interval leaves out) the answer is
counted here in whole numbers of any size. PROBE is built by cargo unless given. Prints for each figure how many samples
there were and the worst deviation. Exit code: 0 all agree, 1 something does not.
"""

import json
import os
import pathlib
import subprocess
import sys
from fractions import Fraction
from functools import cache

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = ROOT / "target" / "test-tools" / "scipy"
PACKAGES = "scipy==1.17.1 numpy==2.4.6"
SEED = 20_260_101
SAMPLES = 1000
# How far a number may be from the expected one, relative to it. Numbers below the floor of their figure are judged
# relative to that: where they come near 0 by cancelling, where SciPy has fewer digits, and where the figure is judged
# in absolute terms.
TOLERANCE = 1e-9
FLOOR = {
    # SciPy has the smaller of two tails as the difference of the larger from 1.
    "signed rank, p values": 1e-4,
    # Differences of values of order 1.
    "Hodges-Lehmann, one sample": 1e-3,
    "Hodges-Lehmann, two samples": 1e-3,
    "Theil-Sen slope": 1e-3,
    "Harrell-Davis, raw values": 1e-2,
    # Quantiles next to the centre of a distribution, from a p that is near a half.
    "normal, quantile": 1e-3,
    "Student, quantile": 1e-3,
    # SciPy's underflow early.
    "Student, cdf": 1e-200,
    "chi-square, cdf": 1e-200,
    "conditional power": 1e-100,
    # Probabilities, in absolute terms.
    "sequential levels, crossing probability": 1.0,
}
CONFIDENCES = ["0.8", "0.9", "0.95", "0.99", "0.999"]


def main(arguments):
    use_own_packages()
    cases = [case for figure in figures() for case in figure]
    found = probe(arguments, [case.arguments for case in cases])
    worst = {}
    for case, numbers in zip(cases, found):
        count, deviation = worst.get(case.name, (0, 0.0))
        worst[case.name] = (count + 1, max(deviation, compare(case, numbers)))
    for name, (count, deviation) in worst.items():
        print(f"{name:42} {count:5} samples, worst deviation {deviation:.1e}")
        expect(count >= SAMPLES, f"{name}: only {count} samples")
    print("SciPy agrees")


def use_own_packages():
    """Looks for the package where tests/run puts it, and then where Python does. One thread is enough."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.path.insert(0, str(TOOLS))
    try:
        import scipy.stats  # noqa: F401
    except ImportError:
        sys.exit(f"SciPy is missing: python3 -m pip install --target {TOOLS} {PACKAGES}")


class Case:
    """One sample: what the probe is given, and what it has to answer, or a function that says so from the answer."""

    def __init__(self, name, arguments, expected):
        self.name, self.arguments, self.expected = name, arguments, expected


def probe(arguments, cases):
    line = arguments[:1] or ["cargo", "run", "--quiet", "--locked", "--example", "stats-probe"]
    lines = "".join(json.dumps(case) + "\n" for case in cases)
    done = subprocess.run(line, input=lines, capture_output=True, text=True, check=False, cwd=ROOT)
    expect(done.returncode == 0, f"the probe ended with {done.returncode}: {done.stderr}")
    answers = [json.loads(answer) for answer in done.stdout.splitlines()]
    expect(len(answers) == len(cases), f"{len(answers)} answers to {len(cases)} cases")
    return answers


def compare(case, found):
    """The largest deviation, which is within the tolerance or the end."""
    expected = case.expected(found) if callable(case.expected) and found is not None else case.expected
    if expected is None or found is None:
        expect(found is None and expected is None, f"{case.name}: {found}, not {expected}, of {case.arguments}")
        return 0.0
    expect(len(found) == len(expected), f"{case.name}: {found}, not {expected}, of {case.arguments}")
    worst = 0.0
    for one, other in zip(found, expected):
        deviation = abs(one - other) / max(abs(other), FLOOR.get(case.name, 0.0)) if one != other else 0.0
        expect(
            deviation <= TOLERANCE,
            f"{case.name}: {one!r}, not {float(other)!r}, which deviates by {deviation:.1e}, of {case.arguments}\n"
            f"all numbers: {found}, not {[float(number) for number in expected]}",
        )
        worst = max(worst, deviation)
    return worst


def figures():
    import numpy

    random = numpy.random.default_rng(SEED)
    yield signed_rank_tests(random)
    yield signed_rank_tests_with_ties(random)
    yield signed_rank_intervals(random)
    yield rank_sum_shifts(random)
    yield theil_sen_slopes(random)
    yield clopper_pearson(random)
    yield distributions(random)
    yield harrell_davis(random)
    yield nominal_levels(random)
    yield conditional_powers(random)


# --- samples


def size(random, least, most):
    """Small sizes as often as large ones."""
    return int(round(least * (most / least) ** random.random()))


def values(random, n, kind):
    """Light and heavy tails, skew, and ties; to 12 digits, so that they are read as they are written."""
    drawn = {
        "normal": lambda: random.normal(0.3, 1.0, n),
        "heavy": lambda: random.standard_cauchy(n) + 0.3,
        "skewed": lambda: random.lognormal(0.0, 1.0, n) - 1.0,
        "tied": lambda: random.integers(-4, 7, n).astype(float),
        "rounded": lambda: numpy_round(random.normal(0.3, 1.0, n), 1),
    }[kind]()
    return [float(f"{value:.12g}") for value in drawn]


def numpy_round(array, digits):
    return array.round(digits) + 0.0


KINDS = ["normal", "heavy", "skewed", "tied", "rounded"]
WITHOUT_TIES = KINDS[:3]


# --- null distributions, counted


def steps(power, width):
    """X^power, where X is so large that the counts, which are the coefficients, do not run into each other."""
    return 1 << (power * width)


def coefficients(polynomial, width, length):
    mask = (1 << width) - 1
    found = []
    data = polynomial.to_bytes((width * length + 7) // 8 + 1, "little")
    for at in range(length):
        bit = at * width
        chunk = int.from_bytes(data[bit // 8 : (bit + width) // 8 + 1], "little")
        found.append((chunk >> (bit % 8)) & mask)
    return found


def sums_of_ranks(ranks):
    """How many choices of signs give each sum: the coefficients of the product of (1 + X^rank)."""
    width = len(ranks) + 1
    product = 1
    for rank in ranks:
        product += product << (rank * width)
    return coefficients(product, width, sum(ranks) + 1)


@cache
def signed_rank_null(n):
    return sums_of_ranks(range(1, n + 1))


@cache
def rank_sum_null(m, n):
    """How many arrangements have each number of pairs in order: the Gaussian binomial coefficient."""
    width = m + n + 1
    above = below = 1
    for i in range(1, m + 1):
        above *= steps(n + i, width) - 1
        below *= steps(i, width) - 1
    return coefficients(above // below, width, m * n + 1)


@cache
def kendall_null(n):
    """How many permutations have each number of pairs in order: the product of 1 + X + … + X^(i−1)."""
    width = 1
    for i in range(2, n + 1):
        width += i.bit_length()
    product = 1
    for i in range(2, n + 1):
        product *= (steps(i, width) - 1) // (steps(1, width) - 1)
    return coefficients(product, width, n * (n - 1) // 2 + 1)


def left_out(counts, confidence):
    """How many of the smallest values an interval leaves out: as long as both tails are within what is allowed."""
    allowed = (1 - Fraction(confidence)) * sum(counts)
    tail = 0
    for count, ways in enumerate(counts):
        if 2 * (tail + ways) > allowed:
            return count
        tail += ways
    raise AssertionError("the tails are more than everything")


def between(ordered, counts, confidence, outside):
    """The interval; `outside` says how probable it is, by SciPy, to be in the tails with a statistic so far out."""
    import numpy

    cut = left_out(counts, confidence)
    if cut == 0:
        return None
    return [numpy.median(ordered), ordered[cut - 1], ordered[-cut], 1.0 - outside(cut - 1)]


# --- the figures


def signed_rank_tests(random):
    from scipy import stats

    for at in range(SAMPLES):
        sample = values(random, size(random, 1, 200), WITHOUT_TIES[at % 3])
        greater, less = (stats.wilcoxon(sample, alternative=side, method="exact") for side in ("greater", "less"))
        expected = [greater.statistic, len(sample), greater.pvalue, less.pvalue]
        yield Case("signed rank, p values", {"figure": "signed_rank_test", "values": sample, "centre": 0.0}, expected)


def signed_rank_tests_with_ties(random):
    from scipy import stats

    for at in range(SAMPLES):
        sample = values(random, size(random, 2, 60), KINDS[3 + at % 2])
        centre = float(random.integers(-1, 2))
        away = [value - centre for value in sample if value != centre]
        doubled = [round(2 * rank) for rank in stats.rankdata([abs(value) for value in away])]
        positive = sum(rank for rank, value in zip(doubled, away) if value > 0)
        ways = sums_of_ranks(doubled)
        everything = sum(ways)
        expected = [
            positive / 2,
            len(away),
            Fraction(sum(ways[positive:]), everything),
            Fraction(sum(ways[: positive + 1]), everything),
        ]
        arguments = {"figure": "signed_rank_test", "values": sample, "centre": centre}
        yield Case("signed rank with ties, p values", arguments, expected)


def signed_rank_intervals(random):
    import numpy

    for at in range(SAMPLES):
        sample, confidence = values(random, size(random, 2, 200), KINDS[at % 5]), CONFIDENCES[at % 4]
        n = len(sample)
        ordered = numpy.sort(numpy.add.outer(sample, sample)[numpy.triu_indices(n)] / 2)
        expected = between(ordered, signed_rank_null(n), confidence, lambda ranks: outside_signed_rank(n, ranks))
        arguments = {"figure": "signed_rank_interval", "values": sample, "confidence": float(confidence)}
        yield Case("Hodges-Lehmann, one sample", arguments, expected)


@cache
def outside_signed_rank(n, wanted):
    """Twice the probability of a sum of ranks up to this, by the p value of a sample that has just this sum."""
    from scipy import stats

    sample = []
    for rank in range(n, 0, -1):
        is_counted = rank <= wanted
        wanted -= rank if is_counted else 0
        sample.append(rank if is_counted else -rank)
    return 2 * stats.wilcoxon(sample, alternative="less", method="exact").pvalue


def rank_sum_shifts(random):
    import numpy

    for at in range(SAMPLES):
        a = values(random, size(random, 2, 60), KINDS[at % 5])
        b = values(random, size(random, 2, 60), KINDS[(at + at // 5 % 2) % 5])
        confidence = CONFIDENCES[at % 4]
        m, n = sorted([len(a), len(b)])
        ordered = numpy.sort(numpy.subtract.outer(b, a).ravel())
        expected = between(ordered, rank_sum_null(m, n), confidence, lambda pairs: outside_rank_sum(m, n, pairs))
        arguments = {"figure": "rank_sum_shift", "a": a, "b": b, "confidence": float(confidence)}
        yield Case("Hodges-Lehmann, two samples", arguments, expected)


@cache
def outside_rank_sum(m, n, wanted):
    """Likewise, by two samples of which just this many pairs are in order."""
    from scipy import stats

    b = [10 * place for place in range(n)]
    whole, rest = divmod(wanted, n)
    a = [10 * n + place for place in range(whole)]
    if len(a) < m:
        a.append(10 * rest - 5)
    a += [-10 - place for place in range(m - len(a))]
    return 2 * stats.mannwhitneyu(a, b, alternative="less", method="exact").pvalue


def theil_sen_slopes(random):
    import numpy
    from scipy import stats

    for at in range(SAMPLES):
        n, confidence = size(random, 2, 60), CONFIDENCES[at % 4]
        x = [float(f"{value:.12g}") for value in numpy.cumsum(random.exponential(1.0, n) + 0.01)]
        noise = values(random, n, KINDS[at % 5])
        y = noise if KINDS[at % 5] == "tied" else [float(f"{0.2 * t + e:.12g}") for t, e in zip(x, noise)]
        order = random.permutation(n)
        x, y = [x[i] for i in order], [y[i] for i in order]
        runs, rises = (numpy.subtract.outer(of, of)[numpy.triu_indices(n, 1)] for of in (x, y))
        ordered = numpy.sort(rises / runs)
        expected = between(ordered, kendall_null(n), confidence, lambda pairs: outside_kendall(n, pairs))
        if expected:
            expected[0] = stats.theilslopes(y, x)[0]
        arguments = {"figure": "theil_sen_slope", "x": x, "y": y, "confidence": float(confidence)}
        yield Case("Theil-Sen slope", arguments, expected)


@cache
def outside_kendall(n, wanted):
    """Likewise, by a permutation of which just this many pairs are in order; Kendall's p value has two sides."""
    from scipy import stats

    permutation = []
    for place in range(n):
        # The next is put before all but `rising` of those that are there.
        rising = min(place, wanted)
        wanted -= rising
        permutation.insert(rising, place)
    return stats.kendalltau(range(n), permutation, method="exact").pvalue


def clopper_pearson(random):
    for at in range(SAMPLES):
        trials = size(random, 1, 100_000_000)
        events = min([0, 1, trials, size(random, 1, trials), int(trials * random.random())][at % 5], trials)
        confidence = CONFIDENCES[at // 5 % 5]
        outside = float(1 - Fraction(confidence))
        low = lower_bound(events, trials, outside / 2)
        high, one_sided = upper_bound(events, trials, outside / 2), upper_bound(events, trials, outside)
        arguments = {"figure": "clopper_pearson", "events": events, "trials": trials, "confidence": float(confidence)}
        yield Case("Clopper-Pearson", arguments, [low, high, one_sided])


def lower_bound(events, trials, p):
    """By `beta.ppf`, which stops at nine digits where a rate is one in ten million; a step of Newton's goes on."""
    from scipy.stats import beta

    if events == 0:
        return 0.0
    a, b = events, trials - events + 1
    x = beta.ppf(p, a, b)
    return x + (p - beta.cdf(x, a, b)) / beta.pdf(x, a, b)


def upper_bound(events, trials, p):
    from scipy.stats import beta

    if events == trials:
        return 1.0
    a, b = events + 1, trials - events
    x = beta.isf(p, a, b)
    return x + (beta.sf(x, a, b) - p) / beta.pdf(x, a, b)


def distributions(random):
    from scipy import stats

    for _ in range(SAMPLES):
        p, z, df = probability(random), float(f"{random.uniform(-37, 37):.12g}"), degrees(random)
        t = float(f"{random.standard_cauchy() * 3:.12g}")
        tiny = float(f"{10 ** random.uniform(-200, -5):.12g}")
        x = float(f"{df * random.lognormal(0, 1.5 / (1 + df**0.5)):.12g}")
        yield Case("normal, tails", {"figure": "normal_tails", "z": z}, [stats.norm.cdf(z), stats.norm.sf(z)])
        yield Case("normal, quantile", {"figure": "normal_quantile", "p": p}, [stats.norm.ppf(p)])
        yield Case("normal, quantile far out", {"figure": "normal_quantile", "p": tiny}, [stats.norm.ppf(tiny)])
        yield Case("Student, cdf", {"figure": "student_cdf", "t": t, "df": df}, [stats.t.cdf(t, df)])
        yield Case("Student, quantile", {"figure": "student_quantile", "p": p, "df": df}, [stats.t.ppf(p, df)])
        yield Case("chi-square, cdf", {"figure": "chi_square_cdf", "x": x, "df": df}, [stats.chi2.cdf(x, df)])
        yield Case("chi-square, quantile", {"figure": "chi_square_quantile", "p": p, "df": df}, [stats.chi2.ppf(p, df)])


def probability(random):
    """Both tails down to 1e-5, and the middle. Further up a float itself has fewer digits than are compared."""
    tail = 10 ** random.uniform(-5, -0.3)
    return float(f"{tail if random.random() < 0.5 else 1 - tail:.12g}")


def degrees(random):
    """Whole and not, from less than 1 to where the distribution is nearly normal."""
    drawn = 0.7 * 10 ** random.uniform(0, 4.5)
    return float(round(drawn + 1)) if random.random() < 0.5 else float(f"{drawn:.12g}")


def harrell_davis(random):
    import numpy
    from scipy.stats import mstats

    for at in range(SAMPLES):
        sample = values(random, size(random, 2, 5000), KINDS[at % 5])
        q = [0.5, 0.9, 0.99, 0.999, float(f"{random.random():.12g}")][at // 5 % 5]
        bins, counts = numpy.unique(sample, return_counts=True)
        arguments = {"figure": "harrell_davis", "values": bins.tolist(), "counts": counts.tolist(), "q": q}
        yield Case("Harrell-Davis, raw values", arguments, [mstats.hdquantiles(sample, [q])[0]])
    for _ in range(SAMPLES):
        yield large_histogram(random)


def large_histogram(random):
    """Up to 10 million values in few bins: the same weights, by SciPy's beta distribution at the edges of the bins."""
    import numpy
    from scipy.special import betainc

    n, bins = size(random, 1000, 10_000_000), size(random, 5, 200)
    counts = random.multinomial(n, random.dirichlet(numpy.ones(bins)))
    edges = numpy.cumsum(counts) / n
    ordered = numpy.unique([float(f"{value:.12g}") for value in random.lognormal(3.0, 1.0, bins)])
    q = float(f"{1 - 10 ** random.uniform(-4, -0.1):.12g}")
    weights = numpy.diff(betainc((n + 1) * q, (n + 1) * (1 - q), edges), prepend=0.0)
    arguments = {"figure": "harrell_davis", "values": ordered.tolist(), "counts": counts.tolist(), "q": q}
    return Case("Harrell-Davis, up to 10 million values", arguments, [numpy.dot(weights, ordered)])


def nominal_levels(random):
    """The probability that the looks found end the test, by a quadrature of another kind, is what they may spend."""
    import numpy

    for at in range(SAMPLES):
        cap = size(random, 5, 400)
        number = min(1 + at % 5, cap)
        looks = sorted(int(look) + 1 for look in random.choice(cap, number, replace=False))
        if at % 2:
            looks[-1] = cap
        alpha = [0.05, 0.025, 0.01, 0.01 / 3, 0.0025][at // 5 % 5]
        fractions = numpy.array(looks) / cap
        spending = ["pocock", "quadratic"][at // 2 % 2]
        spent = alpha * (numpy.log1p((numpy.e - 1) * fractions) if spending == "pocock" else fractions**2)

        def judge(found, fractions=fractions, spent=spent):
            # The levels, moved by what the probability of ending by each look lacks.
            return [level + (due - ends) for level, due, ends in zip(found, spent, crossings(found, fractions))]

        arguments = {"figure": "nominal_levels", "looks": looks, "cap": cap, "alpha": alpha}
        arguments["spending"] = spending
        yield Case("sequential levels, crossing probability", arguments, judge)


def crossings(levels, fractions):
    """The probability of having crossed by each look, with the paths below on one Gauss rule from end to end."""
    import numpy
    from scipy.stats import norm

    abscissae, weights = gauss_rule()
    crossed, total = [], 0.0
    places, masses, before = numpy.zeros(1), numpy.ones(1), 0.0
    for level, fraction in zip(levels, fractions):
        deviation, boundary = numpy.sqrt(fraction - before), norm.isf(level) * numpy.sqrt(fraction)
        total += numpy.dot(masses, norm.sf((boundary - places) / deviation))
        crossed.append(total)
        half = (boundary + 9 * numpy.sqrt(fraction)) / 2
        next_places = boundary - half + half * abscissae
        z = (next_places[:, None] - places[None, :]) / deviation
        density = numpy.exp(-z * z / 2) @ masses / (deviation * numpy.sqrt(2 * numpy.pi))
        places, masses, before = next_places, half * weights * density, fraction
    return crossed


@cache
def gauss_rule():
    import numpy

    return numpy.polynomial.legendre.leggauss(400)


def conditional_powers(random):
    """By the drift: what is still to come is normal around it."""
    from scipy.stats import norm

    for _ in range(SAMPLES):
        z, fraction = (float(f"{value:.12g}") for value in (random.normal(1, 1.5), random.uniform(0.02, 0.98)))
        critical = float(f"{random.uniform(1.2, 3):.12g}")
        drift = z / fraction**0.5
        expected = norm.sf(critical - z * fraction**0.5, loc=drift * (1 - fraction), scale=(1 - fraction) ** 0.5)
        arguments = {"figure": "conditional_power", "z": z, "fraction": fraction, "critical": critical}
        yield Case("conditional power", arguments, [expected])


def expect(holds, message):
    if not holds:
        print(f"FAILED: {message}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
