//! Users and groups of this machine, from `/etc/passwd` and `/etc/group`, where PM2 looks, too.

use std::fs;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    /// Its number.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
    /// Its home folder.
    pub home: String,
}

/// The user of this name or number.
pub(super) fn user(name: &str) -> Option<Account> {
    user_in(&content("/etc/passwd"), name)
}

/// The number of the group of this name or number.
pub(super) fn group(name: &str) -> Option<u32> {
    group_in(&content("/etc/group"), name)
}

/// A file that cannot be read has nobody in it.
fn content(path: &str) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn user_in(passwd: &str, name: &str) -> Option<Account> {
    entries(passwd, name).find_map(|fields| {
        let number = |at: usize| fields.get(at)?.parse().ok();
        Some(Account { uid: number(2)?, gid: number(3)?, home: (*fields.get(5)?).to_owned() })
    })
}

fn group_in(groups: &str, name: &str) -> Option<u32> {
    entries(groups, name).find_map(|fields| fields.get(2)?.parse().ok())
}

/// Lines whose first field, the name, or third, the number, is this one.
fn entries<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(move |fields| fields.first() == Some(&name) || fields.get(2) == Some(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "#x:x:7:7::/x:/bin/sh\nroot:x:0:0:root:/root:/bin/bash\nbroken\nweb:x:1001:33:W,,:/srv:/bin/sh\n";

    #[test]
    fn users_have_names_and_numbers() {
        let web = Account { uid: 1001, gid: 33, home: "/srv".to_owned() };
        assert_eq!(user_in(PASSWD, "web").as_ref(), Some(&web));
        assert_eq!(user_in(PASSWD, "1001").as_ref(), Some(&web));
        for absent in ["x", "#x", "broken", "", "1002", "we"] {
            assert_eq!(user_in(PASSWD, absent), None, "{absent}");
        }
        assert_eq!(user("root").map(|root| (root.uid, root.gid)), Some((0, 0)));
    }

    #[test]
    fn groups_have_names_and_numbers() {
        let groups = "root:x:0:\nwww:x:33:web,other\nodd:x:many:\n";
        assert_eq!(group_in(groups, "www"), Some(33));
        assert_eq!(group_in(groups, "33"), Some(33));
        assert_eq!((group_in(groups, "odd"), group_in(groups, "web")), (None, None));
    }
}
