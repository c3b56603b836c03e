//! The cookies of one virtual client.
//!
//! Path, Domain, Secure and `SameSite` are ignored: a client has one service, to which it sends all that it was given.
//! Of lifetimes only the end is honoured: a Max-Age of 0 or less, or an Expires before the year 2000 where there is
//! no Max-Age, deletes the cookie. One that would end in the middle of a load is kept, for a load is short.

/// What a service gives beyond these is no longer a session but a leak of its own.
const MOST_COOKIES: usize = 50;
const LONGEST_COOKIE_BYTES: usize = 4096;
/// What services write to delete a cookie is of the seventies.
const FIRST_YEAR_KEPT: u32 = 2000;

/// The cookies a service gave, as they go back to it.
#[derive(Clone, Debug, Default)]
pub(super) struct CookieJar {
    /// The oldest first. A cookie that is given again keeps its place.
    cookies: Vec<(String, String)>,
    /// All of them as a header's value, built when they change rather than when they are sent.
    header: String,
}

impl CookieJar {
    /// Takes the value of a Set-Cookie header; what is no cookie is ignored.
    pub(super) fn take(&mut self, set_cookie_value: &[u8]) {
        let Some(given) = parse(set_cookie_value) else { return };
        let place = self.cookies.iter().position(|(name, _)| name == given.name);
        match (place, given.is_deleted) {
            (None, true) => return,
            (Some(at), true) => drop(self.cookies.remove(at)),
            (Some(at), false) if self.cookies[at].1 == given.value => return,
            (Some(at), false) => given.value.clone_into(&mut self.cookies[at].1),
            (None, false) => {
                if self.cookies.len() == MOST_COOKIES {
                    self.cookies.remove(0);
                }
                self.cookies.push((given.name.to_owned(), given.value.to_owned()));
            }
        }
        self.header.clear();
        for (name, value) in &self.cookies {
            if !self.header.is_empty() {
                self.header.push_str("; ");
            }
            self.header.extend([name, "=", value]);
        }
    }

    /// The value of the Cookie header, "a=b; c=d"; `None` without cookies.
    pub(super) fn header(&self) -> Option<&str> {
        Some(self.header.as_str()).filter(|header| !header.is_empty())
    }
}

struct Given<'v> {
    name: &'v str,
    value: &'v str,
    is_deleted: bool,
}

/// By RFC 6265, section 5.2, as far as the header of this file says.
fn parse(set_cookie_value: &[u8]) -> Option<Given<'_>> {
    let text = std::str::from_utf8(set_cookie_value).ok()?;
    let (pair, attributes) = text.split_once(';').unwrap_or((text, ""));
    let (name, value) = pair.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let is_too_long = name.len() + value.len() > LONGEST_COOKIE_BYTES;
    // Nothing of it may end the header that it is sent in.
    if name.is_empty() || is_too_long || pair.trim().contains(char::is_control) {
        return None;
    }
    let (mut max_age, mut expires) = (None, None);
    for attribute in attributes.split(';') {
        let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        // Of several the last one counts.
        if key.trim().eq_ignore_ascii_case("max-age") {
            max_age = is_ended_age(value.trim()).or(max_age);
        } else if key.trim().eq_ignore_ascii_case("expires") {
            expires = year(value).map(|year| year < FIRST_YEAR_KEPT).or(expires);
        }
    }
    Some(Given { name, value, is_deleted: max_age.or(expires).unwrap_or(false) })
}

/// Whether this many seconds are over already; `None` when it is no number.
fn is_ended_age(text: &str) -> Option<bool> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // Only its sign matters, so that it may be longer than any integer.
    is_number.then(|| text.starts_with('-') || digits.bytes().all(|byte| byte == b'0'))
}

/// The year of a date such as `Thu, 01 Jan 1970 00:00:00 GMT`: its only number of four digits.
fn year(date: &str) -> Option<u32> {
    date.split(|c: char| !c.is_ascii_digit()).find(|part| part.len() == 4)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jar(given: &[&str]) -> CookieJar {
        given.iter().fold(CookieJar::default(), |mut jar, value| {
            jar.take(value.as_bytes());
            jar
        })
    }

    fn header(given: &[&str]) -> Option<String> {
        jar(given).header().map(str::to_owned)
    }

    #[test]
    fn cookies_go_back_in_the_order_they_came() {
        assert_eq!(header(&[]), None);
        assert_eq!(header(&["a=1"]).unwrap(), "a=1");
        assert_eq!(header(&["a=1; Path=/; HttpOnly", " b = x=y ; Secure"]).unwrap(), "a=1; b=x=y");
        assert_eq!(header(&["a=1", "b=2", "a=3"]).unwrap(), "a=3; b=2");
        assert_eq!(header(&["a=", "A=\"q\""]).unwrap(), "a=; A=\"q\"");
    }

    #[test]
    fn what_has_ended_is_deleted() {
        for end in [
            "Max-Age=0",
            "max-age = -5",
            "MAX-AGE=-99999999999999999999",
            "Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "expires=Thu, 01-Jan-1970 00:00:01 GMT; Path=/",
            "Max-Age=soon; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "Max-Age=5; Max-Age=0",
        ] {
            assert_eq!(header(&["a=1", &format!("a=2; {end}")]), None, "{end}");
            assert_eq!(header(&["b=1", &format!("a=2; {end}")]).unwrap(), "b=1", "{end}");
        }
        for kept in [
            "Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "Expires=Wed, 21 Oct 2099 07:28:00 GMT",
            "Expires=0",
            "Max-Age=",
            "Max-Age=-",
        ] {
            assert_eq!(header(&[&format!("a=2; {kept}")]).unwrap(), "a=2", "{kept}");
        }
    }

    #[test]
    fn what_is_no_cookie_is_ignored() {
        let long = format!("a={}", "x".repeat(4096));
        for bad in ["", ";", "a", "=1", "a=1\r\nx: y", "a\0=1", "a=\u{7f}", &long] {
            assert_eq!(header(&[bad]), None, "{bad:?}");
        }
        let mut jar = CookieJar::default();
        jar.take(b"a=\xff");
        assert_eq!(jar.header(), None);
        jar.take(format!("a={}", "x".repeat(4095)).as_bytes());
        assert!(jar.header().is_some());
    }

    #[test]
    fn the_oldest_makes_room() {
        let given: Vec<String> = (0..=MOST_COOKIES).map(|n| format!("c{n}={n}")).collect();
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let header = header(&given).unwrap();
        assert!(header.starts_with("c1=1; ") && header.ends_with("; c50=50"), "{header}");
        assert_eq!(header.matches('=').count(), MOST_COOKIES);
    }

    proptest::proptest! {
        #[test]
        fn no_answer_can_break_the_next_request(given in proptest::collection::vec("\\PC{0,4}=[ -~\r\n\0é]{0,8}(;[ -~]{0,8})?", 0..60)) {
            let given: Vec<&str> = given.iter().map(String::as_str).collect();
            let header = jar(&given).header().unwrap_or_default().to_owned();
            proptest::prop_assert!(!header.contains(char::is_control), "{:?}", header);
            proptest::prop_assert!(header.split("; ").count() <= MOST_COOKIES);
        }
    }
}
