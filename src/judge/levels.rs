//! When a session is looked at, and how much of its error each look may spend.

use std::{cell::RefCell, rc::Rc};

use crate::stats::{
    normal,
    sequential::{self, Spending},
};

/// Looks of every session, as far as its cap reaches: the first where a signed-rank test can say something at the
/// level it then has, later ones further apart, since each costs some of the error.
const LOOKS: [u32; 10] = [10, 15, 20, 30, 40, 60, 80, 120, 160, 200];

/// The numbers of undisturbed epochs at which a session with this cap is looked at, fixed before it begins.
///
/// ```
/// # use qbench::judge::looks;
/// assert_eq!(looks(40), [10, 15, 20, 30, 40]);
/// assert_eq!(looks(8), [8]);
/// ```
pub fn looks(cap: u32) -> Vec<u32> {
    LOOKS.into_iter().filter(|look| *look < cap).chain((cap > 0).then_some(cap)).collect()
}

/// The looks of a session that has come to `epochs` undisturbed epochs; the last is where it stands now, also when
/// that is no look of its plan: the error spent depends on the epochs alone, so that a session may end anywhere.
pub(super) fn looks_until(epochs: u32, cap: u32) -> Vec<u32> {
    let mut looks: Vec<u32> = looks(cap.max(epochs)).into_iter().filter(|look| *look < epochs).collect();
    if epochs > 0 {
        looks.push(epochs);
    }
    looks
}

/// How a PASS spends its error: most sessions are of targets that are no worse, and may end early.
pub(super) const OF_PASS: Spending = Spending::Pocock;
/// How the guard does, which must be able to stop whatever a PASS could.
pub(super) const OF_GUARD: Spending = Spending::Pocock;
/// How a FAIL does: a candidate that is a little beyond its limit takes all the epochs there are to be caught.
pub(super) const OF_FAIL: Spending = Spending::Quadratic;

/// What each look may spend, and what the last one asks for.
pub(super) struct Levels {
    /// One-sided nominal levels, one a look, which spend no more together than the alpha asked for.
    pub(super) each: Vec<f64>,
    /// The standard normal statistic of the last of them.
    pub(super) last_critical: Option<f64>,
}

/// The levels at these looks of a session with this cap.
pub(super) fn nominal(looks: &[u32], cap: u32, alpha: f64, spending: Spending) -> Rc<Levels> {
    // The same few schedules come again for every metric of every session: the integration is done once.
    thread_local! {
        static KNOWN: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) };
    }
    KNOWN.with_borrow_mut(|known| {
        let is_it = |one: &&Known| {
            one.looks == looks
                && one.cap == cap
                && one.alpha.total_cmp(&alpha).is_eq()
                && one.spending == spending
        };
        if let Some(found) = known.iter().find(is_it) {
            return Rc::clone(&found.levels);
        }
        let last = looks.last().copied().unwrap_or(0);
        let each = sequential::nominal_levels(looks, cap.max(last), alpha, spending).unwrap_or_default();
        let last_critical = each.last().and_then(|level| normal::quantile(1.0 - level));
        let levels = Rc::new(Levels { each, last_critical });
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.push(Known { looks: looks.to_vec(), cap, alpha, spending, levels: Rc::clone(&levels) });
        levels
    })
}

/// Far more than one session needs; a bound all the same.
const MOST_KNOWN: usize = 256;

struct Known {
    looks: Vec<u32>,
    cap: u32,
    alpha: f64,
    spending: Spending,
    levels: Rc<Levels>,
}
