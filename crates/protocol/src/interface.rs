//! The interfaces that are served, as they describe themselves.

use serde::{Deserialize, Serialize};

use crate::method::Method;
use crate::{control, runner};

/// The interface every varlink service has.
pub const SERVICE: &str = "org.varlink.service";

/// One interface of a service.
#[derive(Clone, Copy, Debug)]
pub struct InterfaceDescription {
    /// Full name.
    pub name: &'static str,
    /// The written contract, in varlink's interface language.
    pub idl: &'static str,
    /// Full names of the methods, less those of the handshake.
    pub methods: &'static [&'static str],
    /// Full names of those which reply more than once.
    pub streams: &'static [&'static str],
}

impl InterfaceDescription {
    /// Whether the interface has this method, by full name.
    pub fn has_method(&self, method: &str) -> bool {
        self.methods.contains(&method)
    }

    /// Whether this method replies more than once, by full name.
    pub fn is_stream(&self, method: &str) -> bool {
        self.streams.contains(&method)
    }
}

/// `org.maqet.Control`, served by the supervisor.
pub const CONTROL: InterfaceDescription = InterfaceDescription {
    name: "org.maqet.Control",
    idl: include_str!("../../../docs/varlink/org.maqet.Control.varlink"),
    methods: &[
        control::Add::NAME,
        control::Start::NAME,
        control::Stop::NAME,
        control::Restart::NAME,
        control::Pause::NAME,
        control::Resume::NAME,
        control::Reset::NAME,
        control::Remove::NAME,
        control::List::NAME,
        control::Describe::NAME,
        control::Info::NAME,
        control::Events::NAME,
        control::Qmp::NAME,
        control::Enable::NAME,
        control::Disable::NAME,
        control::SupervisorInfo::NAME,
        control::SupervisorStop::NAME,
        control::Leaks::NAME,
        control::WriteTinyGuest::NAME,
        control::StorageAccept::NAME,
        control::SnapshotCreate::NAME,
        control::SnapshotLoad::NAME,
        control::SnapshotDelete::NAME,
        control::SnapshotList::NAME,
        control::StorageInfo::NAME,
        control::StorageVerify::NAME,
        control::StorageOrphaned::NAME,
        control::StorageResize::NAME,
        control::ImageImport::NAME,
        control::ImageList::NAME,
        control::ImageRemove::NAME,
        control::ImageVerify::NAME,
        control::StorageAttach::NAME,
        control::StorageClone::NAME,
        control::FollowWork::NAME,
        control::StateBackup::NAME,
        control::StateVerify::NAME,
        control::StateDump::NAME,
        control::AuditVerify::NAME,
    ],
    streams: &[
        control::Events::NAME,
        control::ImageImport::NAME,
        control::ImageVerify::NAME,
        control::FollowWork::NAME,
        control::StateDump::NAME,
    ],
};

/// `org.maqet.Runner`, served by each VM's runner.
pub const RUNNER: InterfaceDescription = InterfaceDescription {
    name: "org.maqet.Runner",
    idl: include_str!("../../../docs/varlink/org.maqet.Runner.varlink"),
    methods: &[
        runner::Prepare::NAME,
        runner::Release::NAME,
        runner::Adopt::NAME,
        runner::Query::NAME,
        runner::StopQemu::NAME,
        runner::RunQmp::NAME,
        runner::RunSnapshot::NAME,
        runner::ListSnapshots::NAME,
        runner::StackImages::NAME,
        runner::ListTops::NAME,
        runner::MergeImage::NAME,
        runner::EndMerge::NAME,
        runner::PlugDisk::NAME,
        runner::Watch::NAME,
    ],
    streams: &[runner::Watch::NAME],
};

/// What the control socket serves.
pub static CONTROL_INTERFACES: &[InterfaceDescription] = &[CONTROL];

/// What a runner's socket serves.
pub static RUNNER_INTERFACES: &[InterfaceDescription] = &[RUNNER];

/// `org.varlink.service`, answered by [`crate::endpoint::server`] itself.
pub const SERVICE_IDL: &str = "\
# What every varlink service says about itself
interface org.varlink.service

# Who made the service, and the interfaces it serves
method GetInfo() -> (
  vendor: string,
  product: string,
  version: string,
  url: string,
  interfaces: []string
)

# The description of one interface
method GetInterfaceDescription(interface: string) -> (description: string)

# No such interface here
error InterfaceNotFound (interface: string)

# The interface has no such method
error MethodNotFound (method: string)

# The method exists but is not carried out here
error MethodNotImplemented (method: string)

# A parameter is missing, unknown or of the wrong type
error InvalidParameter (parameter: string)

# The peer may not call this
error PermissionDenied ()

# The method replies more than once: call it with `more`
error ExpectedMore ()
";

/// Reply to `org.varlink.service.GetInfo`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInfo {
    /// Who made it.
    pub vendor: String,
    /// What it is.
    pub product: String,
    /// Version of the program.
    pub version: String,
    /// Where to read more; empty when there is no such place.
    pub url: String,
    /// Full names of the interfaces.
    pub interfaces: Vec<String>,
}

/// Parameters of `org.varlink.service.GetInterfaceDescription`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetInterfaceDescription {
    /// Full name.
    pub interface: String,
}

impl Method for GetInterfaceDescription {
    const NAME: &'static str = "org.varlink.service.GetInterfaceDescription";
    type Reply = InterfaceText;
}

/// Parameters of `org.varlink.service.GetInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetInfo {}

impl Method for GetInfo {
    const NAME: &'static str = "org.varlink.service.GetInfo";
    type Reply = ServiceInfo;
}

/// Reply to [`GetInterfaceDescription`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceText {
    /// The written contract.
    pub description: String,
}

#[cfg(test)]
mod idl;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
