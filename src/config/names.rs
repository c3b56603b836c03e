//! What a name may look like where it becomes part of a file name, a variable or a header.

/// A name that becomes part of a file name, a label and a report.
pub(super) fn check_file_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > 64 {
        return Err("must have from 1 to 64 characters");
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')) {
        return Err("may have only letters, digits, `.`, `_` and `-`");
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err("must begin with a letter or a digit");
    }
    Ok(())
}

/// The name of an environment variable.
pub(super) fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 256
        && !name.contains(['=', '\0'])
        && !name.contains(char::is_whitespace)
}

/// A token of RFC 9110, section 5.6.2: methods and header names.
pub(super) fn is_token(text: &str) -> bool {
    let is_token_char = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.len() <= 256 && text.chars().all(is_token_char)
}

/// A header's value, RFC 9110, section 5.5: no control characters but tabs.
pub(super) fn is_header_value(text: &str) -> bool {
    text.len() <= 8192 && text.chars().all(|c| c == '\t' || (!c.is_control() && c.is_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["qse", "qse-2.1_a", "0"] {
            assert_eq!(check_file_name(good), Ok(()));
        }
        for bad in ["", ".hidden", "-x", "../x", "a b", "é", &"x".repeat(65)] {
            assert!(check_file_name(bad).is_err(), "{bad}");
        }
        assert!(is_variable("A_B") && !is_variable("A=B") && !is_variable(""));
        assert!(is_token("X-Trace") && !is_token("X Trace") && !is_token("") && !is_token("a:b"));
        assert!(is_header_value("a\tb") && !is_header_value("a\r\nb") && !is_header_value("é"));
    }
}
