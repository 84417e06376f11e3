//! Which paths a key may touch: globs over configured or concrete paths (docs/api.md).

use std::sync::Arc;

/// What the name of an upstream stands behind, where a key says what it may touch.
pub const UPSTREAM: &str = "upstream:";

/// What a caller may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    All,
    Globs(Arc<[Glob]>),
}

/// A path with `*` for any run of characters within one segment and `**` for any run at all. `*`
/// alone is every path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Box<str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a glob starts with '/' or \"upstream:\", or is '*' for everything")]
pub struct Invalid;

impl Grant {
    /// Whether it covers the upstream of that name.
    pub fn allows_upstream(&self, name: &str) -> bool {
        self.allows(&format!("{UPSTREAM}{name}"))
    }

    pub fn allows(&self, path: &str) -> bool {
        match self {
            Grant::All => true,
            Grant::Globs(globs) => globs.iter().any(|glob| glob.matches(path)),
        }
    }
}

impl Glob {
    pub fn parse(text: &str) -> Result<Glob, Invalid> {
        match text {
            "*" => Ok(Glob("**".into())),
            _ if text.starts_with('/') || text.starts_with("**") => Ok(Glob(text.into())),
            _ if text.starts_with(UPSTREAM) => Ok(Glob(text.into())),
            _ => Err(Invalid),
        }
    }

    /// What `parse` makes this glob of.
    pub fn text(&self) -> &str {
        &self.0
    }

    pub fn matches(&self, path: &str) -> bool {
        // Iterative, with one place to come back to for each kind of star: a `*` that failed may
        // only grow within its segment, after that the last `**` grows. Linear in practice and at
        // worst quadratic, so a key's glob cannot be made to hang a pod.
        let (glob, path) = (self.0.as_bytes(), path.as_bytes());
        let (mut g, mut p) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        let mut stars: Option<(usize, usize)> = None;
        loop {
            if glob[g..].starts_with(b"**") {
                g += 2;
                stars = Some((g, p));
                star = None;
            } else if glob.get(g) == Some(&b'*') {
                g += 1;
                star = Some((g, p));
            } else if p < path.len() && glob.get(g) == Some(&path[p]) {
                g += 1;
                p += 1;
            } else if p == path.len() && g == glob.len() {
                return true;
            } else if let Some((after, from)) =
                star.filter(|&(_, from)| path.get(from).is_some_and(|&byte| byte != b'/'))
            {
                star = Some((after, from + 1));
                (g, p) = (after, from + 1);
            } else if let Some((after, from)) = stars.filter(|&(_, from)| from < path.len()) {
                stars = Some((after, from + 1));
                star = None;
                (g, p) = (after, from + 1);
            } else {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(glob: &str, path: &str, expected: bool) {
        let glob = Glob::parse(glob).expect("a good glob");
        assert_eq!(glob.matches(path), expected, "{glob:?} {path}");
    }

    #[test]
    fn one_star_stays_in_its_segment_and_two_do_not() {
        check("/ws/sensors", "/ws/sensors", true);
        check("/ws/sensors", "/ws/sensor", false);
        check("/ws/sensors", "/ws/sensors/", false);
        check("/ws/rooms/*", "/ws/rooms/a", true);
        check("/ws/rooms/*", "/ws/rooms/", true);
        check("/ws/rooms/*", "/ws/rooms/a/b", false);
        check("/ws/rooms/*", "/ws/rooms/{room}", true);
        check("/ws/**", "/ws/rooms/a/b", true);
        check("/ws/**/b", "/ws/rooms/a/b", true);
        check("/ws/**/c", "/ws/rooms/a/b", false);
        check("/a*c/*x", "/abbc/yyx", true);
        check("/a*c/*x", "/ab/c/x", false);
        check("*", "/anything/at/all", true);
        check("*", "upstream:feed", true);
        check("upstream:f*", "upstream:feed", true);
        check("upstream:f*", "/upstream:feed", false);
        check("/**", "upstream:feed", false);
        check("/**a*b", "/x/a/ab", true);
    }

    #[test]
    fn a_glob_cannot_be_made_to_hang() {
        let glob = Glob::parse(&format!("/{}b", "**a".repeat(100))).expect("a good glob");
        assert!(!glob.matches(&format!("/{}", "a".repeat(1000))));
        assert!(Glob::parse("ws").is_err() && Glob::parse("upstreams:x").is_err());
        assert!(!Grant::Globs(Arc::new([])).allows("/ws"));
    }
}
