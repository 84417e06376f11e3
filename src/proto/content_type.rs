//! What a `Content-Type` says of characters (RFC 9110, 8.3).

/// The charsets that it names, as written but for quotes and white space: one, unless somebody errs.
pub fn charsets(content_type: &str) -> impl Iterator<Item = &str> {
    let parameters = content_type.split(';').skip(1);
    let pairs = parameters.filter_map(|parameter| parameter.split_once('='));
    let charsets = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    charsets.map(|(_, charset)| charset.trim().trim_matches('"'))
}

/// ASCII is a part of it. Whether a body keeps to that is for whoever reads it.
pub fn is_utf8(charset: &str) -> bool {
    ["utf-8", "utf8", "us-ascii"].iter().any(|one| one.eq_ignore_ascii_case(charset))
}
