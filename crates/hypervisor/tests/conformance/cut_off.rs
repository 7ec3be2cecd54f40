//! A machine whose time here is over (R-FO-7).

use understudy_hypervisor::PowerState;
use understudy_ids::Uuid;

use super::{Bench, definition, name};

/// Off when it returns, told whether it was running, and never another one that has taken the name.
pub async fn a_machine_is_cut_off(bench: &dyn Bench) {
    let (host, db1) = (bench.hypervisor(), name("db1"));
    let definition = definition(bench, "db1").await;
    host.define(&definition).await.unwrap();
    assert!(!host.cut_off(&db1, definition.uuid).await.unwrap(), "it was off");
    host.start(&db1).await.unwrap();
    assert!(!host.cut_off(&db1, Uuid::nil()).await.unwrap());
    assert!(!host.cut_off(&name("web1"), Uuid::nil()).await.unwrap(), "there is none");
    let power = async || host.machine(&db1).await.unwrap().unwrap().power;
    assert_eq!(power().await, PowerState::Running, "another one was meant");
    assert!(host.can_cut_off());
    assert!(host.cut_off(&db1, definition.uuid).await.unwrap());
    assert_eq!(power().await, PowerState::ShutOff);
    assert!(!host.cut_off(&db1, definition.uuid).await.unwrap(), "once more");
    host.start(&db1).await.unwrap();
    host.power_off(&db1).await.unwrap();
    host.undefine(&db1).await.unwrap();
}
