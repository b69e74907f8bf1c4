//! What is true of a verb whose `--deadline` has passed.

use std::time::Duration;

use crate::args::Verb;
use crate::args::doctor::DoctorArgs;
use crate::args::image::ImageVerb;
use crate::args::state::StateVerb;
use crate::args::storage::StorageVerb;
use crate::args::verb::SupervisorVerb;
use crate::error::CliError;

/// What becomes of the work when nobody waits any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It goes on.
    GoesOn,
    /// It ends with the connection and leaves nothing.
    GivenUp,
    /// There was none, only a question.
    Question,
    /// VMs of a test boot stay.
    Boot,
}

/// The error of a run that has waited as long as it was to.
pub(crate) fn passed(verb: &Verb, after: Duration) -> CliError {
    let hint = match fate(verb) {
        Fate::GoesOn => "what was asked for goes on; look with `maqet ls`",
        Fate::GivenUp => "it was given up and leaves nothing; give it a longer --deadline",
        Fate::Question => "nothing was changed; give it a longer --deadline",
        Fate::Boot => "maqet cleanup takes away what it left",
    };
    CliError::Deadline {
        what: "the wait for an answer".to_owned(),
        after,
        vm: None,
        state: None,
        hint: Some(hint.to_owned()),
    }
}

fn fate(verb: &Verb) -> Fate {
    let given_up = matches!(
        verb,
        Verb::Image(ImageVerb::Import(_)) | Verb::Storage(StorageVerb::Clone(_))
    );
    let about_vms = matches!(
        verb,
        Verb::Ls(_)
            | Verb::Status(_)
            | Verb::Info(_)
            | Verb::Inspect(_)
            | Verb::Why(_)
            | Verb::Wait(_)
            | Verb::Logs(_)
            | Verb::Events(_)
    );
    let about_the_rest = matches!(
        verb,
        Verb::StorageInfo(_)
            | Verb::Storage(StorageVerb::Info(_) | StorageVerb::Orphaned)
            | Verb::Image(ImageVerb::Ls | ImageVerb::Verify(_))
            | Verb::State(StateVerb::Dump(_) | StateVerb::Verify(_))
            | Verb::Audit(_)
            | Verb::Supervisor(SupervisorVerb::Status)
            | Verb::Doctor(DoctorArgs {
                fix: false,
                boot: false,
                rebuild: false,
                ..
            })
    );
    let boot = matches!(verb, Verb::Doctor(DoctorArgs { boot: true, .. }));
    match (given_up, about_vms || about_the_rest, boot) {
        (true, _, _) => Fate::GivenUp,
        (_, true, _) => Fate::Question,
        (_, _, true) => Fate::Boot,
        (false, false, false) => Fate::GoesOn,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn the_end_of_waiting_is_told_as_what_it_is() {
        for (line, expected) in [
            ("start web", Fate::GoesOn),
            ("snapshot create web one", Fate::GoesOn),
            ("storage verify web", Fate::GoesOn),
            ("storage resize web root 2G", Fate::GoesOn),
            ("image import a.qcow2", Fate::GivenUp),
            ("storage clone web root copy.qcow2", Fate::GivenUp),
            ("image verify", Fate::Question),
            ("ls", Fate::Question),
            ("doctor", Fate::Question),
            ("doctor --leaks --fix", Fate::GoesOn),
            ("doctor --boot", Fate::Boot),
        ] {
            let words = std::iter::once("maqet").chain(line.split(' '));
            let cli = Cli::try_parse_from(words).unwrap();
            assert_eq!(fate(&cli.verb), expected, "{line}");
        }
    }
}
