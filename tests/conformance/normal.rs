//! What differs from run to run and says nothing: ids, dates, ephemeral ports, times taken.

use std::sync::LazyLock;

use regex::Regex;

/// What is replaced, and by what.
static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (
            r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            "ID",
        ),
        (
            r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w+ 20\d\d \d\d:\d\d:\d\d GMT",
            "DATE",
        ),
        // The kernel's range of ephemeral ports begins at 32768.
        (
            r"(\d+\.\d+\.\d+\.\d+|\[[0-9a-f:]+\]):(3276[89]|327[7-9]\d|32[89]\d\d|3[3-9]\d{3}|[456]\d{4})",
            "$1:PORT",
        ),
        (r"(x-envoy-upstream-service-time: )\d+", "${1}N"),
    ]
    .map(|(pattern, by)| (Regex::new(pattern).unwrap(), by))
    .into()
});

/// The same text with what says nothing replaced.
pub(crate) fn normal(text: &str) -> String {
    RULES.iter().fold(text.to_owned(), |text, (pattern, by)| {
        pattern.replace_all(&text, *by).into_owned()
    })
}

#[test]
fn only_what_says_nothing_is_replaced() {
    let text = "10.0.0.1:80 10.0.0.1:40000 10.0.0.1:15006 [fd00::1]:80 [::6]:40000 a: 66bb8016-1548-4e8f-8a76-24e0e75f5d86 \
        date: Fri, 20 Nov 2026 21:00:47 GMT x-envoy-upstream-service-time: 12";
    assert_eq!(
        normal(text),
        "10.0.0.1:80 10.0.0.1:PORT 10.0.0.1:15006 [fd00::1]:80 [::6]:PORT a: ID date: DATE x-envoy-upstream-service-time: N"
    );
}
