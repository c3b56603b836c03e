//! Times that come again: the syntax of `cron_restart`, and when it is due next.
//!
//! As PM2 reads it (croner 4): five fields, minute, hour, day, month and weekday, or six with seconds first. A field
//! is `*`, a number, a range, each with a step if wished (`*/5`, `10-40/10`, `5/15` for from 5 on), or a list of
//! those; months and weekdays have their English names, too, weekday 7 is Sunday as 0 is, and the day `L` is the
//! last of the month. A day counts only when both its date *and* its weekday match, where crontab would take either.
//!
//! Two slips of croner are not followed: `5/15` of days and months begins with the 6th there, and where it skips days
//! for the sake of the weekday it begins the day at the hour it came from instead of at midnight.
//!
//! Deliberately absent: time zones and clocks. Times are those that a clock on the wall shows.

use jiff::civil::{Date, DateTime, Time};

const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
/// A 29th of February on a certain weekday comes at least once in so many years, also over a year like 2100.
const FARTHEST_YEARS: i16 = 40;

/// Points in time that come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cron {
    seconds: Numbers,
    minutes: Numbers,
    hours: Numbers,
    days: Numbers,
    last_day: bool,
    months: Numbers,
    weekdays: Numbers,
}

impl Cron {
    /// Reads the fields.
    ///
    /// # Errors
    /// What is wrong with which field, without what stands in it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let (seconds, rest) = match fields.as_slice() {
            [seconds, rest @ ..] if rest.len() == 5 => (*seconds, rest),
            rest if rest.len() == 5 => ("0", rest),
            _ => return Err(format!("there must be five or six fields, and there are {}", fields.len())),
        };
        let field = |at: usize| rest.get(at).copied().unwrap_or_default();
        let last_day = field(2).eq_ignore_ascii_case("L");
        let weekdays = Field { name: "weekday", least: 0, most: 7, words: &WEEKDAYS }.read(field(4))?;
        Ok(Self {
            seconds: Field { name: "second", least: 0, most: 59, words: &[] }.read(seconds)?,
            minutes: Field { name: "minute", least: 0, most: 59, words: &[] }.read(field(0))?,
            hours: Field { name: "hour", least: 0, most: 23, words: &[] }.read(field(1))?,
            days: if last_day {
                Numbers::default()
            } else {
                Field { name: "day", least: 1, most: 31, words: &[] }.read(field(2))?
            },
            last_day,
            months: Field { name: "month", least: 1, most: 12, words: &MONTHS }.read(field(3))?,
            weekdays: if weekdays.has(7) { weekdays.with(0) } else { weekdays },
        })
    }

    /// The first point later than this one; `None` when there is none in the next 40 years, or of years at all.
    pub(crate) fn next_after(&self, time: DateTime) -> Option<DateTime> {
        let from = time.with().subsec_nanosecond(0).build().ok()?;
        let from = from.checked_add(jiff::Span::new().seconds(1)).ok()?;
        if self.is_on(from.date())
            && let Some(time) = self.time_from(from.time())
        {
            return Some(from.date().to_datetime(time));
        }
        let time = self.time_from(Time::midnight())?;
        let mut date = from.date().tomorrow().ok()?;
        while date.year() - from.year() <= FARTHEST_YEARS {
            if self.is_on(date) {
                return Some(date.to_datetime(time));
            }
            date = if self.months.has(date.month().unsigned_abs()) {
                date.tomorrow().ok()?
            } else {
                date.last_of_month().tomorrow().ok()?
            };
        }
        None
    }

    fn is_on(&self, date: Date) -> bool {
        let is_day = if self.last_day {
            date.day() == date.days_in_month()
        } else {
            self.days.has(date.day().unsigned_abs())
        };
        is_day
            && self.months.has(date.month().unsigned_abs())
            && self.weekdays.has(date.weekday().to_sunday_zero_offset().unsigned_abs())
    }

    /// The first time of a day from this one on.
    fn time_from(&self, from: Time) -> Option<Time> {
        let (hour, minute, second) =
            (from.hour().unsigned_abs(), from.minute().unsigned_abs(), from.second().unsigned_abs());
        let first = |numbers: Numbers| numbers.from(0);
        if self.hours.has(hour) {
            if self.minutes.has(minute)
                && let Some(second) = self.seconds.from(second)
            {
                return time(hour, minute, second);
            }
            if let Some(minute) = self.minutes.from(minute + 1) {
                return time(hour, minute, first(self.seconds)?);
            }
        }
        time(self.hours.from(hour + 1)?, first(self.minutes)?, first(self.seconds)?)
    }
}

fn time(hour: u8, minute: u8, second: u8) -> Option<Time> {
    Time::new(hour.cast_signed(), minute.cast_signed(), second.cast_signed(), 0).ok()
}

/// Numbers below 64, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Numbers(u64);

impl Numbers {
    fn with(self, number: u8) -> Self {
        Self(self.0 | 1_u64.checked_shl(number.into()).unwrap_or(0))
    }

    fn has(self, number: u8) -> bool {
        self.0.checked_shr(number.into()).unwrap_or(0) & 1 == 1
    }

    /// The least of them that is not below this one.
    fn from(self, least: u8) -> Option<u8> {
        let rest = self.0.checked_shr(least.into()).filter(|rest| *rest != 0)?;
        u8::try_from(rest.trailing_zeros()).ok()?.checked_add(least)
    }
}

/// What a field may hold.
struct Field<'w> {
    name: &'w str,
    least: u8,
    most: u8,
    /// Names of the numbers from `least` on.
    words: &'w [&'w str],
}

impl Field<'_> {
    fn read(&self, text: &str) -> Result<Numbers, String> {
        let mut numbers = Numbers::default();
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                None => (part, None),
                Some((range, step)) => (range, Some(self.step(step)?)),
            };
            let (from, to) = match range.split_once('-') {
                _ if range == "*" => (self.least, self.most),
                Some((from, to)) => (self.number(from)?, self.number(to)?),
                // Alone it is itself; with a step, the beginning of all that follows.
                None => (self.number(range)?, if step.is_some() { self.most } else { self.number(range)? }),
            };
            if from > to {
                return Err(format!("a range of the {} ends before it begins", self.name));
            }
            numbers = (from..=to).step_by(step.unwrap_or(1)).fold(numbers, Numbers::with);
        }
        Ok(numbers)
    }

    fn number(&self, text: &str) -> Result<u8, String> {
        let word = self.words.iter().position(|word| word.eq_ignore_ascii_case(text));
        let named = word.and_then(|at| u8::try_from(at).ok()).map(|at| at + self.least);
        let number = named.or_else(|| digits(text));
        number.filter(|number| (self.least..=self.most).contains(number)).ok_or_else(|| {
            let or_name = if self.words.is_empty() { "" } else { ", or a name of three letters" };
            format!("the {} must be a number from {} to {}{or_name}", self.name, self.least, self.most)
        })
    }

    fn step(&self, text: &str) -> Result<usize, String> {
        let most = self.most - self.least + 1;
        let step = digits(text).filter(|step| (1..=most).contains(step));
        step.map(usize::from).ok_or_else(|| format!("a step of the {} must be from 1 to {most}", self.name))
    }
}

/// `parse` alone would take a sign.
fn digits(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> DateTime {
        text.parse().unwrap()
    }

    /// The next three points after a Wednesday, as croner has them.
    fn next(text: &str) -> Vec<String> {
        let cron = Cron::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let mut at = time("2024-01-31T10:07:30");
        let mut points = Vec::new();
        while points.len() < 3
            && let Some(point) = cron.next_after(at)
        {
            points.push(point.to_string());
            at = point;
        }
        points
    }

    #[test]
    fn the_next_points_are_those_of_croner() {
        for (text, points) in [
            ("5/15 * * * *", ["2024-01-31T10:20:00", "2024-01-31T10:35:00", "2024-01-31T10:50:00"]),
            ("*/7 * * * *", ["2024-01-31T10:14:00", "2024-01-31T10:21:00", "2024-01-31T10:28:00"]),
            ("* * * * * *", ["2024-01-31T10:07:31", "2024-01-31T10:07:32", "2024-01-31T10:07:33"]),
            ("0 0 1 * MON", ["2024-04-01T00:00:00", "2024-07-01T00:00:00", "2025-09-01T00:00:00"]),
            ("0 0 */2 * MON", ["2024-02-05T00:00:00", "2024-02-19T00:00:00", "2024-03-11T00:00:00"]),
            ("0 0 L * *", ["2024-02-29T00:00:00", "2024-03-31T00:00:00", "2024-04-30T00:00:00"]),
            ("0 0 * * 7", ["2024-02-04T00:00:00", "2024-02-11T00:00:00", "2024-02-18T00:00:00"]),
            ("0 0 * * sun-TUE", ["2024-02-04T00:00:00", "2024-02-05T00:00:00", "2024-02-06T00:00:00"]),
            ("0 0 * * */2", ["2024-02-01T00:00:00", "2024-02-03T00:00:00", "2024-02-04T00:00:00"]),
            ("0 0 29 2 *", ["2024-02-29T00:00:00", "2028-02-29T00:00:00", "2032-02-29T00:00:00"]),
            ("0 0 * JAN-MAR *", ["2024-02-01T00:00:00", "2024-02-02T00:00:00", "2024-02-03T00:00:00"]),
            ("0 0 1-10/3 * *", ["2024-02-01T00:00:00", "2024-02-04T00:00:00", "2024-02-07T00:00:00"]),
            ("  05\t*   * * * ", ["2024-01-31T11:05:00", "2024-01-31T12:05:00", "2024-01-31T13:05:00"]),
            ("* * * * * MON", ["2024-02-05T00:00:00", "2024-02-05T00:00:01", "2024-02-05T00:00:02"]),
            ("8,7,9 10 * * *", ["2024-01-31T10:08:00", "2024-01-31T10:09:00", "2024-02-01T10:07:00"]),
            ("30 59 23 31 12 *", ["2024-12-31T23:59:30", "2025-12-31T23:59:30", "2026-12-31T23:59:30"]),
        ] {
            assert_eq!(next(text), points, "{text}");
        }
        assert!(next("0 0 31 2 *").is_empty());
    }

    #[test]
    fn slips_of_croner_are_not_followed() {
        assert_eq!(next("0 0 5/15 * *")[..2], ["2024-02-05T00:00:00", "2024-02-20T00:00:00"]);
        assert_eq!(next("* * * * SAT")[0], "2024-02-03T00:00:00");
    }

    #[test]
    fn a_leap_day_on_a_weekday_is_found_beyond_2100() {
        let cron = Cron::parse("0 0 29 2 MON").unwrap();
        assert_eq!(cron.next_after(time("2072-03-01T00:00:00")), Some(time("2112-02-29T00:00:00")));
        assert_eq!(cron.next_after(DateTime::MAX), None);
        assert!(Cron::parse("* * * * *").unwrap().next_after(DateTime::MIN).is_some());
    }

    #[test]
    fn a_point_is_not_after_itself() {
        let cron = Cron::parse("0 0 * * *").unwrap();
        let midnight = time("2024-02-01T00:00:00");
        assert_eq!(cron.next_after(midnight), Some(time("2024-02-02T00:00:00")));
        assert_eq!(cron.next_after(time("2024-01-31T23:59:59.999")), Some(midnight));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, message) in [
            ("* * * *", "there must be five or six fields, and there are 4"),
            ("1 2 3 4 5 6 7", "there must be five or six fields, and there are 7"),
            ("@daily", "there must be five or six fields, and there are 1"),
            ("61 * * * *", "the minute must be a number from 0 to 59"),
            ("+5 * * * *", "the minute must be a number from 0 to 59"),
            ("1, * * * *", "the minute must be a number from 0 to 59"),
            ("*-5 * * * *", "the minute must be a number from 0 to 59"),
            ("? * * * *", "the minute must be a number from 0 to 59"),
            ("0 24 * * *", "the hour must be a number from 0 to 23"),
            ("0 0 0 * *", "the day must be a number from 1 to 31"),
            ("0 0 1,L * *", "the day must be a number from 1 to 31"),
            ("0 0 * january *", "the month must be a number from 1 to 12, or a name of three letters"),
            ("0 0 * * 5L", "the weekday must be a number from 0 to 7, or a name of three letters"),
            ("0 22-2 * * *", "a range of the hour ends before it begins"),
            ("*/0 * * * *", "a step of the minute must be from 1 to 60"),
            ("*/90 * * * *", "a step of the minute must be from 1 to 60"),
            ("5/ * * * *", "a step of the minute must be from 1 to 60"),
        ] {
            assert_eq!(Cron::parse(text).unwrap_err(), message, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9*,/LMONJAN -]{0,24}", any in "\\PC{0,20}") {
            for text in [text, any] {
                if let Ok(cron) = Cron::parse(&text) {
                    let _ = cron.next_after(time("2024-02-29T23:59:59"));
                }
            }
        }

        #[test]
        fn the_next_point_matches_and_none_before_it_does(
            minute in 0_u8..60, hour in 0_u8..24, weekday in 0_u8..8, seconds in 0_i64..400_000_000,
        ) {
            let cron = Cron::parse(&format!("{minute} {hour} * * {weekday}")).unwrap();
            let from = time("2020-01-01T00:00:00") + jiff::Span::new().seconds(seconds);
            let next = cron.next_after(from).unwrap();
            let weeks = (next - from).get_days();
            proptest::prop_assert!(next > from && weeks <= 7);
            proptest::prop_assert_eq!((next.hour().unsigned_abs(), next.minute().unsigned_abs()), (hour, minute));
            proptest::prop_assert_eq!(next.weekday().to_sunday_zero_offset().unsigned_abs(), weekday % 7);
        }
    }
}
