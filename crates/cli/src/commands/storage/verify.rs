//! `maqet storage verify`.

use maqet_protocol::control::{DiskVerified, StorageVerified, StorageVerify};

use crate::args::storage::VerifyArgs;
use crate::error::CliError;
use crate::progress;
use crate::session::{OPERATION_DEADLINE, Session};

/// Checks the disks of a VM.
///
/// # Errors
/// [`CliError::Unhealthy`] when something is wrong; the refusal.
pub(crate) async fn run(session: &Session<'_>, args: &VerifyArgs) -> Result<(), CliError> {
    let method = StorageVerify {
        vm: args.vm.clone(),
        repair: args.repair,
    };
    let checking = session.repeat(&method, OPERATION_DEADLINE);
    let verified = progress::following(session, &method.vm, "checking", checking).await?;
    session
        .output
        .answer(&verified, || text(&verified), || wrong(&verified).join("\n"))?;
    match wrong(&verified).as_slice() {
        [] => Ok(()),
        disks => Err(CliError::Unhealthy {
            what: format!("something is wrong with {} of {}", disks.join(", "), verified.vm),
            hint: Some(hint(&verified)),
        }),
    }
}

/// Names of disks with findings.
fn wrong(verified: &StorageVerified) -> Vec<String> {
    let wrong = verified.disks.iter().filter(|disk| !disk.findings.is_empty());
    wrong.map(|disk| disk.disk.clone()).collect()
}

fn hint(verified: &StorageVerified) -> String {
    format!("maqet storage info {}", verified.vm)
}

fn text(verified: &StorageVerified) -> String {
    if verified.disks.is_empty() {
        return format!("{} has no disks", verified.vm);
    }
    let mut lines: Vec<String> = verified
        .disks
        .iter()
        .map(|disk| line(disk, verified.tables))
        .collect();
    if !verified.tables {
        let vm = &verified.vm;
        lines.push(format!(
            "{vm} runs: files and chains were checked, the images' tables were not"
        ));
    }
    lines.join("\n")
}

fn line(disk: &DiskVerified, tables: bool) -> String {
    let path = disk.path.display();
    let word = match (disk.findings.is_empty(), disk.state.as_str()) {
        (true, "ok" | "new") if tables => "sound".to_owned(),
        (true, state) => state.to_owned(),
        (false, _) => "WRONG".to_owned(),
    };
    let repaired = disk.repaired.iter().map(|what| format!("\n  repaired: {what}"));
    let findings = disk.findings.iter().map(|what| format!("\n  {what}"));
    let more = repaired.chain(findings).collect::<String>();
    format!("{}: {word} ({path}){more}", disk.disk)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_to_check_is_not_sound() {
        let none = json!({"vm": "web", "tables": true, "disks": []});
        assert_eq!(text(&serde_json::from_value(none).unwrap()), "web has no disks");
    }

    #[test]
    fn it_says_what_is_wrong_and_what_was_not_checked() {
        let disk = |name: &str, state: &str, findings: &[&str]| {
            json!({"disk": name, "path": format!("/vm/{name}"), "state": state, "findings": findings,
                "repaired": ["2 lost clusters freed"]})
        };
        let disks = [
            disk("root", "ok", &[]),
            disk("data", "missing", &["there is no file"]),
        ];
        for tables in [true, false] {
            let verified = json!({"vm": "web", "tables": tables, "disks": disks});
            let verified: StorageVerified = serde_json::from_value(verified).unwrap();
            let lines = text(&verified);
            let word = if tables { "sound" } else { "ok" };
            assert!(lines.starts_with(&format!("root: {word} (/vm/root)")), "{lines}");
            assert!(lines.contains("data: WRONG (/vm/data)"), "{lines}");
            assert_eq!(lines.ends_with("the images' tables were not"), !tables, "{lines}");
            assert_eq!(wrong(&verified), ["data"]);
        }
    }
}
