//! What is wrong with a setting, before its place in the text is known.

use std::fmt;

/// One step from the root of the settings to a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    Key(String),
    Index(usize),
}

/// Where a setting stands, from the root.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct At(pub Vec<Step>);

/// Which half of `key = value` is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    Key,
    Value,
}

/// Something wrong with one setting, not yet found in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub at: At,
    pub half: Half,
    pub what: String,
    pub advice: Option<String>,
    /// The other setting it does not go with.
    pub other: Option<At>,
}

impl Fault {
    pub fn key(at: At, what: impl Into<String>) -> Fault {
        Fault { at, half: Half::Key, what: what.into(), advice: None, other: None }
    }

    pub fn value(at: At, what: impl Into<String>) -> Fault {
        Fault { half: Half::Value, ..Fault::key(at, what) }
    }

    pub fn advise(mut self, advice: impl Into<String>) -> Fault {
        self.advice = Some(advice.into());
        self
    }

    pub fn against(mut self, other: At) -> Fault {
        self.other = Some(other);
        self
    }
}

impl At {
    pub fn root() -> At {
        At::default()
    }

    pub fn keys<const N: usize>(keys: [&str; N]) -> At {
        keys.into_iter().fold(At::root(), |at, key| at.key(key))
    }

    pub fn key(&self, key: &str) -> At {
        self.then(Step::Key(key.into()))
    }

    pub fn index(&self, index: usize) -> At {
        self.then(Step::Index(index))
    }

    fn then(&self, step: Step) -> At {
        let mut steps = self.0.clone();
        steps.push(step);
        At(steps)
    }
}

/// As in `api.key[1].name`; indices count from 0 and only show where a line number is missing.
impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if place == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
