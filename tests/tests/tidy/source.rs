//! Just enough of Rust's grammar to tell code from comments, strings and tests.

/// `source` with every comment, and the inside of every string and character
/// literal, turned into blanks. Lines and columns (in characters) stay.
pub(crate) fn code(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out: Vec<char> = chars.clone();
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at..] {
            ['/', '/', ..] => find(&chars, at, |rest| rest[0] == '\n').unwrap_or(chars.len()),
            ['/', '*', ..] => end_of_block_comment(&chars, at),
            ['"', ..] => end_of_string(&chars, at),
            ['r', ..]
                if !at
                    .checked_sub(1)
                    .is_some_and(|i| is_word(chars[i]) && !matches!(chars[i], 'b' | 'c')) =>
            {
                match raw_string(&chars, at) {
                    Some(end) => end,
                    None => at,
                }
            }
            ['\'', '\\', ..] => find(&chars, at + 3, |rest| rest[0] == '\'').map_or(chars.len(), |i| i + 1),
            ['\'', _, '\'', ..] => at + 3,
            _ => at,
        };
        for c in out.iter_mut().take(end).skip(at).filter(|c| **c != '\n') {
            *c = ' ';
        }
        at = end.max(at + 1);
    }
    out.into_iter().collect()
}

/// `code` (as [`code`] makes it) with every item under `#[cfg(test)]` turned into blanks.
pub(crate) fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = code.as_bytes().to_vec();
    let mut at = 0;
    while let Some(start) = code[at..].find(MARK).map(|i| at + i) {
        let mut depth = 0_usize;
        let mut end = code.len();
        for (i, byte) in code.bytes().enumerate().skip(start + MARK.len()) {
            match byte {
                b'{' => depth += 1,
                b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && matches!(byte, b'}' | b';') {
                end = i + 1;
                break;
            }
        }
        for byte in &mut out[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(out).expect("only whole items became blanks")
}

/// Where `word` stands in `line` as a word of its own.
pub(crate) fn words<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    line.match_indices(word)
        .map(|(i, _)| i)
        .filter(move |i| !line[..*i].ends_with(is_word) && !line[*i + word.len()..].starts_with(is_word))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn find(chars: &[char], from: usize, is: impl Fn(&[char]) -> bool) -> Option<usize> {
    (from..chars.len()).find(|i| is(&chars[*i..]))
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < chars.len() {
        match chars[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// The end of the raw string whose `r` is at `start`, if one starts there.
fn raw_string(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(start + 1 + hashes) != Some(&'"') {
        return None;
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let text = start + 2 + hashes;
    Some(find(chars, text, |rest| rest.starts_with(&close)).map_or(chars.len(), |i| i + close.len()))
}

#[test]
fn comments_and_literals_are_not_code() {
    let source = "a /* b /* c */ d */ e // f\n\"g \\\" h\" i r#\"j \" k\"# l 'm' n '\\'' o &'p q b\"r\" br\"s\" for\"t\"";
    let left: Vec<&str> = code(source).leak().split_whitespace().collect();
    assert_eq!(left, ["a", "e", "i", "l", "n", "o", "&'p", "q", "b", "b", "for"]);
    assert_eq!(code(source).chars().count(), source.chars().count());
}

#[test]
fn test_items_are_left_out() {
    let source = "a\n#[cfg(test)]\nextern crate b;\nc\n#[cfg(test)]\nmod d { { e } }\nf";
    assert_eq!(without_tests(source).split_whitespace().collect::<Vec<_>>(), ["a", "c", "f"]);
    assert_eq!(without_tests(source).lines().count(), source.lines().count());
}

#[test]
fn words_are_whole() {
    assert_eq!(words("unsafe_code unsafe(x) an_unsafe unsafe", "unsafe").collect::<Vec<_>>(), [12, 32]);
}
