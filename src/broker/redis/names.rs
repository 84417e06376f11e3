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
        }
    }
}
