//! `understudy-lab`: the lab from the command line, thin over the library.

use std::{
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{self, ExitCode},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use nix::sys::signal::{SigSet, Signal};
use understudy_lab::{
    HostName, Lab, LabId, Namespace, Site, Stack,
    cli::Product as _,
    guest_image::ImageCache,
    journal::read_journal,
    lab::{DEFAULT_CACHE, DEFAULT_ROOT},
    machine::Machine,
    preflight::preflight,
    probe::{guest_page, reach_from_guest},
    simulated::{self, NOTICE, SimulatedStack, SimulatedStory},
    story::Story,
    topology::RESERVATIONS,
    wan::Cut,
};

/// Two sites, a control site and the WAN between them, on one machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Tells labs apart.
    #[arg(long, global = true, default_value = "demo")]
    id: LabId,
    /// Where labs keep their files.
    #[arg(long, global = true, env = "UNDERSTUDY_LAB_ROOT", default_value = DEFAULT_ROOT)]
    root: PathBuf,
    /// Where the guest kernel and built images are kept.
    #[arg(long, global = true, env = "UNDERSTUDY_LAB_CACHE", default_value = DEFAULT_CACHE)]
    cache: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Say what this machine lacks for the lab.
    Preflight,
    /// Build the lab and start web1 and db1 at alpha.
    Up {
        /// Start no machine.
        #[arg(long)]
        no_guests: bool,
    },
    /// Tell the main job from beginning to end, checking every claim, in a lab of its own.
    Demo {
        /// Leave the lab running afterwards.
        #[arg(long)]
        keep: bool,
    },
    /// Tell the main job on simulated machines: without root and hypervisor, it shows the flow and not that machines come up.
    Simulated {
        /// Leave it running afterwards.
        #[arg(long, conflicts_with = "remove")]
        keep: bool,
        /// End the simulation that was left running in this directory, and remove it.
        #[arg(long, value_name = "DIRECTORY")]
        remove: Option<PathBuf>,
    },
    /// Remove everything of the lab.
    Down,
    /// Show what runs where.
    Status,
    /// Cut, slow or heal the line between the sites.
    #[command(subcommand)]
    Wan(WanVerb),
    /// Lose a site, or bring it back.
    #[command(subcommand)]
    Site(SiteVerb),
    /// Run a command in a namespace of the lab: alpha-h1, bravo-h1, control, wan, alpha-prod, bravo-prod.
    Exec {
        place: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Look into journals.
    #[command(subcommand)]
    Journal(JournalVerb),
    /// Start, stop and ask machines.
    #[command(subcommand)]
    Guest(GuestVerb),
}

#[derive(Subcommand)]
enum WanVerb {
    /// Drop what goes this way.
    Cut { cut: Cut },
    /// End all cuts.
    Heal,
    /// Limit both directions to so many kilobits per second; without a number lift the limit.
    Rate { kilobits: Option<u32> },
}

#[derive(Subcommand)]
enum SiteVerb {
    /// Kill everything there and take its links down.
    Kill { site: Site },
    /// Links, libvirtd and networks again, no machine.
    Revive { site: Site },
}

#[derive(Subcommand)]
enum JournalVerb {
    /// Judge the journal on a machine's disks, given in its order.
    Read {
        #[arg(required = true)]
        disks: Vec<PathBuf>,
    },
}

#[derive(Subcommand)]
enum GuestVerb {
    /// Start a defined machine.
    Start { host: HostName, machine: String },
    /// Press its power button and wait until it is off.
    Stop { host: HostName, machine: String },
    /// Read its page from its host.
    Http { host: HostName, machine: String },
    /// Ask it whether it can connect somewhere.
    Reach { host: HostName, machine: String, target: Ipv4Addr, port: u16 },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("understudy-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let lab = Lab::new(arguments.id, arguments.root, &arguments.cache)?;
    match arguments.verb {
        Verb::Preflight => check(&ImageCache::new(arguments.cache)),
        Verb::Up { no_guests } => up(&lab, no_guests),
        Verb::Demo { keep } => demo(&lab, keep),
        Verb::Simulated { remove: Some(directory), .. } => simulated::remove(&directory),
        Verb::Simulated { keep, .. } => simulate(keep),
        Verb::Down => lab.down(),
        Verb::Status => status(&lab),
        Verb::Wan(WanVerb::Cut { cut }) => lab.wan().cut(cut),
        Verb::Wan(WanVerb::Heal) => lab.wan().heal(),
        Verb::Wan(WanVerb::Rate { kilobits }) => lab.wan().rate(kilobits),
        Verb::Site(SiteVerb::Kill { site }) => lab.kill_site(site),
        Verb::Site(SiteVerb::Revive { site }) => lab.revive_site(site),
        Verb::Exec { place, command } => exec(&lab, &place, &command),
        Verb::Journal(JournalVerb::Read { disks }) => journal(&disks),
        Verb::Guest(verb) => guest(&lab, verb),
    }
}

/// What has been started is ended on a signal as well.
fn simulate(keep: bool) -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    // Threads and only threads inherit this: a program that is started gets an empty mask.
    signals.thread_block()?;
    let stack = Arc::new(SimulatedStack::new()?);
    let interrupted = stack.clone();
    thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        let ended = interrupted.end_and(|| {
            eprintln!("understudy-lab: {signal}; nothing of the simulation is left");
            process::exit(128 + signal as i32);
        });
        drop(ended);
    });
    let told = tell_simulated(&stack);
    if keep {
        let directory = stack.directory().display();
        println!("\nThe simulation is left running in {directory}. To look around:");
        println!("  {} item list", stack.cli().shell_prefix());
        println!("To end it:\n  target/debug/understudy-lab simulated --remove {directory}");
    } else {
        stack.end()?;
    }
    told
}

fn tell_simulated(stack: &SimulatedStack) -> Result<()> {
    println!("━━━ {NOTICE}");
    let begun = Instant::now();
    let mut story = SimulatedStory::new(stack)?;
    stack.up(story.machines())?;
    println!("two simulated sites and four services run after {:.1} s", begun.elapsed().as_secs_f64());
    let told = story.tell_all();
    let held = story.conclude();
    told.context("the story could not be told to its end")?;
    if !held {
        bail!("not everything held");
    }
    println!("\nAll {} claims held, on simulated machines.", story.tell.count());
    Ok(())
}

fn check(cache: &ImageCache) -> Result<()> {
    let missing = preflight(cache);
    if !missing.is_empty() {
        bail!("this machine cannot run the lab:\n  {}", missing.join("\n  "));
    }
    println!("everything the lab needs is here");
    Ok(())
}

fn demo(lab: &Lab, keep: bool) -> Result<()> {
    let stack = Stack::beside_this_program(lab.clone())?;
    let told = tell(&stack);
    if keep {
        println!("\nThe lab is left running. To look around:\n  {} item list", stack.cli().shell_prefix());
        println!("To take it down:\n  deploy/lab/down.sh {}", lab.id());
        return told;
    }
    let ended = told.and_then(|()| end_in_order(&stack));
    lab.down()?;
    ended
}

fn end_in_order(stack: &Stack) -> Result<()> {
    let begun = Instant::now();
    stack.stop().context("not everything ends when it is told to")?;
    println!("Services and agents ended in an orderly way within {:.1} s.", begun.elapsed().as_secs_f64());
    Ok(())
}

fn tell(stack: &Stack) -> Result<()> {
    let begun = Instant::now();
    stack.lab().up()?;
    stack.lab().start_machines(HostName::AlphaH1, &Machine::defaults()?)?;
    stack.up()?;
    stack.describe_sites()?;
    println!("two sites, two machines and four services run after {:.1} s", begun.elapsed().as_secs_f64());
    let mut story = Story::new(stack)?;
    let told = story.tell_all();
    let held = story.tell.conclude();
    told.context("the story could not be told to its end")?;
    if !held {
        bail!("not everything held");
    }
    println!("\nAll {} claims held.", story.tell.count());
    Ok(())
}

fn up(lab: &Lab, no_guests: bool) -> Result<()> {
    let begun = Instant::now();
    lab.up()?;
    println!("lab {} is up after {:.1} s", lab.id(), begun.elapsed().as_secs_f64());
    if !no_guests {
        let machines = Machine::defaults()?;
        let took = lab.start_machines(HostName::AlphaH1, &machines)?;
        for (machine, took) in machines.iter().zip(took) {
            println!("{} answers {:.1} s after its start", machine.name, took.as_secs_f64());
        }
        println!("machines run after {:.1} s", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

fn status(lab: &Lab) -> Result<()> {
    if !lab.control().exists() {
        bail!("lab {} is not up", lab.id());
    }
    let database = lab.postgres().process().ok().and_then(|process| process.pid());
    println!("postgres   {}", database.map_or("down".to_owned(), |pid| format!("up (process {pid})")));
    for name in HostName::ALL.into_iter().filter(|name| lab.host(*name).namespace().exists()) {
        let host = lab.host(name);
        println!("{name}   {}", host.libvirt_uri());
        match host.virsh(["list", "--all"]) {
            Ok(list) => print!("{list}"),
            Err(error) => println!("    does not answer: {error}"),
        }
    }
    let cuts = lab.wan().cuts()?;
    println!("wan        {}", if cuts.is_empty() { "whole" } else { &cuts });
    Ok(())
}

fn exec(lab: &Lab, place: &str, words: &[String]) -> Result<()> {
    let namespace = Namespace::of(lab.id(), place);
    if !namespace.exists() {
        bail!("lab {} has no {place}, or is not up", lab.id());
    }
    let mut command = namespace.command(&words[0]);
    command.args(&words[1..]).envs(lab.mark()).stdin(std::process::Stdio::inherit()).env_remove("LC_ALL");
    Err(command.exec().into())
}

fn journal(disks: &[PathBuf]) -> Result<()> {
    let report = read_journal(disks)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    if !report.is_whole() {
        bail!("the journal is not whole");
    }
    Ok(())
}

fn guest(lab: &Lab, verb: GuestVerb) -> Result<()> {
    match verb {
        GuestVerb::Start { host, machine } => lab.host(host).start(&machine)?,
        GuestVerb::Stop { host, machine } => {
            let took = lab.host(host).shut_down(&machine, Duration::from_secs(30))?;
            println!("{machine} is off after {:.1} s", took.as_secs_f64());
        }
        GuestVerb::Http { host, machine } => {
            let page = guest_page(&lab.host(host).namespace(), address(&machine)?, Duration::from_secs(2))?;
            println!("{}", serde_json::to_string_pretty(&page)?);
        }
        GuestVerb::Reach { host, machine, target, port } => {
            let reach = reach_from_guest(&lab.host(host).namespace(), address(&machine)?, target, port)?;
            println!("{reach:?}");
        }
    }
    Ok(())
}

fn address(machine: &str) -> Result<Ipv4Addr> {
    match RESERVATIONS.iter().find(|known| known.name == machine) {
        Some(known) => Ok(known.address),
        None => bail!("the lab has no address for a machine {machine}"),
    }
}
