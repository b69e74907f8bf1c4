//! Samples of the methods about disks.

use serde_json::{Value, json};

use super::{AT, Sample, mark, of, removal, spec};
use crate::control::{
    StorageAccept, StorageAttach, StorageClone, StorageInfo, StorageOrphaned, StorageResize, StorageVerify,
};

fn image() -> Value {
    json!({"path": "/vm/root.qcow2", "file": mark(), "format": "qcow2", "virtual_bytes": 4096, "file_bytes": 2048,
        "actual_bytes": 1024, "snapshots": 2})
}

fn disk() -> Value {
    json!({"disk": "root", "path": "/vm/root.qcow2", "readonly": false, "state": "another-file",
        "trouble": ["no such file"], "problem": {"problem": "damaged", "detail": "2 errors in its tables", "since": AT,
            "accepted": true, "hint": "maqet storage verify web --repair"},
        "free_bytes": 9000, "made": true, "recorded": mark(), "base": "debian",
        "holder": {"vm": "db", "disk": "data"}, "chain": [image()]})
}

pub(super) fn methods() -> Vec<Sample> {
    vec![
        of::<StorageAccept>(
            json!({"vm": "web", "disk": "root"}),
            json!({"vm": "web", "disk": "root", "path": "/vm/root.qcow2", "already": false, "file": mark()}),
        ),
        of::<StorageInfo>(
            json!({"vm": "web"}),
            json!({"vm": "web", "disks": [disk()], "unsettled": {"action": "create", "name": "one", "kind": "internal"},
                "coming": {"disk": "new", "path": "/vm/new.qcow2"}, "removal": removal()}),
        ),
        of::<StorageVerify>(
            json!({"vm": "web", "repair": true}),
            json!({"vm": "web", "tables": true, "disks": [{"disk": "root", "path": "/vm/root.qcow2",
                "state": "ok", "findings": ["2 clusters are lost"], "whole": true, "repaired": ["3 errors"]}]}),
        ),
        of::<StorageResize>(
            json!({"vm": "web", "disk": "root", "bytes": 4096, "add": true, "shrink": true, "key": "k"}),
            json!({"vm": "web", "disk": "root", "before": 1024, "after": 5120, "live": true, "free_bytes": 9000}),
        ),
        of::<StorageAttach>(
            json!({"vm": "web", "disk": spec()["disks"][0], "key": "k"}),
            json!({"vm": "web", "disk": "root", "path": "/vm/root.qcow2", "file": mark(), "live": true}),
        ),
        of::<StorageClone>(
            json!({"vm": "web", "disk": "root", "path": "/vm/copy.raw", "format": "raw"}),
            json!({"vm": "web", "disk": "root", "path": "/vm/copy.raw", "virtual_bytes": 4096, "file_bytes": 4096,
                "took_ms": 9}),
        ),
        of::<StorageOrphaned>(
            json!({}),
            json!({"images": [{"path": "/vm/old.qcow2", "actual_bytes": 1024, "written_at": AT}],
                "searched": ["/vm"], "trouble": ["cannot read `/vm/x`"]}),
        ),
    ]
}
