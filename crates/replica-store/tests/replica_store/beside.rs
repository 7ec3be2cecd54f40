//! What goes on beside a merge, and what a merge makes way for. A merge is held in the middle by whoever watches the store's changes.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use understudy_ids::UnixMicros;
use understudy_replica_store::{Change, Store, StoreError, Watch};
use understudy_replication::cycle::TargetHas;

use crate::support::*;

/// Long enough for a slow machine, short enough to notice that somebody waits for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// Holds the first change to a layer of point 1, until it is let go.
struct Gate {
    reached: Receiver<()>,
    go_on: Sender<()>,
}

fn gate() -> (Gate, Watch) {
    let ((tell, reached), (go_on, wait)) = (channel(), channel());
    let once = Mutex::new(Some((tell, wait)));
    let watch = Arc::new(move |change: Change<'_>| {
        if let Change::Write { path, .. } = change
            && path.to_string_lossy().contains("points/1/disk-")
            && let Some((tell, wait)) = once.lock().unwrap().take()
        {
            tell.send(()).unwrap();
            wait.recv_timeout(PATIENCE).expect("nobody lets the merge go on");
        }
        Ok(())
    });
    (Gate { reached, go_on }, watch)
}

/// Three points, the first of which is about to leave.
fn three(store: &Store) -> Vec<Disks> {
    let mut random = Random(51);
    let mut now: Disks = [(disk("vda"), vec![0; 40 << 16]), (disk("vdb"), vec![0; 9 << 16])].into();
    let mut all = vec![NONE.clone()];
    for number in 1..=3 {
        mutate(&mut now, &mut random, 12);
        let parent = (number > 1).then(|| number - 1);
        receive(store, number, parent, &all[number as usize - 1].clone(), &now).unwrap();
        all.push(now.clone());
    }
    all
}

/// R-REP-4: retention is off the path that receives.
#[test]
fn r_rep_4_points_begin_and_end_while_one_is_merged_away() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, watch) = gate();
    let mut all = three(&Store::open(dir.path()).unwrap());
    let store = Store::open_watched(dir.path(), watch).unwrap();
    let merging = thread::spawn({
        let store = store.clone();
        move || store.merge_away(&item(), seq(1))
    });
    gate.reached.recv_timeout(PATIENCE).unwrap();
    // As a sink does: asked what there is, then sent a point, twice.
    let sending = thread::spawn({
        let (store, before) = (store.clone(), all[3].clone());
        move || {
            let mut made = vec![before];
            for number in 4..=5 {
                let facts = store.target_facts(&item()).unwrap();
                assert!(matches!(facts.has, TargetHas::Point { seq: told, .. } if told == seq(number - 1)));
                store.digests(&item(), seq(number - 1), &disk("vda")).unwrap();
                let before = made.last().unwrap().clone();
                let mut now = before.clone();
                mutate(&mut now, &mut Random(number), 5);
                let mut writer = store.begin(begin(number, Some(number - 1), &now)).unwrap();
                send(&mut writer, &before, &now, 0, 4).unwrap();
                writer.sync().unwrap();
                drop(writer);
                let mut writer = store.resume(begin(number, Some(number - 1), &now)).unwrap();
                send(&mut writer, &before, &now, 4, u64::MAX).unwrap();
                writer.finish(&roots(&now), UnixMicros::new(9)).unwrap();
                made.push(now);
            }
            made
        }
    });
    let began = std::time::Instant::now();
    while !sending.is_finished() {
        assert!(began.elapsed() < PATIENCE, "the sender waits for the merge");
        thread::yield_now();
    }
    let made = sending.join().unwrap();
    assert!(!merging.is_finished());
    gate.go_on.send(()).unwrap();
    merging.join().unwrap().unwrap();
    all.extend(made.into_iter().skip(1));
    let model = (2..=5).map(|number| (number, all[number as usize].clone())).collect();
    assert_eq!(store.points(&item()).unwrap().len(), 4);
    assert_points(&store, &model, true);
}

/// A failover waits for no merge, and what was half merged is no harm: it reads as before, and leaves when nobody stands on it.
#[test]
fn a_promotion_is_not_kept_waiting_by_a_merge() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, watch) = gate();
    let all = three(&Store::open(dir.path()).unwrap());
    let store = Store::open_watched(dir.path(), watch).unwrap();
    let merging = thread::spawn({
        let store = store.clone();
        move || store.merge_away(&item(), seq(1))
    });
    gate.reached.recv_timeout(PATIENCE).unwrap();
    let promoting = thread::spawn({
        let store = store.clone();
        move || store.promote(&item(), seq(3), generation(2))
    });
    // Let go only when the promotion waits, so that there is something to make way for.
    while !store.is_waited_for(&item()) {
        assert!(!promoting.is_finished());
        thread::yield_now();
    }
    gate.go_on.send(()).unwrap();
    assert!(matches!(merging.join().unwrap(), Err(StoreError::MadeWay(_))));
    assert_eq!(promoting.join().unwrap().unwrap().len(), 2);
    let model = (2..=3).map(|number| (number, all[number as usize].clone())).collect();
    assert_points(&store, &model, true);
    assert!(matches!(store.merge_away(&item(), seq(2)), Err(StoreError::Pinned { .. })));
    assert_points(&store, &model, true);
    store.drop_active(&item(), generation(2)).unwrap();
    store.merge_away(&item(), seq(2)).unwrap();
    assert_points(&store, &[(3, all[3].clone())].into(), true);
    assert_eq!(store.points(&item()).unwrap().len(), 1);
    assert!(!dir.path().join("items/web1/points/1").exists(), "what was half merged has stayed");
}
