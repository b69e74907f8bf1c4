//! `maqet image`.

use std::path::Path;

use maqet_protocol::control::{
    ImageImport, ImageInfo, ImageList, ImageRemove, ImageRemoved, ImageVerdict, ImageVerify, Progress,
};
use maqet_protocol::error::CallError;
use maqet_protocol::method::Method;
use maqet_spec::ImageName;

use crate::args::image::{ImagesArgs, ImportArgs, VerifyArgs};
use crate::error::CliError;
use crate::progress::Bar;
use crate::render::{table, units};
use crate::session::{QUESTION_DEADLINE, Session, protocol, refused};

const HEADER: [&str; 5] = ["NAME", "SIZE", "ON DISK", "IMPORTED", "USED BY"];

/// Brings a copy of a file into the library.
///
/// # Errors
/// The refusal; a usage error when the file's name makes no image's; [`CliError::Io`] without such a file.
pub(crate) async fn import(session: &Session<'_>, args: &ImportArgs) -> Result<(), CliError> {
    // The supervisor has another working directory.
    let file = std::path::absolute(&args.file).map_err(CliError::io("resolve", &args.file))?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => named_like(&file)?,
    };
    let method = ImageImport {
        file,
        name,
        format: args.format.map(Into::into),
        checksum: args.checksum.clone(),
    };
    let mut stream = session.stream(&method).await?;
    let bar = Bar::new(session.output);
    let mut imported = None;
    while let Some(reply) = stream.next().await {
        let reply = reply.map_err(failed::<ImageImport>)?;
        show(&bar, reply.progress.as_ref());
        imported = reply.image;
    }
    drop(bar);
    let Some(image) = imported else {
        return Err(CliError::usage(
            "the supervisor did not say what became of it",
            None,
        ));
    };
    let size = units::size(image.virtual_bytes);
    let line = || format!("{}: {size}, {}", image.name, image.checksum);
    session.output.answer(&image, line, || image.name.to_string())
}

fn named_like(file: &Path) -> Result<ImageName, CliError> {
    let text = file.file_name().unwrap_or_default().to_string_lossy();
    let message = || format!("`{text}` makes no name of an image");
    ImageName::like(&text).ok_or_else(|| CliError::usage(message(), Some("give one with --name")))
}

/// Lists the library.
///
/// # Errors
/// The refusal.
pub(crate) async fn ls(session: &Session<'_>) -> Result<(), CliError> {
    let listed = session.ask(&ImageList {}).await?;
    for image in &listed.damaged {
        let line = format!("{}; maqet image rm {} deletes it", image.reason, image.name);
        session.output.say(&line)?;
    }
    let names = || {
        let names = listed.images.iter().map(|image| image.name.as_str());
        names.collect::<Vec<_>>().join("\n")
    };
    let rows = || table::columns(&HEADER, listed.images.iter().map(row));
    session.output.answer(&listed.images, rows, names)
}

fn row(image: &ImageInfo) -> Vec<String> {
    let used_by = if image.used_by.is_empty() {
        "-".to_owned()
    } else {
        image.used_by.join(" ")
    };
    vec![
        image.name.to_string(),
        units::size(image.virtual_bytes),
        units::size(image.file_bytes),
        units::second(image.imported),
        used_by,
    ]
}

/// Deletes images.
///
/// # Errors
/// The refusal of the first that cannot be deleted; those before it are gone.
pub(crate) async fn rm(session: &Session<'_>, args: &ImagesArgs) -> Result<(), CliError> {
    let mut removed: Vec<ImageRemoved> = Vec::new();
    for name in &args.names {
        let method = ImageRemove { name: name.clone() };
        removed.push(session.once(&method, QUESTION_DEADLINE).await?);
    }
    let names = || {
        let names = removed.iter().map(|image| image.name.as_str());
        names.collect::<Vec<_>>().join("\n")
    };
    let lines = || {
        let lines = removed.iter().map(|image| format!("{}: deleted", image.name));
        lines.collect::<Vec<_>>().join("\n")
    };
    session.output.answer(&removed, lines, names)
}

/// Holds images against their checksums.
///
/// # Errors
/// The refusal; [`CliError::Unhealthy`] when one is not what was imported.
pub(crate) async fn verify(session: &Session<'_>, args: &VerifyArgs) -> Result<(), CliError> {
    let names = args.names.clone();
    let mut stream = session.stream(&ImageVerify { names }).await?;
    let bar = Bar::new(session.output);
    let mut verdicts: Vec<ImageVerdict> = Vec::new();
    while let Some(reply) = stream.next().await {
        let reply = reply.map_err(failed::<ImageVerify>)?;
        show(&bar, reply.progress.as_ref());
        verdicts.extend(reply.verdict);
    }
    drop(bar);
    if verdicts.is_empty() {
        session.output.say("the library is empty")?;
    }
    let names = || {
        let unsound = verdicts.iter().filter(|verdict| !verdict.sound);
        let names = unsound.map(|verdict| verdict.name.as_str());
        names.collect::<Vec<_>>().join("\n")
    };
    let lines = || verdicts.iter().map(line).collect::<Vec<_>>().join("\n");
    session.output.answer(&verdicts, lines, names)?;
    match verdicts.iter().filter(|verdict| !verdict.sound).count() {
        0 => Ok(()),
        count => Err(CliError::Unhealthy {
            what: format!("{count} of {} images are not what was imported", verdicts.len()),
            hint: Some("import them again under another name".to_owned()),
        }),
    }
}

fn line(verdict: &ImageVerdict) -> String {
    if verdict.sound {
        return format!("{}: sound", verdict.name);
    }
    format!("{}: {}", verdict.name, verdict.problems.join("; "))
}

fn show(bar: &Bar<'_>, progress: Option<&Progress>) {
    if let Some(progress) = progress {
        bar.show(&progress.what, progress.done, progress.total);
    }
}

fn failed<M: Method>(error: CallError) -> CliError {
    match error {
        CallError::Refused(refusal) => refused(refusal),
        CallError::Protocol(error) => protocol::<M>(error),
    }
}
