//! "Did you mean": the known word that is nearest to an unknown one.

/// Words that users of other load balancers bring along, and ours for them.
const KNOWN_ELSEWHERE: &[(&str, &str)] = &[
    ("servers", "backends"),
    ("server", "backends"),
    ("upstreams", "backends"),
    ("members", "backends"),
    ("frontends", "listeners"),
    ("frontend", "listeners"),
    ("binds", "listeners"),
    ("bind", "listeners"),
    ("routes", "services"),
    ("algorithm", "balance"),
    ("lb", "balance"),
    ("sticky", "persistence"),
    ("stickiness", "persistence"),
    ("affinity", "persistence"),
    ("healthcheck", "health"),
    ("check", "health"),
    ("checks", "health"),
    ("sorry", "fallback"),
    ("hostnames", "hosts"),
    ("domains", "hosts"),
    ("prefix", "path_prefix"),
    ("maxconn", "connections_max"),
    ("maxconnections", "connections_max"),
    ("leastconn", "least_connections"),
    ("wlc", "weighted_least_connections"),
    ("wrr", "weighted_round_robin"),
    ("rr", "round_robin"),
    ("source", "source_hash"),
    ("uri", "uri_hash"),
    ("random", "random_of_two"),
    ("status", "expect"),
    ("virtualips", "vips"),
];

/// The candidate that was most likely meant, if any is near.
pub(super) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str> + Clone) -> Option<&'c str> {
    let plain = normal(word);
    if let Some((_, ours)) = KNOWN_ELSEWHERE.iter().find(|(theirs, _)| *theirs == plain)
        && let Some(hit) = candidates.clone().into_iter().find(|c| c == ours)
    {
        return Some(hit);
    }
    let allowed = (plain.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let other = normal(candidate);
            let begins =
                plain.len() >= 4 && (other.starts_with(&plain) || plain.starts_with(&other) && other.len() >= 4);
            let distance = distance(&plain, &other);
            (begins || distance <= allowed).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Case, `_` and `-` do not count: `pathPrefix` and `path-prefix` are near `path_prefix`. Long
/// words are cut, because nothing known is long and the distance costs the product of the lengths.
fn normal(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).flat_map(char::to_lowercase).take(48).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other
/// (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(word: &str, candidates: &[&str], expected: Option<&str>) {
        assert_eq!(nearest(word, candidates.iter().copied()), expected, "{word}");
    }

    #[test]
    fn typing_errors_and_other_spellings_are_near() {
        check("adress", &["address", "name"], Some("address"));
        check("wieght", &["address", "weight"], Some("weight"));
        check("pathPrefix", &["path", "path_prefix"], Some("path_prefix"));
        check("path-prefx", &["path", "path_prefix"], Some("path_prefix"));
        check("leastconn", &["round_robin", "least_connections"], Some("least_connections"));
        check("servers", &["backends", "services"], Some("backends"));
    }

    #[test]
    fn strangers_are_not_near() {
        check("colour", &["address", "name", "weight"], None);
        check("", &["name"], None);
        check(&"x".repeat(100_000), &["name"], None);
    }
}
