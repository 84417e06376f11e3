//! Configured paths: which paths exist, and what each was told to do.
//!
//! A configured path is exact (`/ws/sensors`) or a pattern (`/ws/rooms/{room}`, one whole segment
//! per pair of braces). Exact beats pattern; two patterns that can match one path are refused, so
//! the answer never depends on the order of the file.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::proto::path;
use crate::proto::path::Path;
use crate::proto::roster::Backends;
use crate::proto::webhook::Webhook;

/// One configured path with its settings (docs/configuration.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configured {
    pub pattern: Pattern,
    /// Whether the whole msg travels as JSON, or its payload alone.
    pub wholemsg: bool,
    /// Data messages go back to their sender; they cause no event.
    pub echo: bool,
    /// How often a silent session is pinged; two beats without a byte close it. `None`: never.
    pub heartbeat: Option<Duration>,
    /// How long a session may pass without a data message either way. `None`: for ever.
    pub idle: Option<Duration>,
    /// In the server's taste; the first one *offered* that is in here is taken.
    pub subprotocols: Vec<String>,
    /// From what size on messages are deflated for those who agree to it, in bytes. `None`: nobody is
    /// asked.
    pub compress_from_bytes: Option<usize>,
    /// Whose pages may connect. `None`: what the listener says.
    pub origins: Option<Origins>,
    /// What becomes of a session when it may have missed broadcasts.
    pub on_gap: OnGap,
    /// What becomes of broadcasts that a session does not take in time.
    pub slow: Slow,
    /// How far apart rounds of broadcasts begin at least, so that more are joined. `None`: each
    /// begins as soon as it can.
    pub flush_interval: Option<Duration>,
    /// How many concrete paths of a pattern this pod holds at once.
    pub concrete_paths_max: usize,
    /// Whether events are appended to streams.
    pub stream: bool,
    /// What becomes of messages when their stream can take no more.
    pub on_full: OnFull,
    /// Where events are posted to.
    pub webhook: Option<Webhook>,
}

/// What becomes of a session when it may have missed broadcasts: the way to all pods broke, or its
/// shard had no room for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGap {
    Ignore,
    /// It is closed, so that it comes back and asks for what it needs.
    Close,
}

/// What becomes of messages when too many wait to be appended to a stream, or too many in it have
/// not been read by a group. Connects and disconnects are appended whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull {
    /// The sessions that they come from are not read.
    Backpressure,
    /// The oldest go.
    DropOldest,
}

/// What becomes of broadcasts that a session does not take in time. Unicasts, control frames and a
/// frame begun stay whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slow {
    /// They wait; when no more may, the session is closed.
    Close,
    /// They wait; when no more may, the oldest go.
    DropOldest,
    /// Only the newest waits.
    Latest,
}

/// Which `Origin`s may open a path (docs/configuration.md). A missing `Origin` is always allowed: it is no
/// browser, and could claim any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    Any,
    /// Any of: the `Host` the request came to (ports ignored), or one of these, as
    /// `scheme://host[:port]`, lower case.
    Listed {
        same_host: bool,
        origins: Vec<String>,
    },
}

/// The text of a configured path, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Arc<str>,
    /// `None` stands for a `{segment}`. Empty for an exact path.
    segments: Vec<Option<Box<str>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error(transparent)]
    Path(#[from] path::Invalid),
    #[error("braces hold a name and span a whole segment, as in /ws/rooms/{{room}}")]
    Braces,
    #[error("is configured twice")]
    Twice,
    #[error("can match the same paths as {0}")]
    Overlaps(Arc<str>),
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Pattern, Invalid> {
        path::check(text)?;
        let mut segments = Vec::new();
        let mut names = 0;
        for segment in text[1..].split('/') {
            let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            match name {
                Some(name) if is_name(name) => {
                    names += 1;
                    segments.push(None);
                }
                Some(_) => return Err(Invalid::Braces),
                None if segment.contains(['{', '}']) => return Err(Invalid::Braces),
                None => segments.push(Some(segment.into())),
            }
        }
        if names == 0 {
            segments.clear();
        }
        Ok(Pattern { text: text.into(), segments })
    }

    /// As it was configured, braces and all: the value of the label `path`.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    pub fn is_exact(&self) -> bool {
        self.segments.is_empty()
    }

    pub fn matches(&self, path: &str) -> bool {
        if self.is_exact() {
            return *self.text == *path;
        }
        let Some(rest) = path.strip_prefix('/') else { return false };
        let mut given = rest.split('/');
        let fits = self.segments.iter().all(|segment| match (segment, given.next()) {
            (Some(literal), Some(given)) => **literal == *given,
            (None, Some(given)) => path::is_segment(given),
            (_, None) => false,
        });
        fits && given.next().is_none()
    }

    /// Whether some path matches both. Only asked of patterns: an exact path beats them all.
    fn overlaps(&self, other: &Pattern) -> bool {
        self.segments.len() == other.segments.len()
            && self.segments.iter().zip(&other.segments).all(|pair| match pair {
                (Some(one), Some(two)) => one == two,
                (Some(literal), None) | (None, Some(literal)) => path::is_segment(literal),
                (None, None) => true,
            })
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// All configured paths, for look-up.
#[derive(Debug, Clone, Default)]
pub struct Paths {
    all: Vec<Arc<Configured>>,
    exact: HashMap<Arc<str>, Arc<Configured>>,
    patterns: Vec<Arc<Configured>>,
}

impl Paths {
    /// Adds one; refused when it is there already or overlaps another pattern.
    pub fn add(&mut self, configured: Configured) -> Result<(), Invalid> {
        let pattern = &configured.pattern;
        if self.named(pattern.text()).is_some() {
            return Err(Invalid::Twice);
        }
        let configured = Arc::new(configured.clone());
        if configured.pattern.is_exact() {
            self.exact.insert(configured.pattern.text().clone(), configured.clone());
        } else {
            let overlapped = |other: &&Arc<Configured>| other.pattern.overlaps(&configured.pattern);
            if let Some(other) = self.patterns.iter().find(overlapped) {
                return Err(Invalid::Overlaps(other.pattern.text().clone()));
            }
            self.patterns.push(configured.clone());
        }
        self.all.push(configured);
        Ok(())
    }

    /// The configured path that a raw URL path belongs to, and the path itself as proof.
    pub fn resolve(&self, raw: &str) -> Option<(Path, &Arc<Configured>)> {
        let path = Path::parse(raw).ok()?;
        let configured = match self.exact.get(raw) {
            Some(exact) => exact,
            None => self.patterns.iter().find(|one| one.pattern.matches(raw))?,
        };
        Some((path, configured))
    }

    /// The one configured with exactly this text.
    pub fn named(&self, text: &str) -> Option<&Arc<Configured>> {
        self.all.iter().find(|one| **one.pattern.text() == *text)
    }

    /// In the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Configured>> {
        self.all.iter()
    }
}

impl Configured {
    /// A configured path with the default settings (docs/configuration.md).
    pub fn new(pattern: Pattern) -> Configured {
        Configured {
            pattern,
            wholemsg: false,
            echo: false,
            heartbeat: Some(Duration::from_secs(30)),
            idle: None,
            subprotocols: Vec::new(),
            compress_from_bytes: None,
            origins: None,
            on_gap: OnGap::Ignore,
            slow: Slow::Close,
            flush_interval: None,
            concrete_paths_max: 10_000,
            stream: false,
            on_full: OnFull::Backpressure,
            webhook: None,
        }
    }

    /// The backends that its events are offered to. Whoever only listens is none.
    pub fn backends(&self) -> Backends {
        Backends { stream: self.stream, webhook: self.webhook.is_some() }
    }

    /// Whether its events are offered to a backend: then each of its sessions has its place in the
    /// pod's roster.
    pub fn has_backend(&self) -> bool {
        self.backends().count() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn matches(pattern: &str, path: &str, expected: bool) {
        let pattern = Pattern::parse(pattern).expect("a good pattern");
        assert_eq!(pattern.matches(path), expected, "{pattern:?} {path:?}");
    }

    fn paths(texts: &[&str]) -> Result<Paths, Invalid> {
        let mut paths = Paths::default();
        for text in texts {
            paths.add(Configured::new(Pattern::parse(text)?))?;
        }
        Ok(paths)
    }

    #[test]
    fn a_pattern_matches_whole_segments_on_the_raw_path() {
        matches("/ws", "/ws", true);
        matches("/ws", "/WS", false);
        matches("/ws", "/ws/", false);
        matches("/ws/rooms/{room}", "/ws/rooms/a", true);
        matches("/ws/rooms/{room}", "/ws/rooms/a%2fb", true);
        matches("/ws/rooms/{room}", "/ws/rooms/", false);
        matches("/ws/rooms/{room}", "/ws/rooms", false);
        matches("/ws/rooms/{room}", "/ws/rooms/a/b", false);
        matches("/ws/rooms/{room}", "/ws/rooms/a+b", false);
        matches("/{a}/x/{b}", "/1/x/2", true);
        matches("/{a}/x/{b}", "/1/y/2", false);
    }

    #[test]
    fn braces_span_a_whole_segment() {
        for bad in ["/ws/{", "/ws/}", "/ws/{}", "/ws/a{b}", "/ws/{a}b", "/ws/{a b}", "/ws/{a-b}"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn overlapping_patterns_are_refused_and_exact_beats_pattern() {
        assert_eq!(paths(&["/a", "/a"]).err(), Some(Invalid::Twice));
        let overlap = |other: &str| Some(Invalid::Overlaps(other.into()));
        assert_eq!(paths(&["/{a}/x", "/{b}/x"]).err(), overlap("/{a}/x"));
        assert_eq!(paths(&["/{a}/x", "/y/{b}"]).err(), overlap("/{a}/x"));
        assert!(paths(&["/{a}/x", "/{b}/y"]).is_ok());
        assert!(paths(&["/a/{x}", "/b/{x}", "/{x}", "/a/{x}/{y}"]).is_ok());
        let both = paths(&["/a/{x}", "/a/b"]).expect("exact and pattern live together");
        let named = |raw: &str| both.resolve(raw).map(|(_, one)| one.pattern.text().to_string());
        assert_eq!(named("/a/b").as_deref(), Some("/a/b"));
        assert_eq!(named("/a/c").as_deref(), Some("/a/{x}"));
        assert_eq!(named("/b"), None);
    }
}
