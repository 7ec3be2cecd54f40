//! A line with a round trip and a rate: passes bytes on, each as much later as the line is long, no more a second than it carries.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Bytes that may be under way in each direction.
const ROOM: usize = 256 << 20;

/// Listens, and connects everybody who comes to `target` over a line whose round trip is `round_trip` and which carries so many
/// bytes a second towards it, or as many as come.
pub fn line(target: SocketAddr, round_trip: Duration, rate: Option<f64>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(target) else { continue };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { continue };
            one_way(near, far_too, round_trip / 2, rate);
            one_way(far, near_too, round_trip / 2, None);
        }
    });
    Ok(address)
}

#[derive(Default)]
struct UnderWay {
    queue: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    ended: bool,
}

fn one_way(mut from: TcpStream, mut to: TcpStream, late: Duration, rate: Option<f64>) {
    let shared = Arc::new((Mutex::new(UnderWay::default()), Condvar::new()));
    let reading = shared.clone();
    thread::spawn(move || {
        let (state, changed) = &*reading;
        let mut free = Instant::now();
        loop {
            let mut chunk = vec![0; 256 << 10];
            let read = from.read(&mut chunk).unwrap_or(0);
            chunk.truncate(read);
            if let Some(rate) = rate {
                // What was not used while nothing came is lost.
                free = free.max(Instant::now()) + Duration::from_secs_f64(read as f64 / rate);
                thread::sleep(free.saturating_duration_since(Instant::now()));
            }
            let mut now = state.lock().unwrap_or_else(PoisonError::into_inner);
            while now.bytes > ROOM && !now.ended {
                now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
            }
            if read == 0 || now.ended {
                now.ended = true;
                changed.notify_all();
                return;
            }
            now.bytes += read;
            now.queue.push_back((Instant::now() + late, chunk));
            changed.notify_all();
        }
    });
    thread::spawn(move || {
        let (state, changed) = &*shared;
        loop {
            let (due, chunk) = {
                let mut now = state.lock().unwrap_or_else(PoisonError::into_inner);
                loop {
                    if let Some(next) = now.queue.pop_front() {
                        break next;
                    }
                    if now.ended {
                        let _ = to.shutdown(Shutdown::Write);
                        return;
                    }
                    now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
                }
            };
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let written = to.write_all(&chunk);
            let mut now = state.lock().unwrap_or_else(PoisonError::into_inner);
            now.bytes -= chunk.len();
            now.ended |= written.is_err();
            changed.notify_all();
        }
    });
}
