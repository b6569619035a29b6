//! What `top` shows and how keys change it. Pure: the terminal and the agent are elsewhere.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::Value;

use super::edit::Edit;
use crate::control::{Order, Row, Top, View};

/// Number of updates that a sparkline covers.
pub(super) const BACK: usize = 240;
/// Selectable times between two updates, in milliseconds.
const EVERY: [u64; 7] = [250, 500, 1000, 2000, 5000, 10_000, 30_000];
/// Minimum and maximum number of rows to request.
const ROWS: (usize, usize) = (50, 1000);
/// Number of steps that can be undone.
const STEPS: usize = 16;

pub(super) const VIEWS: [View; 3] = [View::Flows, View::Pairs, View::Services];

/// The orders that apply to a view, in the order of its columns.
pub(super) fn orders(view: View) -> &'static [Order] {
    use Order::{Bytes, Failures, Flows, Packets, Rate, Retransmits, Rtt, Start};
    match view {
        View::Flows => &[Rate, Packets, Bytes, Rtt, Retransmits, Failures, Start],
        View::Pairs | View::Services => &[Flows, Rate, Packets, Bytes, Rtt, Retransmits, Failures],
    }
}

/// A request to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) view: View,
    pub(super) order: Order,
    pub(super) reverse: bool,
    pub(super) limit: usize,
    pub(super) filter: String,
    /// True for a regular update, false for one that a key caused.
    pub(super) regular: bool,
}

/// What a key requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    Ask,
    Quit,
}

/// What covers the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cover {
    Nothing,
    Help,
    /// All fields of the selected flow, from this line on.
    Flow(usize),
}

#[derive(Clone, Debug)]
struct History {
    values: VecDeque<f64>,
    look: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) view: View,
    order: [Order; 3],
    reverse: [bool; 3],
    pub(super) filter: String,
    pub(super) edit: Option<Edit>,
    pub(super) paused: bool,
    pub(super) cover: Cover,
    pub(super) every: Duration,
    /// The latest answer to the current request.
    pub(super) top: Option<Top<Value>>,
    /// Why the last update failed.
    pub(super) trouble: Option<String>,
    pub(super) selected: usize,
    pub(super) offset: usize,
    /// The row that stays selected wherever it moves; `None` for whichever is at the selected place.
    follow: Option<String>,
    before: Vec<(View, String)>,
    total: VecDeque<f64>,
    histories: HashMap<String, History>,
    look: u64,
    /// Number of rows that fit the screen.
    room: usize,
}

impl Model {
    pub(super) fn new(view: View, order: Option<Order>, reverse: bool, filter: String, every: Duration) -> Model {
        let mut model = Model {
            view,
            order: [Order::Rate; 3],
            reverse: [false; 3],
            filter,
            edit: None,
            paused: false,
            cover: Cover::Nothing,
            every,
            top: None,
            trouble: None,
            selected: 0,
            offset: 0,
            follow: None,
            before: Vec::new(),
            total: VecDeque::new(),
            histories: HashMap::new(),
            look: 0,
            room: 0,
        };
        model.order[view as usize] = order.unwrap_or_default();
        model.reverse[view as usize] = reverse;
        model
    }

    pub(super) fn order(&self) -> Order {
        self.order[self.view as usize]
    }

    pub(super) fn reverse(&self) -> bool {
        self.reverse[self.view as usize]
    }

    pub(super) fn query(&self, regular: bool) -> Query {
        Query {
            view: self.view,
            order: self.order(),
            reverse: self.reverse(),
            limit: (self.offset + 2 * self.room).clamp(ROWS.0, ROWS.1),
            filter: self.filter.clone(),
            regular,
        }
    }

    pub(super) fn rows(&self) -> &[Row<Value>] {
        self.top.as_ref().map_or(&[], |top| &top.rows)
    }

    /// The rates of all rows together over time, the latest last.
    pub(super) fn total(&self) -> impl DoubleEndedIterator<Item = f64> + ExactSizeIterator {
        self.total.iter().copied()
    }

    /// The rates of a row over time, the latest last.
    pub(super) fn history(&self, row: &Row<Value>) -> Vec<f64> {
        self.histories.get(&row.filter).map_or_else(Vec::new, |history| history.values.iter().copied().collect())
    }

    /// Takes an answer of the agent. An answer to an outdated request is ignored.
    pub(super) fn take(&mut self, query: &Query, answer: Result<Top<Value>, String>) {
        if (query.view, &query.filter) != (self.view, &self.filter) {
            return;
        }
        match answer {
            Err(trouble) => self.trouble = Some(trouble),
            Ok(top) => {
                self.trouble = None;
                if query.regular || self.total.is_empty() {
                    self.note(&top);
                }
                self.top = Some(top);
                let followed = self.follow.as_ref();
                if let Some(place) = followed.and_then(|key| self.rows().iter().position(|row| row.filter == *key)) {
                    self.selected = place;
                }
                self.scroll();
            }
        }
    }

    fn note(&mut self, top: &Top<Value>) {
        fn push(values: &mut VecDeque<f64>, value: f64) {
            if values.len() == BACK {
                values.pop_front();
            }
            values.push_back(value);
        }
        self.look += 1;
        push(&mut self.total, top.bytes_per_s);
        for row in &top.rows {
            let history =
                self.histories.entry(row.filter.clone()).or_insert(History { values: VecDeque::new(), look: 0 });
            push(&mut history.values, row.bytes_per_s);
            history.look = self.look;
        }
        let look = self.look;
        self.histories.retain(|_, history| look - history.look < 3);
    }

    /// Sets the number of rows that fit the screen.
    pub(super) fn fit(&mut self, room: usize) {
        self.room = room;
        self.scroll();
    }

    /// Keeps the selected row on the screen.
    fn scroll(&mut self) {
        let count = self.rows().len();
        self.selected = self.selected.min(count.saturating_sub(1));
        let most = count.saturating_sub(self.room);
        let least = (self.selected + 1).saturating_sub(self.room);
        self.offset = self.offset.clamp(least, self.selected.max(least)).min(most.max(least));
    }

    fn select(&mut self, place: usize) -> Wish {
        self.selected = place.min(self.rows().len().saturating_sub(1));
        // The first place always selects the first row, whichever that is.
        self.follow = (self.selected > 0).then(|| self.rows()[self.selected].filter.clone());
        let before = self.query(false).limit;
        self.scroll();
        // The last request was limited to fewer rows.
        if self.query(false).limit > before { Wish::Ask } else { Wish::Nothing }
    }

    /// Changes the view or the filter.
    fn turn(&mut self, view: View, filter: String) -> Wish {
        if (view, &filter) == (self.view, &self.filter) {
            return Wish::Nothing;
        }
        let another = filter != self.filter;
        (self.view, self.filter) = (view, filter);
        (self.top, self.follow, self.selected, self.offset) = (None, None, 0, 0);
        self.cover = Cover::Nothing;
        if another {
            self.total.clear();
        }
        Wish::Ask
    }

    fn turn_by(&mut self, steps: usize) -> Wish {
        self.turn(VIEWS[(self.view as usize + steps) % VIEWS.len()], self.filter.clone())
    }

    fn sort_by(&mut self, steps: isize) -> Wish {
        let orders = orders(self.view);
        let place = orders.iter().position(|order| *order == self.order()).unwrap_or_default();
        let next = (place as isize + steps).rem_euclid(orders.len() as isize) as usize;
        self.order[self.view as usize] = orders[next];
        Wish::Ask
    }

    /// Goes from a pair or a service to its flows, and from a flow to its details.
    fn enter(&mut self) -> Wish {
        let Some(row) = self.rows().get(self.selected) else { return Wish::Nothing };
        if self.view == View::Flows {
            self.follow = Some(row.filter.clone());
            self.cover = Cover::Flow(0);
            return Wish::Nothing;
        }
        let filter = match self.filter.as_str() {
            "" => row.filter.clone(),
            filter => format!("({filter}) and {}", row.filter),
        };
        let here = (self.view, self.filter.clone());
        self.before.push(here);
        if self.before.len() > STEPS {
            self.before.remove(0);
        }
        self.turn(View::Flows, filter)
    }

    fn pace(&mut self, faster: bool) -> Wish {
        let now = self.every.as_millis() as u64;
        let next = match faster {
            true => EVERY.iter().rev().find(|every| **every < now),
            false => EVERY.iter().find(|every| **every > now),
        };
        self.every = next.map_or(self.every, |every| Duration::from_millis(*every));
        Wish::Nothing
    }

    /// Handles a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> Wish {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return Wish::Quit;
        }
        if self.edit.is_some() {
            return self.type_filter(key);
        }
        if let Cover::Flow(line) = self.cover {
            self.cover = match key.code {
                KeyCode::Up | KeyCode::Char('k') => Cover::Flow(line.saturating_sub(1)),
                KeyCode::Down | KeyCode::Char('j') => Cover::Flow(line + 1),
                _ => Cover::Nothing,
            };
            return if key.code == KeyCode::Char('q') { Wish::Quit } else { Wish::Nothing };
        }
        if self.cover == Cover::Help {
            self.cover = Cover::Nothing;
            return if key.code == KeyCode::Char('q') { Wish::Quit } else { Wish::Nothing };
        }
        let page = self.room.max(1);
        match key.code {
            KeyCode::Char('q') => Wish::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => {
                self.cover = Cover::Help;
                Wish::Nothing
            }
            KeyCode::Char(digit @ '1'..='3') => self.turn(VIEWS[digit as usize - '1' as usize], self.filter.clone()),
            KeyCode::Tab | KeyCode::Right => self.turn_by(1),
            KeyCode::BackTab | KeyCode::Left => self.turn_by(VIEWS.len() - 1),
            KeyCode::Char('s' | '>') => self.sort_by(1),
            KeyCode::Char('S' | '<') => self.sort_by(-1),
            KeyCode::Char('r') => {
                self.reverse[self.view as usize] ^= true;
                Wish::Ask
            }
            KeyCode::Char('/' | 'f') => {
                self.edit = Some(Edit::new(&self.filter));
                Wish::Nothing
            }
            KeyCode::Char('x') => self.turn(self.view, String::new()),
            KeyCode::Char('e') => {
                let filter = if self.filter == FAILED { String::new() } else { FAILED.to_owned() };
                self.turn(self.view, filter)
            }
            KeyCode::Char('p' | ' ') => {
                self.paused ^= true;
                if self.paused { Wish::Nothing } else { Wish::Ask }
            }
            KeyCode::Char('+') => self.pace(true),
            KeyCode::Char('-') => self.pace(false),
            KeyCode::Up | KeyCode::Char('k') => self.select(self.selected.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(self.selected + 1),
            KeyCode::PageUp => self.select(self.selected.saturating_sub(page)),
            KeyCode::PageDown => self.select(self.selected + page),
            KeyCode::Home | KeyCode::Char('g') => self.select(0),
            KeyCode::End | KeyCode::Char('G') => self.select(usize::MAX),
            KeyCode::Enter => self.enter(),
            KeyCode::Backspace | KeyCode::Esc => match self.before.pop() {
                Some((view, filter)) => self.turn(view, filter),
                None => Wish::Nothing,
            },
            _ => Wish::Nothing,
        }
    }

    fn type_filter(&mut self, key: KeyEvent) -> Wish {
        let Some(edit) = &mut self.edit else { return Wish::Nothing };
        match key.code {
            KeyCode::Esc => self.edit = None,
            KeyCode::Enter if edit.fault.is_none() => {
                let filter = edit.text().trim().to_owned();
                self.edit = None;
                return self.turn(self.view, filter);
            }
            _ => edit.press(key),
        }
        Wish::Nothing
    }
}

/// The filter of the key that shows only failures.
const FAILED: &str = "status=failed";

#[cfg(test)]
pub(super) mod tests;
