//! The main job from beginning to end on real guests: the story of the demonstration, as a test.
//!
//! Covers R-SITE-1, R-REP-1 to 6, R-TF-1, 3, 4, 5, 9, R-PF-1, 2, 4, R-FO-2, 4 to 7, R-UF-1, 5, R-FB-1, R-NET-2, 10, R-JOB-1 to 3.

use understudy_lab::{machine::Machine, story::Story};
use understudy_lifecycle_tests::Scene;

#[test]
fn the_main_job_holds_from_protection_to_failback_under_fire() {
    let scene = Scene::set_alone("mainjob", &Machine::defaults().unwrap()).unwrap();
    let mut story = Story::new(&scene.stack).unwrap();
    let told = story.tell_all();
    let held = story.tell.conclude();
    if told.is_err() || !held {
        eprintln!("logs are kept in {:?}", scene.keep_logs());
    }
    told.unwrap();
    assert!(held, "{:#?}", story.tell.broken().collect::<Vec<_>>());
    assert!(story.tell.count() > 40, "only {} claims were checked", story.tell.count());
}
