//! What is said about a bad call, and refusals there and back.

use serde_json::json;

use super::*;
use crate::control::{Add, Events, Stop};

fn refused<T: DeserializeOwned + std::fmt::Debug>(parameters: Value) -> (String, String) {
    let Value::Object(parameters) = parameters else {
        panic!("parameters are an object");
    };
    let refusal = parse_parameters::<T>(parameters).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::InvalidCall);
    (refusal.parameter.unwrap(), refusal.message)
}

#[test]
fn an_unknown_parameter_is_named() {
    let (parameter, message) = refused::<Stop>(json!({"vm": "web", "forse": true}));
    assert_eq!(parameter, "forse");
    assert!(
        message.starts_with("unknown field `forse`, expected one of `vm`"),
        "{message}"
    );
    assert_eq!(
        refused::<crate::control::SupervisorStop>(json!({"now": true})).0,
        "now"
    );
}

#[test]
fn a_missing_parameter_is_named() {
    for parameters in [json!({"force": true}), json!({}), json!({"vm": null})] {
        assert_eq!(
            refused::<Stop>(parameters),
            ("vm".to_owned(), "missing field `vm`".to_owned())
        );
    }
    let (parameter, message) = refused::<Add>(json!({"key": "k", "spec": {}}));
    assert_eq!(
        (parameter.as_str(), message.as_str()),
        ("spec", "missing field `name`")
    );
}

#[test]
fn a_parameter_of_the_wrong_type_is_named() {
    let (parameter, message) = refused::<Stop>(json!({"force": "yes", "vm": "web"}));
    assert_eq!(parameter, "force");
    assert_eq!(message, "invalid type: string \"yes\", expected a boolean");
    assert_eq!(
        refused::<Stop>(json!({"timeout_ms": -1, "vm": "web"})).0,
        "timeout_ms"
    );
}

#[test]
fn null_counts_as_absent() {
    let parameters = json!({"vm": null, "follow": null, "since": 7});
    let Value::Object(parameters) = parameters else {
        return;
    };
    let events: Events = parse_parameters(parameters).unwrap();
    assert_eq!(
        events,
        Events {
            since: Some(7),
            vm: None,
            follow: false
        }
    );
}

#[test]
fn every_refusal_survives_the_wire_on_both_interfaces() {
    for interface in ["org.maqet.Control", "org.maqet.Runner"] {
        for code in RefusalCode::ALL {
            let bare = Refusal::new(code, "no");
            let full = bare
                .clone()
                .vm("web")
                .state("running")
                .cause("because")
                .cause("of that")
                .hint("try");
            for refusal in [bare, full] {
                let reply = refusal_to_reply(interface, &refusal);
                let error = reply.error.unwrap();
                assert_eq!(error, format!("{interface}.{code:?}"));
                let back = refusal_from_error(interface, &error, &reply.parameters.unwrap());
                assert_eq!(back, Some(refusal));
            }
        }
    }
}

#[test]
fn a_bad_parameter_travels_as_varlinks_own_error() {
    let refusal = Refusal::new(RefusalCode::InvalidCall, "unknown field `x`").parameter("x");
    let reply = refusal_to_reply("org.maqet.Control", &refusal);
    assert_eq!(
        reply.error.as_deref(),
        Some("org.varlink.service.InvalidParameter")
    );
    let parameters = reply.parameters.unwrap();
    assert_eq!(
        Value::Object(parameters.clone()),
        json!({"message": "unknown field `x`", "parameter": "x"})
    );
    let back = refusal_from_error(
        "org.maqet.Control",
        "org.varlink.service.InvalidParameter",
        &parameters,
    );
    assert_eq!(back, Some(refusal));
}

#[test]
fn errors_of_varlink_itself_become_refusals_and_strange_ones_do_not() {
    let parameters = Parameters::from_iter([("method".to_owned(), "org.maqet.Control.Fly".into())]);
    let read = |error: &str| refusal_from_error("org.maqet.Control", error, &parameters);
    let unknown_method = read("org.varlink.service.MethodNotFound").unwrap();
    assert_eq!(unknown_method.code, RefusalCode::InvalidCall);
    assert_eq!(
        unknown_method.message,
        "the peer has no method `org.maqet.Control.Fly`"
    );
    let denied = read("org.varlink.service.PermissionDenied").unwrap();
    assert_eq!(denied.code, RefusalCode::AuthenticationFailed);
    for strange in [
        "org.maqet.Control.Later",
        "org.varlink.service.Later",
        "com.example.Busy",
        "Busy",
        "",
    ] {
        assert_eq!(read(strange), None, "{strange}");
    }
}
