//! Computes the figures of `qbench::stats` for another program to compare with its own.
//!
//! Reads one case per line from standard input, a JSON object that names the `figure` and its arguments, and writes
//! one line per case: the figure's numbers as an array, or `null` where the figure is refused. `tests/scipy_stats.py`
//! compares them with `SciPy`.

use std::{
    error::Error,
    io::{self, BufRead as _, BufWriter, Write as _},
};

use qbench::stats::{
    Interval, NoInterval, binomial, chi_square, normal, quantile, rank_sum,
    sequential::{self, Spending},
    signed_rank, student, theil_sen,
};
use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let line = line?;
        let case = serde_json::from_str(&line)?;
        let numbers = compute(&case).ok_or_else(|| format!("not a case: {line}"))?;
        serde_json::to_writer(&mut out, &numbers)?;
        writeln!(out)?;
    }
    out.flush()?;
    Ok(())
}

/// The numbers of a figure, `Null` where it is refused; `None` when the case is not one.
fn compute(case: &Value) -> Option<Value> {
    let number = |name: &str| case.get(name)?.as_f64();
    let count = |name: &str| case.get(name)?.as_u64();
    let list =
        |name: &str| case.get(name)?.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
    let numbers = match case.get("figure")?.as_str()? {
        "signed_rank_test" => signed_rank::test(&list("values")?, number("centre")?)
            .map(|found| vec![found.positive_ranks, found.n as f64, found.p_greater, found.p_less]),
        "signed_rank_interval" => ends(signed_rank::interval(&list("values")?, number("confidence")?)),
        "rank_sum_shift" => ends(rank_sum::shift(&list("a")?, &list("b")?, number("confidence")?)),
        "theil_sen_slope" => {
            let points: Vec<(f64, f64)> = list("x")?.into_iter().zip(list("y")?).collect();
            ends(theil_sen::slope(&points, number("confidence")?))
        }
        "clopper_pearson" => {
            let (events, trials, confidence) = (count("events")?, count("trials")?, number("confidence")?);
            binomial::interval(events, trials, confidence).and_then(|(low, high)| {
                let one_sided = binomial::upper_bound(events, trials, confidence)?;
                Some(vec![low, high, one_sided])
            })
        }
        "normal_tails" => Some(vec![normal::cdf(number("z")?), normal::upper_tail(number("z")?)]),
        "normal_quantile" => normal::quantile(number("p")?).map(|found| vec![found]),
        "student_cdf" => student::cdf(number("t")?, number("df")?).map(|found| vec![found]),
        "student_quantile" => student::quantile(number("p")?, number("df")?).map(|found| vec![found]),
        "chi_square_cdf" => chi_square::cdf(number("x")?, number("df")?).map(|found| vec![found]),
        "chi_square_quantile" => chi_square::quantile(number("p")?, number("df")?).map(|found| vec![found]),
        "harrell_davis" => {
            let counts =
                case.get("counts")?.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>()?;
            let bins: Vec<(f64, u64)> = list("values")?.into_iter().zip(counts).collect();
            quantile::harrell_davis(&bins, number("q")?).map(|found| vec![found])
        }
        "nominal_levels" => {
            let looks = list("looks")?.into_iter().map(|look| look as u32).collect::<Vec<u32>>();
            let spending = match case.get("spending")?.as_str()? {
                "quadratic" => Spending::Quadratic,
                _ => Spending::Pocock,
            };
            sequential::nominal_levels(&looks, u32::try_from(count("cap")?).ok()?, number("alpha")?, spending)
        }
        "conditional_power" => {
            sequential::conditional_power(number("z")?, number("fraction")?, number("critical")?)
                .map(|found| vec![found])
        }
        _ => return None,
    };
    Some(Value::from(numbers))
}

fn ends(interval: Result<Interval, NoInterval>) -> Option<Vec<f64>> {
    interval.ok().map(|found| vec![found.estimate, found.low, found.high, found.confidence])
}
