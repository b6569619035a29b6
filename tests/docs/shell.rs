//! As much of a shell's grammar as pages use: the programs that a block of commands starts, each with its arguments.

/// The commands of a text, those in `$(…)` among them, without redirections, comments and prefixes such as `sudo`.
pub fn commands(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut simple = Simple::default();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let tail = &rest[c.len_utf8()..];
        match c {
            '\\' if tail.starts_with('\n') => {
                simple.end_word();
                rest = &tail[1..];
                continue;
            }
            '\\' => {
                let escaped = tail.chars().next().unwrap_or('\\');
                simple.push(escaped);
                rest = tail.get(escaped.len_utf8()..).unwrap_or("");
                continue;
            }
            '\'' => {
                let (quoted, after) = tail.split_once('\'').unwrap_or_else(|| panic!("a quote is not closed: {rest}"));
                simple.quoted(quoted);
                rest = after;
                continue;
            }
            '"' => {
                let (quoted, after) = double_quoted(tail);
                found.extend(substituted(&quoted));
                simple.quoted(&quoted);
                rest = after;
                continue;
            }
            '$' if tail.starts_with('(') => {
                let (inner, after) = closed(&tail[1..]);
                found.extend(commands(inner));
                simple.quoted("SUBSTITUTED");
                rest = after;
                continue;
            }
            '#' if simple.word.is_none() => {
                rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
                continue;
            }
            ' ' | '\t' => simple.end_word(),
            '>' | '<' => simple.redirect(),
            // `2>&1` and `>&2` are no separators.
            '&' if simple.redirects && simple.word.is_none() => {}
            '\n' | ';' | '|' | '&' | '(' | ')' => found.extend(simple.end()),
            c => simple.push(c),
        }
        rest = tail;
    }
    found.extend(simple.end());
    found
}

/// Up to the parenthesis that closes, and what follows it.
fn closed(text: &str) -> (&str, &str) {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return (&text[..at], &text[at + 1..]);
        }
    }
    panic!("a parenthesis is not closed: {text}")
}

fn double_quoted(text: &str) -> (String, &str) {
    let mut inner = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (inner, &text[at + 1..]),
            '\\' => inner.extend(chars.next().map(|(_, c)| c)),
            c => inner.push(c),
        }
    }
    panic!("a quote is not closed: {text}")
}

/// Commands within a quoted text.
fn substituted(text: &str) -> Vec<Vec<String>> {
    text.match_indices("$(").flat_map(|(at, _)| commands(closed(&text[at + 2..]).0)).collect()
}

/// A command being read.
#[derive(Default)]
struct Simple {
    words: Vec<String>,
    word: Option<String>,
    /// The next word is a file that is redirected to.
    redirects: bool,
}

impl Simple {
    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn quoted(&mut self, text: &str) {
        self.word.get_or_insert_default().push_str(text);
    }

    fn end_word(&mut self) {
        if let Some(word) = self.word.take()
            && !std::mem::take(&mut self.redirects)
        {
            self.words.push(word);
        }
    }

    fn redirect(&mut self) {
        // The number before it is a file's, and no argument.
        if self.word.as_ref().is_some_and(|word| word.len() == 1 && word.as_bytes()[0].is_ascii_digit()) {
            self.word = None;
        }
        self.end_word();
        self.redirects = true;
    }

    fn end(&mut self) -> Option<Vec<String>> {
        self.end_word();
        self.redirects = false;
        let words = started(std::mem::take(&mut self.words));
        (!words.is_empty()).then_some(words)
    }
}

/// Without what stands before the program that does the work: variables, `sudo`, `kubectl exec … --`.
fn started(mut words: Vec<String>) -> Vec<String> {
    loop {
        let is_variable = |word: &String| {
            word.split_once('=').is_some_and(|(name, _)| {
                !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
            })
        };
        let skip = match words.first().map(String::as_str) {
            Some("sudo" | "time" | "exec" | "nohup" | "then" | "do" | "else" | "!") => 1,
            Some("timeout") => 2,
            Some("ip") if words.get(1).is_some_and(|word| word == "netns") && words.len() > 4 => 4,
            Some("kubectl" | "nerdctl" | "docker") => match words.iter().position(|word| word == "--") {
                Some(end) => end + 1,
                None => return words,
            },
            Some(_) if is_variable(&words[0]) => 1,
            _ => return words,
        };
        words.drain(..skip);
    }
}

#[test]
fn commands_are_taken_apart() {
    for (text, wanted) in [
        ("a b c", &["a b c"][..]),
        ("a 'b c' # d\ne", &["a b c", "e"]),
        ("sudo A=1 a -x 2>/dev/null | b > c && d 2>&1; e", &["a -x", "b", "d", "e"]),
        ("a \\\n  b", &["a b"]),
        ("x \"$(y 'z')\" $(w)", &["y z", "w", "x $(y 'z') SUBSTITUTED"]),
        ("kubectl -n n exec p -- a b | c", &["a b", "c"]),
        ("ip netns exec n a b", &["a b"]),
        ("a 'proto=tcp and (x or y)' &", &["a proto=tcp and (x or y)"]),
    ] {
        let found: Vec<String> = commands(text).iter().map(|words| words.join(" ")).collect();
        assert_eq!(found, wanted, "{text}");
    }
}
