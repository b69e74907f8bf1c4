//! Which accelerator QEMU is asked for.

use maqet_spec::vm::Accel;

/// The value of QEMU's `accel` property. For `auto` QEMU itself goes on to the next one when the host's KVM cannot be
/// initialised; what it has chosen is asked of it once it is up.
pub(crate) fn wanted(accel: Accel) -> &'static str {
    match accel {
        Accel::Auto => "kvm:tcg",
        Accel::Kvm => "kvm",
        Accel::Tcg => "tcg",
    }
}
