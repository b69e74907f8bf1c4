//! The root actor with real VM actors on a real store; no VM runs.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use actix::{Actor, Addr, MailboxError};
use maqet_protocol::refusal::RefusalCode;
use maqet_spec::{LoadOptions, Source, VmSpec};
use maqet_state::store::Store;
use tokio::sync::{Notify, mpsc};

use super::SupervisorActor;
use crate::args::Places;
use crate::events::EventBus;
use crate::messages::{
    AddVm, DescribeVm, FindVm, Found, InfoVm, ListVms, Publish, RemoveVm, StopBy, StopVm, Subscribe,
};
use crate::operation::Done;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::store::StateActor;
use crate::vm::Panic;

/// Long enough for anything here; reached only by a defect.
const DEADLINE: Duration = Duration::from_secs(30);

struct House {
    supervisor: Addr<SupervisorActor>,
    bus: Addr<EventBus>,
}

fn house(dir: &Path) -> House {
    let places = Places {
        data: dir.join("data"),
        runtime: dir.join("run"),
    };
    std::fs::create_dir(&places.data).unwrap();
    let store = Store::open(&places.store()).unwrap().store;
    let bus = EventBus::default().start();
    let state = StateActor::new(store, bus.clone(), None, Vec::new()).start();
    let shared = Rc::new(
        Shared::new(
            places,
            Settings::default(),
            state,
            "/bin/false".into(),
            "boot".into(),
        )
        .unwrap(),
    );
    let (gone, lost) = mpsc::unbounded_channel();
    let supervisor = SupervisorActor::new(Vec::new(), shared, gone, Rc::new(Notify::new())).start();
    actix_rt::spawn(SupervisorActor::hear_of_lost(lost, supervisor.clone()));
    House { supervisor, bus }
}

fn spec(name: &str) -> Box<VmSpec> {
    let text = format!("name: {name}\nmachine: none\naccel: tcg\nmemory: 16M\n");
    let source = Source::new("test.yaml", "/", text);
    Box::new(maqet_spec::load(&[source], &[], &LoadOptions::default()).unwrap())
}

impl House {
    async fn add(&self, name: &str) {
        self.supervisor
            .send(AddVm {
                spec: spec(name),
                key: None,
            })
            .await
            .unwrap()
            .unwrap();
    }

    async fn find(&self, name: &str) -> Found {
        self.supervisor
            .send(FindVm(name.to_owned()))
            .await
            .unwrap()
            .unwrap()
    }

    async fn names(&self) -> Vec<String> {
        let listed = self.supervisor.send(ListVms { status: None }).await.unwrap();
        listed.vms.into_iter().map(|vm| vm.name).collect()
    }
}

#[test]
fn a_panic_rebuilds_one_actor_and_the_others_answer_throughout() {
    let dir = tempfile::tempdir().unwrap();
    actix_rt::System::new().block_on(async {
        let house = house(dir.path());
        house.add("ill").await;
        house.add("well").await;
        let (ill, well) = (house.find("ill").await, house.find("well").await);
        assert_eq!(ill.vm.send(Panic).await, Err(MailboxError::Closed));
        let rebuilt = async {
            while house.find("ill").await.vm.send(InfoVm).await.is_err() {
                assert_eq!(well.vm.send(DescribeVm).await.unwrap().summary.name, "well");
                assert_eq!(house.names().await, ["ill", "well"]);
                tokio::task::yield_now().await;
            }
            let found = house.find("ill").await;
            assert_eq!(found.id, ill.id);
            found.vm.send(InfoVm).await.unwrap()
        };
        let info = tokio::time::timeout(DEADLINE, rebuilt).await.unwrap();
        assert_eq!(info.spec, *spec("ill"));
    });
}

#[test]
fn an_actor_that_has_panicked_reads_no_more_mail() {
    let dir = tempfile::tempdir().unwrap();
    actix_rt::System::new().block_on(async {
        let house = house(dir.path());
        house.add("ill").await;
        let ill = house.find("ill").await.vm;
        // Were the second one read, it would panic while the first one unwinds, and end the whole process.
        let (first, second) = futures_util::future::join(ill.send(Panic), ill.send(Panic)).await;
        assert_eq!(
            (first, second),
            (Err(MailboxError::Closed), Err(MailboxError::Closed))
        );
        assert_eq!(house.names().await, ["ill"]);
    });
}

#[test]
fn names_ids_and_prefixes_find_the_same_vm() {
    let dir = tempfile::tempdir().unwrap();
    actix_rt::System::new().block_on(async {
        let house = house(dir.path());
        house.add("web").await;
        let id = house.find("web").await.id;
        assert_eq!(house.find(id.as_str()).await.id, id);
        assert_eq!(house.find(&id.as_str()[..8]).await.id, id);
        let short = house
            .supervisor
            .send(FindVm(id.as_str()[..7].to_owned()))
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(short.code, RefusalCode::VmNotFound);
    });
}

#[test]
fn a_name_is_taken_until_its_vm_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    actix_rt::System::new().block_on(async {
        let house = house(dir.path());
        house.add("web").await;
        let again = house
            .supervisor
            .send(AddVm {
                spec: spec("web"),
                key: None,
            })
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(again.code, RefusalCode::NameTaken);
        let remove = RemoveVm {
            keep_snapshots: false,
            force: false,
            delete_storage: false,
            key: None,
        };
        let accepted = house.find("web").await.vm.send(remove).await.unwrap().unwrap();
        assert!(matches!(accepted.outcome().await, Ok(Done::Removed(_))));
        assert!(house.names().await.is_empty());
        house.add("web").await;
    });
}

#[test]
fn kvm_is_accepted_where_it_runs_a_guest_and_refused_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    actix_rt::System::new().block_on(async {
        let house = house(dir.path());
        let binaries = maqet_storage::binary::Binaries::new();
        let mut spec = spec("fast");
        spec.accel = maqet_spec::vm::Accel::Kvm;
        let binary = binaries.lookup(&spec.binary).unwrap();
        let probes = maqet_storage::probe::Probes::new();
        let usable = maqet_storage::kvm::Kvm::new().usable(&binary, &probes).await;
        let added = house.supervisor.send(AddVm { spec, key: None }).await.unwrap();
        match usable {
            Ok(()) => assert_eq!(added.unwrap().name, "fast"),
            Err(trouble) => {
                let refusal = added.unwrap_err();
                assert_eq!(refusal.code, RefusalCode::InvalidSpec);
                assert_eq!(refusal.causes, [trouble.to_string()]);
            }
        }
    });
}

#[test]
fn options_behind_the_machine_are_not_part_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    actix_rt::System::new().block_on(async {
        let house = house(dir.path());
        let mut spec = spec("plain");
        spec.machine = "q35,smm=off".to_owned();
        let added = house.supervisor.send(AddVm { spec, key: None }).await.unwrap();
        assert_eq!(added.unwrap().name, "plain");
    });
}

#[test]
fn stopping_what_does_not_run_is_done_already() {
    let dir = tempfile::tempdir().unwrap();
    actix_rt::System::new().block_on(async {
        let house = house(dir.path());
        house.add("web").await;
        let stop = StopVm {
            timeout_ms: None,
            force: true,
            key: None,
            by: StopBy::Person,
        };
        let accepted = house.find("web").await.vm.send(stop).await.unwrap().unwrap();
        let Ok(Done::Stopped(report)) = accepted.outcome().await else {
            panic!("no report")
        };
        assert_eq!(report.how, maqet_protocol::control::StopHow::Already);
    });
}

#[test]
fn subscribers_hear_in_order_and_a_lagging_one_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    actix_rt::System::new().block_on(async {
        let house = house(dir.path());
        let mut live = house.bus.send(Subscribe).await.unwrap();
        house.add("one").await;
        house.add("two").await;
        let heard = [live.recv().await.unwrap(), live.recv().await.unwrap()];
        assert_eq!(heard.each_ref().map(|entry| entry.cursor), [1, 2]);
        assert_eq!(heard.each_ref().map(|entry| entry.kind.as_str()), ["vm.added"; 2]);
        let flood = vec![heard[0].clone(); 300];
        house.bus.send(Publish(flood)).await.unwrap();
        let mut kept = 0;
        while live.recv().await.is_some() {
            kept += 1;
        }
        assert_eq!(
            kept, 256,
            "the queue is bounded, and its end tells that something is missing"
        );
    });
}
