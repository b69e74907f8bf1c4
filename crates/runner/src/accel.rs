//! Which accelerator QEMU gets.

use std::path::Path;

use maqet_spec::vm::Accel;
use maqet_storage::binary::Binaries;
use maqet_storage::kvm::Kvm;
use maqet_storage::probe::Probes;

/// The accelerator for a spec. `auto` becomes KVM where a test guest really runs under it.
///
/// Testing takes 0.1 s, on hosts with a broken KVM seconds, and a runner cannot know the verdict of an earlier one:
/// a supervisor that has tested already orders `kvm` or `tcg`.
pub(crate) async fn resolve(accel: Accel, binary: &Path) -> &'static str {
    match accel {
        Accel::Kvm => "kvm",
        Accel::Tcg => "tcg",
        Accel::Auto => match usable(binary).await {
            Ok(()) => "kvm",
            Err(why) => {
                tracing::info!(why, "the accelerator is tcg");
                "tcg"
            }
        },
    }
}

async fn usable(binary: &Path) -> Result<(), String> {
    let name = binary.to_string_lossy();
    let binary = Binaries::new().lookup(&name).map_err(|error| error.to_string())?;
    let verdict = Kvm::new().usable(&binary, &Probes::new()).await;
    verdict.map_err(|trouble| trouble.to_string())
}
