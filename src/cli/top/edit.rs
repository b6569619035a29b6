//! The line in which a filter is typed.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::filter::{Filter, FilterError};

/// Maximum length in characters: the request that carries the filter is bounded.
const MOST: usize = 2000;

/// The line, the position of the cursor, and what is wrong with the filter.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    text: Vec<char>,
    pub(super) cursor: usize,
    pub(super) fault: Option<FilterError>,
}

impl Edit {
    pub(super) fn new(text: &str) -> Edit {
        let text: Vec<char> = text.chars().collect();
        Edit { cursor: text.len(), text, fault: None }
    }

    pub(super) fn text(&self) -> String {
        self.text.iter().collect()
    }

    pub(super) fn press(&mut self, key: KeyEvent) {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('u') if control => {
                self.text.drain(..self.cursor);
                self.cursor = 0;
            }
            KeyCode::Char('w') if control => {
                let blank = |c: &char| c.is_whitespace();
                let word = self.text[..self.cursor].iter().rposition(|c| !blank(c)).unwrap_or(0);
                let start = self.text[..word].iter().rposition(blank).map_or(0, |place| place + 1);
                self.text.drain(start..self.cursor);
                self.cursor = start;
            }
            KeyCode::Char('a') if control => self.cursor = 0,
            KeyCode::Char('e') if control => self.cursor = self.text.len(),
            KeyCode::Char(_) if control => {}
            KeyCode::Char(c) if self.text.len() < MOST => {
                self.text.insert(self.cursor, c);
                self.cursor += 1;
            }
            KeyCode::Backspace if self.cursor > 0 => {
                self.cursor -= 1;
                self.text.remove(self.cursor);
            }
            KeyCode::Delete if self.cursor < self.text.len() => drop(self.text.remove(self.cursor)),
            KeyCode::Left => self.cursor = self.cursor.saturating_sub(1),
            KeyCode::Right => self.cursor = (self.cursor + 1).min(self.text.len()),
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = self.text.len(),
            _ => {}
        }
        self.fault = Filter::parse(&self.text()).err();
    }
}
