//! The query of a request: every parameter is known, given once, and of its kind, or the request
//! is refused. A parameter that is silently ignored is one that somebody relied on.

use axum::extract::Query;
use http::Uri;

use crate::api::problem::{Kind, Problem};

/// The parameters not taken yet.
#[derive(Debug)]
pub struct Parameters {
    known: &'static [&'static str],
    pairs: Vec<(String, String)>,
}

impl Parameters {
    /// Refuses names that are not `known`, and those given twice.
    pub fn parse(uri: &Uri, known: &'static [&'static str]) -> Result<Parameters, Problem> {
        let refused = |detail: String| Problem::new(Kind::BadParameter, detail);
        let Query(pairs): Query<Vec<(String, String)>> =
            Query::try_from_uri(uri).map_err(|error| refused(error.to_string()))?;
        for (index, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                return Err(refused(match known {
                    [] => format!("this call takes no query parameters: remove {name:?}"),
                    _ => format!("unknown parameter {name:?}: known are {}", known.join(", ")),
                }));
            }
            if pairs[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(refused(format!("the parameter {name:?} is given twice")));
            }
        }
        Ok(Parameters { known, pairs })
    }

    pub fn take(&mut self, name: &str) -> Option<String> {
        debug_assert!(self.known.contains(&name));
        let index = self.pairs.iter().position(|(given, _)| given == name)?;
        Some(self.pairs.swap_remove(index).1)
    }

    /// A whole number within these bounds.
    pub fn take_number(
        &mut self,
        name: &str,
        default: usize,
        min: usize,
        max: usize,
    ) -> Result<usize, Problem> {
        let Some(text) = self.take(name) else { return Ok(default) };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && (min..=max).contains(&number) => Ok(number),
            _ => {
                let detail = format!("{name} is a number from {min} to {max}, not {text:?}");
                Err(Problem::new(Kind::BadParameter, detail))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn limit(query: &str, expected: Option<usize>) {
        let uri = format!("/v1/sessions?{query}").parse().expect("a URI");
        let limit = Parameters::parse(&uri, &["path", "limit"])
            .and_then(|mut parameters| parameters.take_number("limit", 100, 1, 1000));
        assert_eq!(limit.map_err(|problem| problem.kind).ok(), expected, "{query}");
    }

    #[test]
    fn parameters_are_known_single_and_in_bounds() {
        limit("", Some(100));
        limit("limit=1", Some(1));
        limit("path=%2Fws%2Fa%252Fb&limit=1000", Some(1000));
        limit("limit=0", None);
        limit("limit=1001", None);
        limit("limit=", None);
        limit("limit=-1", None);
        limit("limit=%2B1", None);
        limit("limit=99999999999999999999999", None);
        limit("limit=1&limit=1", None);
        limit("limits=1", None);
        limit("Limit=1", None);
        limit("&&", Some(100));
        limit("%ff=%fe", None);
    }
}
