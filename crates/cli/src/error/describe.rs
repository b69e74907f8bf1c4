//! An error as it is shown: one report for lines and for JSON.

use std::path::Path;

use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::shell::word;
use maqet_state::error::StoreError;

use super::{CliError, sources};
use crate::render::report::{Place, Report};
use crate::render::units;

impl CliError {
    /// Everything about it that is shown.
    pub(crate) fn report(&self) -> Report {
        let mut report = Report {
            code: self.code(),
            exit: self.exit().code(),
            message: self.to_string(),
            vm: None,
            state: None,
            at: None,
            causes: sources(self),
            hint: None,
        };
        self.describe_vm(&mut report);
        self.describe_place(&mut report);
        report.hint = report.hint.or_else(|| self.hint());
        report
    }

    /// Fills in what is known when the error is about one VM.
    fn describe_vm(&self, report: &mut Report) {
        if let Self::Refused(refusal) = self {
            report.vm.clone_from(&refusal.vm);
            report.state.clone_from(&refusal.state);
            report.causes.clone_from(&refusal.causes);
            report.hint = file_hint(refusal).or_else(|| refusal.hint.clone());
        }
        if let Self::Deadline { vm, state, .. } = self {
            report.vm.clone_from(vm);
            report.state.clone_from(state);
        }
        if let Self::Already { vm, state } | Self::Ended { vm, state, .. } = self {
            report.vm = Some(vm.clone());
            report.state = Some(state.clone());
        }
        if let Self::Removed { vm, .. } | Self::Impossible { vm, .. } = self {
            report.vm = Some(vm.clone());
        }
        if let Self::Ended { vm, last_exit, .. } = self {
            report.causes = last_exit.iter().flat_map(units::last_exit_lines).collect();
            report.hint = Some(format!("maqet why {vm}"));
        }
    }

    /// Fills in what is known when the error is about a supervisor or a file.
    fn describe_place(&self, report: &mut Report) {
        if let Self::Unreachable { causes, .. }
        | Self::SecondSupervisor { causes, .. }
        | Self::InvalidConfig { causes }
        | Self::Remake { causes } = self
        {
            report.causes.clone_from(causes);
        }
        if let Self::InvalidSpec(error) = self {
            report.causes = error.snippet(false).into_iter().collect();
            report.hint = error.hint_text().map(str::to_owned);
            report.at = error.file_name().map(|file| Place {
                file: file.to_owned(),
                line: error.line(),
                column: error.column(),
                field: error.field_path().map(str::to_owned),
            });
        }
    }

    fn hint(&self) -> Option<String> {
        if let Self::Usage { hint, .. }
        | Self::Secret { hint, .. }
        | Self::Deadline { hint, .. }
        | Self::Impossible { hint, .. }
        | Self::Unhealthy { hint, .. } = self
        {
            return hint.clone();
        }
        if let Self::Unreachable { hint, .. } = self {
            return Some(hint.clone());
        }
        if let Self::Process(error) = self {
            return error.hint();
        }
        self.standing_hint().map(str::to_owned)
    }

    /// Hints that are the same for every error of a kind.
    fn standing_hint(&self) -> Option<&'static str> {
        if matches!(self, Self::NoDirectory) {
            return Some("maqet --data-dir DIR …");
        }
        if matches!(self, Self::Lost { .. }) {
            return Some("maqet supervisor status");
        }
        if matches!(self, Self::Untrusted { .. }) {
            return Some("give the `--data-dir` that this supervisor was started with");
        }
        if let Self::Store { source, .. } = self {
            let held = matches!(**source, StoreError::AlreadyOpen { .. });
            return held.then_some("leave the file out: the supervisor that holds the store tells of it");
        }
        if matches!(self, Self::SecondSupervisor { .. }) {
            return Some("give the `--runtime-dir` that the other supervisor was started with");
        }
        None
    }
}

/// Whoever names a file where a VM is meant has not added it yet.
fn file_hint(refusal: &Refusal) -> Option<String> {
    let file = Path::new(refusal.vm.as_deref()?);
    let is_meant = refusal.code == RefusalCode::VmNotFound && file.is_file();
    is_meant.then(|| format!("a file is added first: maqet add {} --start", word(file)))
}
