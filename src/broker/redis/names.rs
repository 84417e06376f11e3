//! How channels and keys are called in Redis (docs/redis.md).

use crate::proto::path::Path;
use crate::proto::session_id::PodId;

/// All names begin with the prefix, so that several installations can share one Redis.
#[derive(Debug, Clone)]
pub struct Names {
    prefix: String,
}

impl Names {
    pub fn new(prefix: String) -> Names {
        Names { prefix }
    }

    /// Where msgs for a path are published.
    pub fn out(&self, path: &Path) -> String {
        format!("{}:out:{path}", self.prefix)
    }

    /// A pod's inbox.
    pub fn pod(&self, pod: PodId) -> String {
        format!("{}:pod:{pod}", self.prefix)
    }

    /// There while the pod lives.
    pub fn lease(&self, pod: PodId) -> String {
        format!("{}:lease:{pod}", self.prefix)
    }

    /// The set of pods that live, or did until lately.
    pub fn pods(&self) -> String {
        format!("{}:pods", self.prefix)
    }

    /// The sessions whose end a pod has to tell to backends.
    pub fn roster(&self, pod: PodId) -> String {
        format!("{}:roster:{pod}", self.prefix)
    }

    /// There when another pod tells the ends of this one's sessions: it is dead, whatever it believes.
    pub fn claim(&self, pod: PodId) -> String {
        format!("{}:claim:{pod}", self.prefix)
    }

    /// What all leases begin with.
    pub fn leases(&self) -> String {
        format!("{}:lease:", self.prefix)
    }

    /// Where pods tell the events of a configured path.
    pub fn events(&self, configured: &str) -> String {
        format!("{}:ev:{configured}", self.prefix)
    }

    /// There while somebody listens to the events of a configured path.
    pub fn tap(&self, configured: &str) -> String {
        format!("{}:tap:{configured}", self.prefix)
    }

    /// The stream of a part of a configured path's events.
    pub fn stream(&self, configured: &str, partition: u32) -> String {
        format!("{}:in:{configured}:{partition}", self.prefix)
    }

    /// Where msgs for an upstream are published.
    pub fn up(&self, name: &str) -> String {
        format!("{}:up:{name}", self.prefix)
    }

    /// Which pod holds an upstream; there while one does.
    pub fn upstream(&self, name: &str) -> String {
        format!("{}:upstream:{name}", self.prefix)
    }

    /// Counts the holders of an upstream.
    pub fn epoch(&self, name: &str) -> String {
        format!("{}:upstream:{name}:epoch", self.prefix)
    }

    /// The last holder of an upstream that gave it back, by its epoch.
    pub fn released(&self, name: &str) -> String {
        format!("{}:upstream:{name}:released", self.prefix)
    }

    /// The upstream that a channel is the `up` of.
    pub fn upstream_of<'a>(&self, channel: &'a [u8]) -> Option<&'a str> {
        let rest = channel.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b":up:")?;
        std::str::from_utf8(rest).ok()
    }

    /// The stream of a configured path's events that its backend did not take.
    pub fn dead(&self, configured: &str) -> String {
        format!("{}:dead:{configured}", self.prefix)
    }

    /// The configured path that a channel is the `events` of.
    pub fn configured<'a>(&self, channel: &'a [u8]) -> Option<&'a str> {
        let rest = channel.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b":ev:")?;
        std::str::from_utf8(rest).ok()
    }

    /// The path that a channel is the `out` of.
    pub fn path(&self, channel: &[u8]) -> Option<Path> {
        let rest = channel.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b":out:")?;
        Path::parse(std::str::from_utf8(rest).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_tells_its_path_and_no_other_does() {
        let names = Names::new("pathcast".into());
        let path = Path::parse("/ws/a:b%20").expect("a good path");
        assert_eq!(names.out(&path), "pathcast:out:/ws/a:b%20");
        assert_eq!(names.path(names.out(&path).as_bytes()), Some(path));
        for other in ["pathcast:pod:x", "pathcast:out:", "pathcast:out:ws", "other:out:/ws", ""] {
            assert_eq!(names.path(other.as_bytes()), None, "{other}");
            assert_eq!(names.configured(other.as_bytes()), None, "{other}");
        }
        let channel = names.events("/ws/{room}");
        assert_eq!(channel, "pathcast:ev:/ws/{room}");
        assert_eq!(names.configured(channel.as_bytes()), Some("/ws/{room}"));
        assert_eq!(names.path(channel.as_bytes()), None);
        assert_eq!(names.upstream_of(channel.as_bytes()), None);
        assert_eq!(names.upstream_of(b"pathcast:up:feed"), Some("feed"));
    }
}
