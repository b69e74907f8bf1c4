//! What the server end answers by itself: introspection, and calls of things that do not exist.

use super::{
    Call, GetInfo, GetInterfaceDescription, InterfaceText, Method, Parameters, ProtocolError, Reply, SERVICE,
    SERVICE_IDL, ServerConnection, ServiceInfo, parameters_of, parse_parameters, refusal_to_reply,
};

/// Whether a call needs nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// It was answered.
    Yes,
    /// It is for the caller.
    No,
}

impl ServerConnection {
    /// Answers a call that is none of the caller's business.
    pub(super) async fn answer_standard(&mut self, call: &Call) -> Result<Answered, ProtocolError> {
        if let Some(reply) = self.introspection(call)? {
            self.send(&reply).await?;
            return Ok(Answered::Yes);
        }
        if Self::is_handshake(&call.method) {
            return Err(self.fail_out_of_turn(call).await?);
        }
        match self.missing(call) {
            Some(reply) => {
                self.send(&reply).await?;
                Ok(Answered::Yes)
            }
            None => Ok(Answered::No),
        }
    }

    /// The reply to a call of `org.varlink.service`; `None` for every other call.
    pub(super) fn introspection(&self, call: &Call) -> Result<Option<Reply>, ProtocolError> {
        let reply = match call.method.as_str() {
            GetInfo::NAME => parameters_of(&self.info())?,
            GetInterfaceDescription::NAME => return self.describe(call).map(Some),
            _ => return Ok(None),
        };
        Ok(Some(Reply::ok(reply)))
    }

    fn info(&self) -> ServiceInfo {
        let own = self.interfaces.iter().map(|interface| interface.name);
        ServiceInfo {
            vendor: "maqet".to_owned(),
            product: format!("maqet {}", self.identity.role.name()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            url: String::new(),
            interfaces: std::iter::once(SERVICE).chain(own).map(str::to_owned).collect(),
        }
    }

    fn describe(&self, call: &Call) -> Result<Reply, ProtocolError> {
        let asked = parse_parameters::<GetInterfaceDescription>(call.parameters.clone().unwrap_or_default());
        let name = match asked {
            Ok(asked) => asked.interface,
            Err(refusal) => return Ok(refusal_to_reply(SERVICE, &refusal)),
        };
        let known = self.interfaces.iter().find(|interface| interface.name == name);
        let description = match known.map(|interface| interface.idl) {
            Some(idl) => idl.to_owned(),
            None if name == SERVICE => SERVICE_IDL.to_owned(),
            None => return Ok(standard_error("InterfaceNotFound", "interface", &name)),
        };
        Ok(Reply::ok(parameters_of(&InterfaceText { description })?))
    }

    /// The error for a call that cannot be handed out; `None` when it can.
    fn missing(&self, call: &Call) -> Option<Reply> {
        let prefix = call.method.rsplit_once('.').map_or("", |(prefix, _)| prefix);
        let Some(interface) = self.interfaces.iter().find(|interface| interface.name == prefix) else {
            return Some(match prefix {
                SERVICE => standard_error("MethodNotFound", "method", &call.method),
                _ => standard_error("InterfaceNotFound", "interface", prefix),
            });
        };
        if !interface.has_method(&call.method) {
            Some(standard_error("MethodNotFound", "method", &call.method))
        } else if call.upgrade {
            Some(standard_error("MethodNotImplemented", "method", &call.method))
        } else if interface.is_stream(&call.method) && !call.more {
            Some(Reply::error(format!("{SERVICE}.ExpectedMore"), Parameters::new()))
        } else {
            None
        }
    }
}

fn standard_error(name: &str, key: &str, value: &str) -> Reply {
    let parameters = Parameters::from_iter([(key.to_owned(), value.into())]);
    Reply::error(format!("{SERVICE}.{name}"), parameters)
}
