//! The parameters of a request, which come with its path.

// What others wrote: no place in it is known to be there.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

/// The names and values in a query, decoded.
///
/// # Errors
///
/// A pair is not UTF-8, or has a name that was given before; the error quotes it.
pub fn parameters(query: &str) -> Result<BTreeMap<String, String>, String> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8().map(|text| text.into_owned())
    };
    let mut parameters = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (decode(name), decode(value)) {
            (Ok(name), Ok(value)) => {
                if parameters.insert(name, value).is_some() {
                    return Err(format!("{pair}: given twice"));
                }
            }
            _ => return Err(format!("{pair}: no text")),
        }
    }
    Ok(parameters)
}
