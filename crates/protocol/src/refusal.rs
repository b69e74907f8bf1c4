//! Why a call was not carried out: typed on the wire, with the exit code the CLI ends with.

use serde::{Deserialize, Serialize};

/// Reason of a refusal; the kebab-case name is the `code` of the CLI's JSON error, the `PascalCase` name the varlink
/// error `org.maqet.Control.<Name>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// No VM of that name or id. Exit 4.
    VmNotFound,
    /// The VM has no disk of that name. Exit 4.
    DiskNotFound,
    /// The VM has no snapshot of that name. Exit 4.
    SnapshotNotFound,
    /// The library has no image of that name. Exit 4.
    ImageNotFound,
    /// A file does not come into the library, or an image of it cannot be used. Exit 1.
    ImageRefused,
    /// More than one VM matches the id prefix. Exit 2.
    VmAmbiguous,
    /// A VM of that name exists. Exit 5.
    NameTaken,
    /// The VM is in the wrong state for this. Exit 3.
    WrongState,
    /// A disk of the VM is damaged, and nobody has said what is to be done about it. Exit 3.
    DiskDamaged,
    /// Something else is being done to the VM, or a queue is full. Exit 5.
    Busy,
    /// A host port, disk or other resource is held by somebody. Exit 5.
    Conflict,
    /// The spec is invalid or cannot work on this host. Exit 78.
    InvalidSpec,
    /// A deadline passed; the VM's state is told in `state`. Exit 124.
    Timeout,
    /// QEMU did not come up. Exit 1.
    StartFailed,
    /// QEMU answered a command with an error. Exit 1.
    QmpFailed,
    /// The VM's runner or QEMU does not answer. Exit 1.
    NotAnswering,
    /// The peer did not prove that it knows the secret, or may not be here. Exit 7.
    AuthenticationFailed,
    /// The store cannot write now. Exit 1.
    StoreFailed,
    /// A disk image cannot be read or written. Exit 1.
    StorageFailed,
    /// The call itself is malformed. Exit 2.
    InvalidCall,
    /// A defect in maqet. Exit 1.
    Internal,
}

impl RefusalCode {
    /// Every reason.
    pub const ALL: [Self; 21] = [
        Self::VmNotFound,
        Self::DiskNotFound,
        Self::SnapshotNotFound,
        Self::ImageNotFound,
        Self::ImageRefused,
        Self::VmAmbiguous,
        Self::NameTaken,
        Self::WrongState,
        Self::DiskDamaged,
        Self::Busy,
        Self::Conflict,
        Self::InvalidSpec,
        Self::Timeout,
        Self::StartFailed,
        Self::QmpFailed,
        Self::NotAnswering,
        Self::AuthenticationFailed,
        Self::StoreFailed,
        Self::StorageFailed,
        Self::InvalidCall,
        Self::Internal,
    ];

    /// Last part of the varlink error's name.
    pub fn error_name(self) -> &'static str {
        match self {
            Self::VmNotFound => "VmNotFound",
            Self::DiskNotFound => "DiskNotFound",
            Self::SnapshotNotFound => "SnapshotNotFound",
            Self::ImageNotFound => "ImageNotFound",
            Self::ImageRefused => "ImageRefused",
            Self::VmAmbiguous => "VmAmbiguous",
            Self::NameTaken => "NameTaken",
            Self::WrongState => "WrongState",
            Self::DiskDamaged => "DiskDamaged",
            Self::Busy => "Busy",
            Self::Conflict => "Conflict",
            Self::InvalidSpec => "InvalidSpec",
            Self::Timeout => "Timeout",
            Self::StartFailed => "StartFailed",
            Self::QmpFailed => "QmpFailed",
            Self::NotAnswering => "NotAnswering",
            Self::AuthenticationFailed => "AuthenticationFailed",
            Self::StoreFailed => "StoreFailed",
            Self::StorageFailed => "StorageFailed",
            Self::InvalidCall => "InvalidCall",
            Self::Internal => "Internal",
        }
    }

    /// The reason whose varlink error has this last part.
    pub fn from_error_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.error_name() == name)
    }

    /// Exit code of the CLI, as listed in CLI.md.
    pub fn exit(self) -> u8 {
        match self {
            Self::VmAmbiguous | Self::InvalidCall => 2,
            Self::WrongState | Self::DiskDamaged => 3,
            Self::VmNotFound | Self::DiskNotFound | Self::SnapshotNotFound | Self::ImageNotFound => 4,
            Self::NameTaken | Self::Busy | Self::Conflict => 5,
            Self::AuthenticationFailed => 7,
            Self::InvalidSpec => 78,
            Self::Timeout => 124,
            Self::ImageRefused
            | Self::StartFailed
            | Self::QmpFailed
            | Self::NotAnswering
            | Self::StoreFailed
            | Self::StorageFailed
            | Self::Internal => 1,
        }
    }
}

/// A refusal with everything a person needs to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Reason.
    pub code: RefusalCode,
    /// Lower-case fragment without a full stop.
    pub message: String,
    /// The VM it is about, as it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// State of that VM, for `wrong-state` and `timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// What lies behind it, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// The next command to type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The offending parameter, for `invalid-call`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
}

impl Refusal {
    /// A refusal with a reason and its words.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            vm: None,
            state: None,
            causes: Vec::new(),
            hint: None,
            parameter: None,
        }
    }

    /// Names the VM.
    #[must_use]
    pub fn vm(mut self, vm: impl Into<String>) -> Self {
        self.vm = Some(vm.into());
        self
    }

    /// Names the state.
    #[must_use]
    pub fn state(mut self, state: impl Into<String>) -> Self {
        self.state = Some(state.into());
        self
    }

    /// Adds a cause below those already there.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Names the next command to type.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names the offending parameter.
    #[must_use]
    pub fn parameter(mut self, parameter: impl Into<String>) -> Self {
        self.parameter = Some(parameter.into());
        self
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}
