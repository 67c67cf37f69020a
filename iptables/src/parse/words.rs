//! A line of a tool as its words: quotes hold one word together.

use std::iter::Peekable;

/// The words of a line.
pub(super) fn split(line: &str) -> Vec<String> {
    let (mut words, mut rest) = (Vec::new(), line.chars().peekable());
    while let Some(first) = rest.peek() {
        if first.is_whitespace() {
            rest.next();
        } else {
            words.push(word(&mut rest));
        }
    }
    words
}

fn word(rest: &mut Peekable<impl Iterator<Item = char>>) -> String {
    let (mut word, mut is_quoted) = (String::new(), false);
    while let Some(&next) = rest.peek() {
        if next.is_whitespace() && !is_quoted {
            break;
        }
        rest.next();
        match next {
            '"' => is_quoted = !is_quoted,
            '\\' if is_quoted => word.extend(rest.next()),
            other => word.push(other),
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn quotes_hold_a_word_together() {
        assert_eq!(
            split(r#"-m comment --comment "a \"b\" c"  -j X"#),
            ["-m", "comment", "--comment", "a \"b\" c", "-j", "X"]
        );
    }
}
