//! Whatever somebody configures and whatever somebody opens: no panic, and the answer does not
//! depend on the order of the patterns.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pathcast::proto::paths::{Configured, Paths, Pattern};

fuzz_target!(|input: &str| {
    // The first line is the path that is opened, each other line is configured.
    let mut lines = input.lines();
    let opened = lines.next().unwrap_or_default();
    let patterns: Vec<Pattern> =
        lines.take(16).filter_map(|line| Pattern::parse(line).ok()).collect();

    let mut paths = Paths::default();
    let taken: Vec<&Pattern> = patterns
        .iter()
        .filter(|pattern| paths.add(Configured::new((*pattern).clone())).is_ok())
        .collect();
    let mut reversed = Paths::default();
    for pattern in taken.iter().rev() {
        reversed.add(Configured::new((*pattern).clone())).expect("together they fitted before");
    }

    let found = |paths: &Paths| {
        let (path, configured) = paths.resolve(opened)?;
        assert_eq!(path.as_str(), opened);
        assert!(configured.pattern.matches(opened));
        Some(configured.pattern.text().to_string())
    };
    let text = found(&paths);
    assert_eq!(text, found(&reversed));
    let matching = taken.iter().filter(|pattern| !pattern.is_exact() && pattern.matches(opened));
    assert!(matching.count() <= 1, "two patterns match {opened:?}");
});
