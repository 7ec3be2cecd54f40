//! Any order of events, any faults, any verbs at any time: the invariants that the theatre watches hold, and an operator who goes on
//! retrying brings every run to its end.

use proptest::prelude::*;
use understudy_recovery::run::{self, RunVerb};

use crate::{runs::theatre_of, theatre::Act, world::ways};

#[derive(Debug, Clone)]
enum Move {
    /// The task at this place of the queue, modulo its length.
    Perform(usize, Act),
    /// The allowed verb at this place.
    Ask(usize),
    FirstPoints,
    CancellationAnswered,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let act = prop_oneof![
        8 => Just(Act::Succeed),
        1 => Just(Act::Twice),
        1 => Just(Act::Fail),
        1 => Just(Act::UnknownDone),
        1 => Just(Act::UnknownUndone),
        1 => Just(Act::Silence),
    ];
    let one = prop_oneof![
        12 => (any::<usize>(), act).prop_map(|(place, act)| Move::Perform(place, act)),
        2 => any::<usize>().prop_map(Move::Ask),
        1 => Just(Move::FirstPoints),
        1 => Just(Move::CancellationAnswered),
    ];
    prop::collection::vec(one, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn runs_end_in_order_whatever_happens(way in prop::sample::select(ways()), moves in moves()) {
        let mut theatre = theatre_of(way);
        for step in moves {
            match step {
                Move::Perform(place, act) if !theatre.queue.is_empty() => {
                    let task = theatre.queue.remove(place % theatre.queue.len()).unwrap();
                    theatre.perform_task(task, act);
                }
                Move::Ask(place) => {
                    let allowed = run::allowed_actions(&theatre.run);
                    if !allowed.is_empty() {
                        theatre.ask(allowed[place % allowed.len()]);
                    }
                }
                Move::FirstPoints => { theatre.first_points_arrive(); }
                Move::CancellationAnswered => { theatre.cancellation_answered(); }
                Move::Perform(..) => {}
            }
        }
        theatre.play_to_the_end(RunVerb::Retry, |_, _| Act::Succeed);
        prop_assert!(theatre.records.values().all(|record| !record.held && !record.tested));
        prop_assert!(theatre.records.values().all(|record| record.generation.get() <= 3));
    }
}
