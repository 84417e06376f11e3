//! What listeners hear: events, each about a session of a path, and gaps.

use std::sync::Arc;

use bytes::Bytes;

use crate::proto::event::Kind;
use crate::proto::path::Path;
use crate::proto::paths::Pattern;
use crate::proto::telling::Missed;

/// What a listener wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// Of a configured path, by its text, only what this pod's own sessions do: for telling others.
    Own(Arc<str>),
    /// Every session of a configured path, by its text.
    Configured(Arc<str>),
    /// The sessions of one concrete path, whatever configures it.
    Concrete(Path),
}

/// One event, ready to be sent.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: String,
    pub kind: Kind,
    /// JSON on one line.
    pub json: Bytes,
    pub path: Path,
    pub configured: Arc<str>,
    pub origin: Origin,
}

/// Whose session it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Own,
    /// Another pod's, which told this one.
    Far,
}

/// What a listener hears.
#[derive(Debug, Clone)]
pub enum Heard {
    Event(Arc<Event>),
    /// Events are missing here: the listener was too slow, or they did not come from another pod.
    Gap(Missed),
}

impl Topic {
    pub fn text(&self) -> Arc<str> {
        match self {
            Topic::Own(text) | Topic::Configured(text) => text.clone(),
            Topic::Concrete(path) => path.as_str().into(),
        }
    }

    pub fn is_of(&self, of: &Path, configured: &Arc<str>, origin: Origin) -> bool {
        match self {
            Topic::Own(text) => text == configured && origin == Origin::Own,
            Topic::Configured(text) => text == configured,
            Topic::Concrete(path) => path == of,
        }
    }

    pub fn is_own(&self) -> bool {
        matches!(self, Topic::Own(_))
    }

    /// What a hole in what others tell of a configured path is to this topic.
    pub fn missed(&self, of: &Arc<str>, missed: Missed) -> Option<Missed> {
        match self {
            Topic::Configured(text) => (text == of).then_some(missed),
            // The path itself, or one of a pattern's: who knows whether it was among them.
            Topic::Concrete(path) if path.as_str() == &**of => Some(missed),
            Topic::Concrete(path) => {
                let is_of = Pattern::parse(of).is_ok_and(|pattern| pattern.matches(path.as_str()));
                is_of.then_some(Missed::Uncounted)
            }
            Topic::Own(_) => None,
        }
    }
}
