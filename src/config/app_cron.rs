//! Whether a `cron_restart` can be one: a look at its form.
//!
//! Deliberately absent: the bounds of each field, and when it is due, which is the supervisor's business.

/// What a field may hold besides numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Words {
    None,
    Last,
    Names,
}

/// Five fields, or six with seconds first: `*`, numbers, ranges and steps, lists of them, names of months and days.
pub(super) fn has_form_of_cron(text: &str) -> bool {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let words = [Words::None, Words::None, Words::None, Words::Last, Words::Names, Words::Names];
    let Some(missing) = words.len().checked_sub(fields.len()).filter(|missing| *missing <= 1) else {
        return false;
    };
    fields.iter().zip(&words[missing..]).all(|(field, words)| is_field(field, *words))
}

fn is_field(field: &str, words: Words) -> bool {
    let is_last = words == Words::Last && field.eq_ignore_ascii_case("l");
    is_last || field.split(',').all(|part| is_part(part, words))
}

fn is_part(part: &str, words: Words) -> bool {
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    let is_value = |value: &str| {
        is_number(value)
            || (words == Words::Names
                && value.len() == 3
                && value.bytes().all(|byte| byte.is_ascii_alphabetic()))
    };
    let is_range = range == "*"
        || range.split_once('-').map_or_else(|| is_value(range), |(from, to)| is_value(from) && is_value(to));
    is_range && step.is_none_or(|step| is_number(step) && step.bytes().any(|digit| digit != b'0'))
}

fn is_number(text: &str) -> bool {
    (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for good in
            ["0 3 * * *", "*/5 * * * *", "0 0 L JAN-mar 1,3,5", "*/10 5/15 0 1-31/2 * SUN", " 0\t0 1 1 7 "]
        {
            assert!(has_form_of_cron(good), "{good}");
        }
        for bad in [
            "",
            "* * * *",
            "1 2 3 4 5 6 7",
            "a * * * *",
            "*/0 * * * *",
            "1- * * * *",
            "1,, * * * *",
            "@daily",
            "? * * * *",
            "0 0 * * 5L",
            "L * * * *",
            "999 * * * *",
            "1.5 * * * *",
            "+5 * * * *",
        ] {
            assert!(!has_form_of_cron(bad), "{bad}");
        }
    }
}
