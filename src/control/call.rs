//! The parameters of a request. Whatever is not understood is refused, never ignored.

// What others wrote: no place in it is known to be there.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::ValueEnum;

use super::api::Api;
use super::held::Held;
use super::refusal::{Refusal, bad};
use crate::config::{Given, Key};
use crate::filter::Filter;

/// What a route needs to answer.
pub(super) struct Call {
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) api: Arc<dyn Api>,
    pub(super) held: Held,
}

impl Call {
    pub(super) fn filter(&self) -> Result<Filter, Refusal> {
        let text = self.parameters.get("filter").map_or("", String::as_str);
        Filter::parse(text).map_err(|error| bad(error.to_string()))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<usize>, Refusal> {
        let number = |text: &String| text.parse().map_err(|_| bad(format!("{name}={text}: no whole number")));
        self.parameters.get(name).map(number).transpose()
    }

    /// Whether a switch is on: it is without a value, or with `true`.
    pub(super) fn switch(&self, name: &str) -> Result<bool, Refusal> {
        match self.parameters.get(name).map(String::as_str) {
            None => Ok(false),
            Some("") => Ok(true),
            Some(text) => {
                let switch = Given::Text(text.to_owned()).switch();
                switch.map_err(|_| bad(format!("{name}={text}; valid: true, false")))
            }
        }
    }

    /// One of several words; the default if there is no such parameter.
    pub(super) fn choice<T: ValueEnum + Default>(&self, name: &str) -> Result<T, Refusal> {
        let Some(text) = self.parameters.get(name) else { return Ok(T::default()) };
        T::from_str(text, false).map_err(|_| {
            let valid = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
            let valid: Vec<String> = valid.map(|value| value.get_name().to_owned()).collect();
            bad(format!("{name}={text}; valid: {}", valid.join(", ")))
        })
    }

    pub(super) fn key(&self) -> Result<Option<&'static Key>, Refusal> {
        let key = |path: &String| Key::named(path).ok_or_else(|| Refusal(404, Key::unknown(path)));
        self.parameters.get("key").map(key).transpose()
    }

    pub(super) fn needed_key(&self) -> Result<&'static Key, Refusal> {
        self.key()?.ok_or_else(|| bad("the parameter key is missing"))
    }
}
