//! Wall-clock times as PM2's users write them (`log_date_format`, the tokens of moment), and the local time zone.

use std::{env, fs, path::PathBuf};

use jiff::{Zoned, tz::TimeZone};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Every token that is understood; of two that begin alike the longer one stands first.
const TOKENS: [(&str, Part); 32] = [
    ("YYYY", Part::Year),
    ("YY", Part::YearShort),
    ("MMMM", Part::MonthName),
    ("MMM", Part::MonthNameShort),
    ("MM", Part::Month(2)),
    ("M", Part::Month(1)),
    ("DDDD", Part::DayOfYear(3)),
    ("DDD", Part::DayOfYear(1)),
    ("DD", Part::Day(2)),
    ("Do", Part::DayOrdinal),
    ("D", Part::Day(1)),
    ("dddd", Part::Weekday(9)),
    ("ddd", Part::Weekday(3)),
    ("dd", Part::Weekday(2)),
    ("d", Part::WeekdayNumber),
    ("HH", Part::Hour(2)),
    ("H", Part::Hour(1)),
    ("hh", Part::HalfDayHour(2)),
    ("h", Part::HalfDayHour(1)),
    ("kk", Part::HourFromOne(2)),
    ("k", Part::HourFromOne(1)),
    ("mm", Part::Minute(2)),
    ("m", Part::Minute(1)),
    ("ss", Part::Second(2)),
    ("s", Part::Second(1)),
    ("SSS", Part::Fraction(3)),
    ("SS", Part::Fraction(2)),
    ("S", Part::Fraction(1)),
    ("ZZ", Part::Offset("")),
    ("Z", Part::Offset(":")),
    ("A", Part::HalfDay { upper: true }),
    ("a", Part::HalfDay { upper: false }),
];

#[derive(Clone, Copy, Debug)]
enum Part {
    Year,
    YearShort,
    MonthName,
    MonthNameShort,
    Month(usize),
    DayOfYear(usize),
    Day(usize),
    DayOrdinal,
    /// The name, cut to so many letters.
    Weekday(usize),
    WeekdayNumber,
    Hour(usize),
    HalfDayHour(usize),
    HourFromOne(usize),
    Minute(usize),
    Second(usize),
    Fraction(u32),
    /// From UTC, with this between hours and minutes.
    Offset(&'static str),
    HalfDay {
        upper: bool,
    },
}

#[derive(Debug)]
enum Piece {
    Literal(String),
    Time(Part),
}

/// A compiled `log_date_format`.
#[derive(Debug)]
pub(super) struct Stamp(Vec<Piece>);

impl Stamp {
    /// Compiles a format. Whatever is no token stands for itself, and so does what is in square brackets.
    pub(super) fn compile(format: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = format;
        while let Some(first) = rest.chars().next() {
            if let Some((inside, after)) = rest.strip_prefix('[').and_then(|text| text.split_once(']')) {
                push_literal(&mut pieces, inside);
                rest = after;
            } else if let Some((name, part)) = TOKENS.iter().find(|(name, _)| rest.starts_with(name)) {
                pieces.push(Piece::Time(*part));
                rest = &rest[name.len()..];
            } else {
                let (literal, after) = rest.split_at(first.len_utf8());
                push_literal(&mut pieces, literal);
                rest = after;
            }
        }
        Self(pieces)
    }

    /// The time as text.
    pub(super) fn text(&self, at: &Zoned) -> String {
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Literal(text) => text.clone(),
                Piece::Time(part) => part.text(at),
            })
            .collect()
    }
}

fn push_literal(pieces: &mut Vec<Piece>, text: &str) {
    if let Some(Piece::Literal(last)) = pieces.last_mut() {
        last.push_str(text);
    } else {
        pieces.push(Piece::Literal(text.to_owned()));
    }
}

impl Part {
    fn text(self, at: &Zoned) -> String {
        let padded = |value: i16, width: usize| format!("{value:0width$}");
        let half = (at.hour() + 11) % 12 + 1;
        match self {
            Self::Year => padded(at.year(), 4),
            Self::YearShort => padded(at.year().rem_euclid(100), 2),
            Self::MonthName => MONTHS[(at.month() - 1) as usize % 12].to_owned(),
            Self::MonthNameShort => MONTHS[(at.month() - 1) as usize % 12][..3].to_owned(),
            Self::Month(width) => padded(at.month().into(), width),
            Self::DayOfYear(width) => padded(at.day_of_year(), width),
            Self::Day(width) => padded(at.day().into(), width),
            Self::DayOrdinal => format!("{}{}", at.day(), ordinal(at.day())),
            Self::Weekday(letters) => DAYS[weekday(at)].chars().take(letters).collect(),
            Self::WeekdayNumber => weekday(at).to_string(),
            Self::Hour(width) => padded(at.hour().into(), width),
            Self::HalfDayHour(width) => padded(half.into(), width),
            Self::HourFromOne(width) => padded(if at.hour() == 0 { 24 } else { at.hour().into() }, width),
            Self::Minute(width) => padded(at.minute().into(), width),
            Self::Second(width) => padded(at.second().into(), width),
            Self::Fraction(digits) => padded(at.millisecond() / 10_i16.pow(3 - digits), digits as usize),
            Self::Offset(between) => {
                let minutes = at.offset().seconds() / 60;
                let sign = if minutes < 0 { '-' } else { '+' };
                format!("{sign}{:02}{between}{:02}", minutes.abs() / 60, minutes.abs() % 60)
            }
            Self::HalfDay { upper } => match (at.hour() < 12, upper) {
                (true, true) => "AM".to_owned(),
                (true, false) => "am".to_owned(),
                (false, true) => "PM".to_owned(),
                (false, false) => "pm".to_owned(),
            },
        }
    }
}

fn weekday(at: &Zoned) -> usize {
    at.weekday().to_sunday_zero_offset() as usize % 7
}

fn ordinal(day: i8) -> &'static str {
    match (day % 10, day / 10) {
        (_, 1) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    }
}

/// The zone of this machine: `TZ`, else `/etc/localtime`, else UTC. Read directly, since the database that jiff
/// could bring along would weigh more than everything else here.
pub(super) fn local_zone() -> TimeZone {
    let file = |path: PathBuf| fs::read(path).ok().and_then(|data| TimeZone::tzif("local", &data).ok());
    let zone = match env::var("TZ") {
        Ok(name) => {
            let name = name.trim_start_matches(':');
            let folder = env::var_os("TZDIR").map_or_else(|| "/usr/share/zoneinfo".into(), PathBuf::from);
            // An empty TZ means UTC; joining an absolute path gives that path.
            (!name.is_empty())
                .then(|| file(folder.join(name)).or_else(|| TimeZone::posix(name).ok()))
                .flatten()
        }
        Err(_) => file("/etc/localtime".into()),
    };
    zone.unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, Zoned, tz::TimeZone};

    use super::Stamp;

    fn at(text: &str, zone: &str) -> Zoned {
        text.parse::<Timestamp>().unwrap().to_zoned(TimeZone::posix(zone).unwrap())
    }

    fn text(format: &str, at: &Zoned) -> String {
        Stamp::compile(format).text(at)
    }

    #[test]
    fn the_tokens_of_moment_are_understood() {
        let time = at("2024-02-03T16:05:09.047Z", "IST-5:30");
        for (format, expected) in [
            ("YYYY-MM-DD HH:mm:ss.SSS Z", "2024-02-03 21:35:09.047 +05:30"),
            ("YY/M/D H:m:s ZZ", "24/2/3 21:35:9 +0530"),
            ("dddd ddd dd d, MMMM MMM Do", "Saturday Sat Sa 6, February Feb 3rd"),
            ("hh h A a", "09 9 PM pm"),
            ("DDD DDDD SS S", "34 034 04 0"),
            ("[at] HH[h]mm €", "at 21h35 €"),
            ("YYYY-MM-DDTHH:mm:ss", "2024-02-03T21:35:09"),
            ("", ""),
            ("[", "["),
        ] {
            assert_eq!(text(format, &time), expected, "{format}");
        }
    }

    #[test]
    fn midnight_noon_and_west_of_greenwich() {
        let midnight = at("2024-01-01T03:30:00Z", "XXX3:30");
        assert_eq!(text("hh A k kk Z", &midnight), "12 AM 24 24 -03:30");
        let noon = at("2024-01-11T12:00:00Z", "UTC0");
        assert_eq!(text("hh A Do Z", &noon), "12 PM 11th +00:00");
    }
}
