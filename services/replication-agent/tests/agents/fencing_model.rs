//! The rules of fencing, checked in every order of events (R-FO-7, R-UF-1, invariant 1).
//!
//! Alpha runs the machine, bravo stands by, and the control plane grants alpha's lease and fails over: when it has waited for the end of the lease,
//! or when a person says, truly, that alpha is down. Messages come late, once or never; alpha's agent dies, alpha loses its power and boots
//! again, somebody tries to start its machine, the control plane's clock jumps, the policy's lease gets longer or shorter. What decides is the
//! product's own: the lease ([`Held`], [`Granted`]), the table of an agent's places ([`admitted`]), the guard ([`decide`]).
//!
//! With all rules no order of events leads to two running copies. Without any one of them some order does, so each is needed.

use std::{collections::BTreeSet, time::Duration};

use stateright::{Checker as _, Model, Property};
use understudy_hypervisor::{MachineTag, TagRole};
use understudy_ids::{Generation, UnixMicros};
use understudy_replication::activation::{Granted, Held, STOP_WITHIN};
use understudy_replication_agent::{
    guard::{Facts, Verdict, decide},
    ledger::{Confirmation, ItemRecord, Role, Verb, admitted},
};

use crate::harness::item;

/// The unit of time: what stopping a machine may take.
const TICK: Duration = STOP_WITHIN;
/// Policies have one of these.
const LENGTHS: [u32; 2] = [1, 4];
const LAST_TICK: u32 = 6;
const PULSES: u8 = 2;
const BOOTS: u8 = 3;
const FIRST: Generation = Generation::FIRST;

/// What keeps two copies from running, each of which can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// A lease is counted from what was sent, and not from when the answer came.
    CountedFromSending,
    /// Alpha stops its machine when its lease has ended.
    HolderStops,
    /// A process stands by that outlives alpha's agent.
    GuardOutlivesAgent,
    /// The hypervisor's door asks for a lease in force.
    DoorAsksForLease,
    /// What was bound by a lease before the host booted is so after it.
    LeaseOutlivesBoot,
    /// A machine starts only where it was confirmed since the boot.
    ConfirmedSinceBoot,
    /// What is asked for in one boot confirms nothing in the next.
    StartedInItsBoot,
    /// What is granted is on record before it is sent.
    OnRecordBeforeSent,
    /// A longer lease of before counts until nobody can hold it.
    LongestCounts,
    /// Nothing is granted while a run rests on the end of the lease.
    NotGrantedForRun,
    /// Nobody concludes anything from silence before the holder has told that it holds a lease.
    ToldToBeHeld,
    /// The whole of it is waited for.
    WaitedFor,
    /// Only time that was watched counts.
    Watched,
}

const RULES: [Rule; 13] = [
    Rule::CountedFromSending,
    Rule::HolderStops,
    Rule::GuardOutlivesAgent,
    Rule::DoorAsksForLease,
    Rule::LeaseOutlivesBoot,
    Rule::ConfirmedSinceBoot,
    Rule::StartedInItsBoot,
    Rule::OnRecordBeforeSent,
    Rule::LongestCounts,
    Rule::NotGrantedForRun,
    Rule::ToldToBeHeld,
    Rule::WaitedFor,
    Rule::Watched,
];

/// Everything but one rule.
struct Fencing {
    without: Option<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    now: u32,
    /// The control plane's clock was set an hour ahead.
    jumped: bool,
    alpha: Host,
    /// Bravo's machine runs. It is told to by the control plane alone.
    bravo_runs: bool,
    control: Control,
    on_its_way: BTreeSet<Message>,
    pulses: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Host {
    boot: u8,
    has_power: bool,
    agent_lives: bool,
    runs: bool,
    generation: Generation,
    /// In which boot it was confirmed.
    confirmed: Option<u8>,
    /// In which boot the lease was taken, and what is held.
    lease: Option<(u8, Held)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Control {
    run: Run,
    granted: Option<Granted>,
    has_asked_to_start: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Run {
    None,
    /// Waits for the end of the lease.
    Waits,
    /// Has seen it, and is about to raise the generation.
    Over,
    /// Bravo is active.
    Switched,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Message {
    /// Alpha's clock; what it sent at that moment.
    Pulse {
        boot: u8,
        at: u32,
    },
    Renewal {
        boot: u8,
        counted_from: u32,
        length: u32,
    },
    /// Alpha holds a lease of this length.
    Holds {
        length: u32,
    },
    /// A task for alpha: start the machine, in this boot.
    Start {
        boot: u8,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Event {
    Tick,
    ClockJumps,
    SendPulse,
    /// The control plane answers a pulse with a lease of this length.
    Grant {
        pulse: Message,
        length: u32,
    },
    Arrives(Message),
    AgentDies,
    PowerFails,
    Boots,
    MachineIsStopped,
    SomebodyStartsIt,
    ControlAsksToStart,
    FailoverBegins,
    LeaseIsOver,
    OperatorStatesThatItIsDown,
    Switch,
}

impl Fencing {
    fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// Whether something is there that stops alpha's machine.
    fn stops(&self, alpha: &Host) -> bool {
        self.keeps(Rule::HolderStops)
            && alpha.has_power
            && (alpha.agent_lives || self.keeps(Rule::GuardOutlivesAgent))
    }

    fn door_opens(&self, world: &World) -> bool {
        let Host { boot, generation, confirmed, lease, .. } = &world.alpha;
        let lease_ended = lease.is_some_and(|(of, held)| {
            let of_another_boot = of != *boot;
            let ended = of_another_boot || held.has_ended(world.now * TICK);
            ended
                && self.keeps(Rule::DoorAsksForLease)
                && (!of_another_boot || self.keeps(Rule::LeaseOutlivesBoot))
        });
        let confirmed = confirmed.map(|of| if self.keeps(Rule::ConfirmedSinceBoot) { of } else { *boot });
        let facts = Facts {
            record: Some(record(*generation, confirmed)),
            store: None,
            boot_id: boot.to_string(),
            lease_ended,
        };
        let tag = MachineTag { item: item(), generation: FIRST, role: TagRole::Active };
        decide(Some(&tag), || Ok(facts)) == Verdict::MayStart
    }
}

fn record(generation: Generation, confirmed: Option<u8>) -> ItemRecord {
    ItemRecord {
        item: item(),
        generation,
        role: Role::Source,
        confirmed: confirmed.map(|boot| Confirmation { generation, boot_id: boot.to_string() }),
        assignment: None,
        disks: Vec::new(),
        sender: None,
        retention: Default::default(),
    }
}

impl World {
    fn wall(&self) -> UnixMicros {
        let hours = if self.jumped { 3600 } else { 0 };
        UnixMicros::new(1_000_000_000).plus(self.now * TICK + Duration::from_secs(hours))
    }

    /// Alpha's machine has to be stopped before another tick passes.
    fn is_overdue(&self) -> bool {
        let Some((boot, held)) = self.alpha.lease else { return false };
        let deadline = held.end() + STOP_WITHIN;
        self.alpha.runs && boot == self.alpha.boot && (self.now + 1) * TICK > deadline
    }

    fn boots(&mut self) {
        let alpha = &mut self.alpha;
        (alpha.boot, alpha.has_power, alpha.agent_lives) = (alpha.boot + 1, true, true);
        // The clock of a boot begins anew; here it goes on, which makes nothing of before look older than it is.
    }

    /// What nobody can hear any more, now or later, or learn anything from, is as good as lost, and what nobody looks at any more is as good as
    /// forgotten: that keeps the states few. `remembers`: what is told to be held goes on record each time.
    fn tidy(&mut self, remembers: bool) {
        let (alpha, control) = (&self.alpha, &mut self.control);
        let boot = if alpha.agent_lives { alpha.boot } else { alpha.boot + 1 };
        let has_switched = control.run == Run::Switched;
        if has_switched {
            (control.granted, control.has_asked_to_start, self.jumped) = (None, true, false);
        }
        let knows = control.granted.as_ref().is_some_and(|granted| granted.held) && !remembers;
        self.on_its_way.retain(|message| match message {
            Message::Renewal { boot: of, .. } => *of >= boot,
            Message::Pulse { boot: of, .. } => *of >= boot && !has_switched,
            Message::Holds { .. } => !knows && !has_switched,
            Message::Start { .. } => true,
        });
    }
}

impl Model for Fencing {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            now: 0,
            jumped: false,
            alpha: Host {
                boot: 0,
                has_power: true,
                agent_lives: true,
                runs: true,
                generation: FIRST,
                confirmed: Some(0),
                lease: None,
            },
            bravo_runs: false,
            control: Control { run: Run::None, granted: None, has_asked_to_start: false },
            on_its_way: BTreeSet::new(),
            pulses: 0,
        }]
    }

    fn actions(&self, world: &World, events: &mut Vec<Event>) {
        let World { alpha, control, .. } = world;
        if world.now < LAST_TICK && !(self.stops(alpha) && world.is_overdue()) {
            events.push(Event::Tick);
        }
        let is_counted = control.granted.is_some() && matches!(control.run, Run::None | Run::Waits);
        if !world.jumped && is_counted {
            events.push(Event::ClockJumps);
        }
        let works = alpha.has_power && alpha.agent_lives;
        if works && world.pulses < PULSES && control.run != Run::Switched {
            events.push(Event::SendPulse);
        }
        for message in &world.on_its_way {
            match message {
                Message::Pulse { .. } => {
                    let grant = |length| Event::Grant { pulse: message.clone(), length };
                    events.extend(LENGTHS.map(grant));
                }
                Message::Renewal { .. } | Message::Start { .. } if !works => {}
                _ => events.push(Event::Arrives(message.clone())),
            }
        }
        if works {
            events.push(Event::AgentDies);
        }
        if alpha.has_power {
            events.push(Event::PowerFails);
        } else if alpha.boot + 1 < BOOTS {
            events.push(Event::Boots);
        }
        let ended =
            alpha.lease.is_some_and(|(boot, held)| boot == alpha.boot && held.has_ended(world.now * TICK));
        if alpha.runs && ended && self.stops(alpha) {
            events.push(Event::MachineIsStopped);
        }
        if alpha.has_power && !alpha.runs && self.door_opens(world) {
            events.push(Event::SomebodyStartsIt);
        }
        match control.run {
            Run::None => {
                // It hears from alpha that its machine is off after a boot.
                if works && !alpha.runs && !control.has_asked_to_start {
                    events.push(Event::ControlAsksToStart);
                }
                if control.granted.as_ref().is_some_and(|g| g.held || !self.keeps(Rule::ToldToBeHeld)) {
                    events.push(Event::FailoverBegins);
                }
                if !alpha.has_power {
                    events.push(Event::OperatorStatesThatItIsDown);
                }
            }
            Run::Waits => {
                let over = control.granted.as_ref().is_some_and(|granted| granted.over_in().is_zero());
                if over || !self.keeps(Rule::WaitedFor) {
                    events.push(Event::LeaseIsOver);
                }
            }
            Run::Over => events.push(Event::Switch),
            Run::Switched => {}
        }
    }

    fn next_state(&self, before: &World, event: Event) -> Option<World> {
        let mut world = before.clone();
        match event {
            Event::Tick => {
                world.now += 1;
                let wall = world.wall();
                let elapsed = if self.keeps(Rule::Watched) { TICK } else { Duration::MAX / 2 };
                world.control.granted = world.control.granted.map(|granted| granted.and(elapsed, wall));
            }
            Event::ClockJumps => world.jumped = true,
            Event::SendPulse => {
                world.pulses += 1;
                world.on_its_way.insert(Message::Pulse { boot: world.alpha.boot, at: world.now });
            }
            Event::Grant { pulse, length } => {
                let Message::Pulse { boot, at } = pulse else { return None };
                world.on_its_way.remove(&pulse);
                let ends = matches!(world.control.run, Run::Waits | Run::Over);
                // The other side's is another lease, at another generation.
                if (ends && self.keeps(Rule::NotGrantedForRun)) || world.control.run == Run::Switched {
                    return Some(world);
                }
                if self.keeps(Rule::OnRecordBeforeSent) {
                    self.put_on_record(&mut world, length);
                }
                world.on_its_way.insert(Message::Renewal { boot, counted_from: at, length });
            }
            Event::Arrives(message) => {
                world.on_its_way.remove(&message);
                self.arrives(&mut world, message);
            }
            Event::AgentDies => world.alpha.agent_lives = false,
            Event::PowerFails => {
                (world.alpha.has_power, world.alpha.agent_lives, world.alpha.runs) = (false, false, false);
            }
            Event::Boots => world.boots(),
            Event::MachineIsStopped => world.alpha.runs = false,
            Event::SomebodyStartsIt => world.alpha.runs = true,
            Event::ControlAsksToStart => {
                world.control.has_asked_to_start = true;
                world.on_its_way.insert(Message::Start { boot: world.alpha.boot });
            }
            Event::FailoverBegins => world.control.run = Run::Waits,
            Event::LeaseIsOver => world.control.run = Run::Over,
            Event::Switch | Event::OperatorStatesThatItIsDown => {
                world.control.run = Run::Switched;
                world.bravo_runs = true;
            }
        }
        world.tidy(!self.keeps(Rule::OnRecordBeforeSent));
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one copy runs", |_: &Self, world: &World| {
                !(world.alpha.runs && world.bravo_runs)
            }),
            Property::sometimes("a failover rests on a lease", |_: &Self, world: &World| {
                world.bravo_runs && world.alpha.has_power
            }),
            Property::sometimes("a machine is started again after a boot", |_: &Self, world: &World| {
                world.alpha.runs && world.alpha.boot > 0
            }),
        ]
    }
}

impl Fencing {
    fn put_on_record(&self, world: &mut World, length: u32) {
        let (wall, control) = (world.wall(), &mut world.control);
        let before = control.granted.take();
        let held = before.as_ref().is_some_and(|granted| granted.held);
        let before = before.filter(|_| self.keeps(Rule::LongestCounts));
        let mut granted = Granted::again(before, FIRST, length * TICK, wall);
        granted.held = held;
        control.granted = Some(granted);
    }

    fn arrives(&self, world: &mut World, message: Message) {
        let now = world.now * TICK;
        match message {
            Message::Pulse { .. } => {}
            Message::Renewal { boot, counted_from, length } => {
                let alpha = &mut world.alpha;
                let counted_from =
                    if self.keeps(Rule::CountedFromSending) { counted_from * TICK } else { now };
                let renewal = Held { generation: FIRST, counted_from, length: length * TICK };
                let before = alpha.lease.filter(|(of, _)| *of == alpha.boot).map(|(_, held)| held);
                let active = alpha.generation == FIRST && boot == alpha.boot;
                if let (true, Ok(held)) = (active, Held::renewed(before, renewal, now)) {
                    alpha.lease = Some((boot, held));
                    world.on_its_way.insert(Message::Holds { length });
                }
            }
            Message::Holds { length } => {
                if !self.keeps(Rule::OnRecordBeforeSent) {
                    self.put_on_record(world, length);
                }
                if let Some(granted) = &mut world.control.granted {
                    granted.held = true;
                }
            }
            Message::Start { boot } => {
                if boot != world.alpha.boot && self.keeps(Rule::StartedInItsBoot) {
                    return;
                }
                let alpha = &mut world.alpha;
                let now = record(alpha.generation, alpha.confirmed);
                let Ok(Some(admitted)) = admitted(Some(&now), &item(), FIRST, Verb::Activate) else { return };
                (alpha.generation, alpha.confirmed) = (admitted.generation, Some(alpha.boot));
                world.alpha.runs |= self.door_opens(world);
            }
        }
    }
}

/// R-FO-7: no order of events, however unlucky, leads to two copies.
#[test]
fn with_all_rules_never_two_copies_run() {
    let checked = Fencing { without: None }.checker().threads(2).spawn_bfs().join();
    println!("{} states", checked.unique_state_count());
    checked.assert_properties();
}

/// R-FO-7: each rule is needed, and the model can tell.
#[test]
fn without_any_one_rule_two_copies_can_run() {
    for rule in RULES {
        let checked = Fencing { without: Some(rule) }.checker().threads(2).spawn_bfs().join();
        let found = checked.discovery("one copy runs");
        let path = found.unwrap_or_else(|| panic!("nothing goes wrong without {rule:?}"));
        println!(
            "without {rule:?}, after {} events: {:?}",
            path.clone().into_actions().len(),
            path.into_actions()
        );
    }
}
