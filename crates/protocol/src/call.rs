//! Calls and refusals between their Rust types and the wire.

use std::cell::{Cell, RefCell};

use serde::de::DeserializeOwned;
use serde::de::value::MapDeserializer;
use serde_json::Value;

use crate::interface::SERVICE;
use crate::refusal::{Refusal, RefusalCode};
use crate::varlink::{Parameters, Reply};

/// Reads the parameters of a call.
///
/// A `null` counts as absent, as varlink has it.
///
/// # Errors
/// A refusal [`RefusalCode::InvalidCall`] with the name of the offending parameter: one that is missing, unknown, or
/// of the wrong type.
pub fn parse_parameters<T: DeserializeOwned>(parameters: Parameters) -> Result<T, Refusal> {
    let last = RefCell::new(String::new());
    let at_end = Cell::new(false);
    let mut given = parameters.into_iter().filter(|(_, value)| !value.is_null());
    let watched = std::iter::from_fn(|| {
        let next = given.next();
        match &next {
            Some((name, _)) => last.borrow_mut().clone_from(name),
            None => at_end.set(true),
        }
        next
    });
    let parsed = T::deserialize(MapDeserializer::<_, serde_json::Error>::new(watched));
    parsed.map_err(|error| {
        let message = error.to_string();
        // Complaints about one parameter come while it is read; those about a missing one after the last.
        let parameter = if at_end.get() {
            message.split('`').nth(1).unwrap_or_default().to_owned()
        } else {
            last.take()
        };
        Refusal::new(RefusalCode::InvalidCall, message).parameter(parameter)
    })
}

/// A refusal as the error reply of `interface`.
///
/// A malformed call becomes varlink's own `InvalidParameter`, everything else `interface.<PascalCase code>`.
pub fn refusal_to_reply(interface: &str, refusal: &Refusal) -> Reply {
    let mut parameters = Parameters::new();
    parameters.insert("message".to_owned(), Value::from(refusal.message.as_str()));
    let texts = [
        ("vm", &refusal.vm),
        ("state", &refusal.state),
        ("hint", &refusal.hint),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            parameters.insert(name.to_owned(), Value::from(text.as_str()));
        }
    }
    if !refusal.causes.is_empty() {
        parameters.insert("causes".to_owned(), Value::from(refusal.causes.clone()));
    }
    match (&refusal.parameter, refusal.code) {
        (Some(parameter), RefusalCode::InvalidCall) => {
            parameters.insert("parameter".to_owned(), Value::from(parameter.as_str()));
            Reply::error(format!("{SERVICE}.InvalidParameter"), parameters)
        }
        (_, code) => Reply::error(format!("{interface}.{}", code.error_name()), parameters),
    }
}

/// The refusal in an error reply; `None` when the error is not one of `interface` or of varlink itself.
pub fn refusal_from_error(interface: &str, error: &str, parameters: &Parameters) -> Option<Refusal> {
    let (prefix, name) = error.rsplit_once('.')?;
    let (code, fallback) = if prefix == interface {
        (RefusalCode::from_error_name(name)?, name.to_owned())
    } else if prefix == SERVICE {
        standard(name, parameters)?
    } else {
        return None;
    };
    let text = |key: &str| parameters.get(key).and_then(Value::as_str).map(str::to_owned);
    let causes = parameters.get("causes").and_then(Value::as_array);
    Some(Refusal {
        code,
        message: text("message").unwrap_or(fallback),
        vm: text("vm"),
        state: text("state"),
        causes: causes
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        hint: text("hint"),
        parameter: text("parameter"),
    })
}

/// Errors that varlink itself defines: code and words.
fn standard(name: &str, parameters: &Parameters) -> Option<(RefusalCode, String)> {
    let about = |key: &str| {
        parameters
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or("?")
            .to_owned()
    };
    let words = match name {
        "InvalidParameter" => format!("the parameter `{}` is invalid", about("parameter")),
        "MethodNotFound" => format!("the peer has no method `{}`", about("method")),
        "MethodNotImplemented" => format!("the peer does not carry out `{}`", about("method")),
        "InterfaceNotFound" => format!("the peer has no interface `{}`", about("interface")),
        "ExpectedMore" => "the method replies more than once and must be called so".to_owned(),
        "PermissionDenied" => {
            return Some((RefusalCode::AuthenticationFailed, "permission denied".to_owned()));
        }
        _ => return None,
    };
    Some((RefusalCode::InvalidCall, words))
}

#[cfg(test)]
mod tests;
