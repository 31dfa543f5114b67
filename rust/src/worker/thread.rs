//! The loop of one worker: news, work that is left, events; then looking for a while; then sleep.
//!
//! Locking: none. The worker owns all it touches but its port and the readers' queue.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::backlog::Backlog;
use super::connection::{Connection, Served, guarded};
use super::poller::Poller;
use super::port::{Message, Port};
use super::readers::FetchQueue;
use super::{Shared, WorkersOptions};
use crate::engine::Fetch;
use crate::error::{Error, Result};
use crate::session::{Desk, Pages};

/// Events taken from the kernel at a time.
const EVENTS: usize = 16;
/// The eventfd's name among the events; connections are named by their slots.
const NEWS: u64 = u64::MAX;
/// Connections that are asked directly, without epoll, while looking for work.
const HOT_MAX: usize = 2;
/// After as many hits in a row the others are asked too.
const HITS_MAX: u32 = 32;
/// Looks between two moments in which another thread on this CPU may run.
const LOOKS_PER_YIELD: u32 = 8;

/// One worker, before and while it runs.
pub(super) struct Worker<P: Pages> {
    desk: Desk<P>,
    port: Arc<Port>,
    queue: Arc<FetchQueue>,
    shared: Arc<Shared>,
    epoll: OwnedFd,
    slots: Vec<Option<Box<Connection>>>,
    /// Slots of connections with work that needs no event, and the same list while it is gone
    /// through.
    backlog: Backlog,
    turn: Backlog,
    /// The last connections that sent something.
    hot: [Option<u32>; HOT_MAX],
    hits: u32,
    poller: Poller,
    /// The next time at which a connection wants to be looked at, or earlier.
    deadline: Option<Instant>,
}

impl<P: Pages> Worker<P> {
    pub(super) fn new(
        desk: Desk<P>,
        port: Arc<Port>,
        queue: Arc<FetchQueue>,
        shared: Arc<Shared>,
        options: WorkersOptions,
    ) -> Result<Self> {
        let refused = |errno: rustix::io::Errno| Error::io("make an epoll set", 0, errno.into());
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(refused)?;
        epoll::add(
            &epoll,
            port.wake_fd(),
            EventData::new_u64(NEWS),
            EventFlags::IN,
        )
        .map_err(refused)?;
        Ok(Worker {
            desk,
            port,
            queue,
            shared,
            epoll,
            slots: (0..options.connections_max).map(|_| None).collect(),
            backlog: Backlog::new(options.connections_max),
            turn: Backlog::new(options.connections_max),
            hot: [None; HOT_MAX],
            hits: 0,
            poller: Poller::new(options.polling),
            deadline: None,
        })
    }

    /// Serves until the port says stop.
    pub(super) fn run(mut self) {
        while !self.port.is_stopped() {
            self.desk.now = Instant::now();
            self.take_news();
            self.serve_backlog();
            self.serve_overdue();
            if !self.backlog.is_empty() {
                self.wait(Some(Duration::ZERO));
            } else if !self.look() {
                self.sleep();
            }
        }
        for slot in 0..self.slots.len() as u32 {
            self.close(slot);
        }
    }

    /// Takes new connections, fetches that are done, and announcements.
    fn take_news(&mut self) {
        while let Some(message) = self.port.receive() {
            match message {
                Message::Attach(connection) => self.add(connection),
                Message::Fetched(fetch) => self.take_fetch(fetch),
                Message::HandOver(by) => {
                    let now = self.desk.now;
                    for slot in 0..self.slots.len() as u32 {
                        if let Some(connection) = &mut self.slots[slot as usize] {
                            connection.begin_hand_over(by, now);
                            self.backlog.add(slot);
                        }
                    }
                }
                Message::Detach(by) => {
                    for slot in 0..self.slots.len() as u32 {
                        if let Some(connection) = &mut self.slots[slot as usize] {
                            connection.detach(by);
                            self.backlog.add(slot);
                        }
                    }
                }
            }
        }
        let space_epoch = self.port.space_epoch();
        let space = space_epoch != self.desk.space_epoch;
        self.desk.space_epoch = space_epoch;
        let boxes = self.desk.boxes.take_freed();
        if space || boxes {
            for (slot, connection) in self.slots.iter().enumerate() {
                if connection
                    .as_ref()
                    .is_some_and(|connection| connection.waits(boxes, space))
                {
                    self.backlog.add(slot as u32);
                }
            }
        }
    }

    fn add(&mut self, mut connection: Box<Connection>) {
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.expect("no more connections than slots are let in") as u32;
        connection.set_slot(slot);
        let data = EventData::new_u64(slot.into());
        let added = epoll::add(&self.epoll, connection.socket(), data, EventFlags::RDHUP);
        let added = added.map(|()| connection.interest = Some(EventFlags::RDHUP));
        self.slots[slot as usize] = Some(connection);
        match added {
            Ok(()) => self.backlog.add(slot),
            // Not a socket, or no memory in the kernel: nothing that this connection can do.
            Err(_) => self.close(slot),
        }
    }

    fn take_fetch(&mut self, fetch: Box<Fetch>) {
        let slot = fetch.ticket.connection;
        match &mut self.slots[slot as usize] {
            Some(connection) => {
                let desk = &mut self.desk;
                guarded(connection, desk, |connection, desk| {
                    connection.fetched(desk, fetch)
                });
                self.backlog.add(slot);
            }
            None => self.desk.boxes.give_back(fetch),
        }
    }

    /// Gives every connection that has work left its turn.
    fn serve_backlog(&mut self) {
        std::mem::swap(&mut self.backlog, &mut self.turn);
        while let Some(slot) = self.turn.next() {
            self.serve(slot, EventFlags::empty());
        }
    }

    /// Serves connections whose deadline has passed.
    fn serve_overdue(&mut self) {
        if self
            .deadline
            .is_none_or(|deadline| deadline > self.desk.now)
        {
            return;
        }
        for slot in 0..self.slots.len() as u32 {
            let due = self.slots[slot as usize]
                .as_ref()
                .and_then(|connection| connection.deadline);
            if due.is_some_and(|due| due <= self.desk.now) {
                self.serve(slot, EventFlags::empty());
            }
        }
        self.deadline = self
            .slots
            .iter()
            .flatten()
            .filter_map(|connection| connection.deadline)
            .min();
    }

    /// Serves one connection, whose socket shows `flags`; true if it sent us something.
    fn serve(&mut self, slot: u32, flags: EventFlags) -> bool {
        let Some(connection) = &mut self.slots[slot as usize] else {
            return false;
        };
        let began = Instant::now();
        let desk = &mut self.desk;
        desk.now = began;
        let served = guarded(connection, desk, |connection, desk| {
            connection.serve(desk, flags)
        });
        let served = served.unwrap_or(Served {
            closed: true,
            ..Served::default()
        });
        desk.tally.settle(&desk.shard, began.elapsed());
        self.queue.push(desk.boxes.outgoing());
        if served.stays {
            self.shared.stay();
        }
        if served.closed {
            self.close(slot);
            return served.received;
        }
        if served.handed_over {
            self.hand_over(slot);
            return served.received;
        }
        if connection.more {
            self.backlog.add(slot);
        }
        connection.update_interest(&self.epoll, slot);
        if let Some(deadline) = connection.deadline {
            self.deadline = Some(self.deadline.map_or(deadline, |other| other.min(deadline)));
        }
        if served.received && !self.hot.contains(&Some(slot)) {
            self.hot.rotate_right(1);
            self.hot[0] = Some(slot);
        }
        served.received
    }

    /// Gives a connection up; another worker or process will have its socket.
    fn hand_over(&mut self, slot: u32) {
        let connection = self.take(slot).expect("it was just served");
        if connection.interest.is_some() {
            // It stays open, so the set would not forget it by itself.
            epoll::delete(&self.epoll, connection.socket()).expect("the socket is in the set");
        }
        let handed_over = connection.into_handed_over(&mut self.desk);
        self.port.connection_closed();
        self.shared.hand_over(handed_over);
    }

    /// Takes a connection out of its slot.
    fn take(&mut self, slot: u32) -> Option<Box<Connection>> {
        let connection = self.slots[slot as usize].take()?;
        for hot in &mut self.hot {
            hot.take_if(|hot| *hot == slot);
        }
        Some(connection)
    }

    /// Closes a connection's socket and says that it ended.
    fn close(&mut self, slot: u32) {
        let Some(mut connection) = self.take(slot) else {
            return;
        };
        connection.abandon(&mut self.desk);
        let (number, reason) = (connection.number, connection.reason());
        drop(connection);
        self.port.connection_closed();
        self.shared.end(number, reason);
    }

    /// Looks for work for as long as that pays; true if there was some.
    fn look(&mut self) -> bool {
        let window = self.poller.window();
        if window.is_zero() || self.slots.iter().all(Option::is_none) {
            return false;
        }
        self.desk.shard.polls.add(1);
        let began = Instant::now();
        let mut looks = 0;
        loop {
            if self.port.has_news(self.desk.space_epoch) || self.look_once() || self.has_leftovers()
            {
                self.poller.hit();
                self.desk.shard.poll_hits.add(1);
                return true;
            }
            if began.elapsed() >= window {
                return false;
            }
            looks += 1;
            if looks % LOOKS_PER_YIELD == 0 {
                // Others than the hot ones may have sent something; and the client may share this
                // CPU, then it cannot send while we look.
                if self.port.connections() > self.hot.iter().flatten().count() {
                    self.hits = HITS_MAX;
                }
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Asks the connections that were active last, and now and then all of them.
    fn look_once(&mut self) -> bool {
        if self.hot == [None; HOT_MAX] || self.hits >= HITS_MAX {
            self.hits = 0;
            return self.wait(Some(Duration::ZERO));
        }
        let mut found = false;
        for hot in self.hot.into_iter().flatten() {
            found |= self.serve(hot, EventFlags::IN);
        }
        self.hits += u32::from(found);
        found
    }

    /// True if serving one connection left work for another, or for itself.
    fn has_leftovers(&self) -> bool {
        !self.backlog.is_empty() || self.desk.boxes.has_freed()
    }

    /// Sleeps until something comes or is due.
    fn sleep(&mut self) {
        if self.has_leftovers() || !self.port.fall_asleep(self.desk.space_epoch) {
            return;
        }
        self.desk.shard.sleeps.add(1);
        self.hot = [None; HOT_MAX];
        let began = Instant::now();
        // Zero would mean that it only looks and does not sleep.
        let least = Duration::from_nanos(1);
        let timeout = self
            .deadline
            .map(|deadline| deadline.saturating_duration_since(began).max(least));
        self.wait(timeout);
    }

    /// Waits for events, for `timeout` at most, and serves them; true if there were any.
    fn wait(&mut self, timeout: Option<Duration>) -> bool {
        let asleep = timeout != Some(Duration::ZERO);
        let began = asleep.then(Instant::now);
        let timeout = timeout
            .map(|timeout| Timespec::try_from(timeout).expect("deadlines are less than ages away"));
        let none = Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(NEWS),
        };
        let mut events = [none; EVENTS];
        // Interrupted by a signal is as good as nothing.
        let count = epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()).unwrap_or(0);
        let events = &events[..count];
        let news = events.iter().any(|event| { event.data }.u64() == NEWS);
        if let Some(began) = began {
            self.port.wake_up();
            self.poller.slept(began.elapsed());
        }
        if news {
            // Awake or not: a sender that saw it sleep may signal when it has woken already, and
            // looking for work would find that signal again and again.
            self.port.clear_signal();
        }
        for &Event { flags, data } in events {
            if data.u64() != NEWS {
                self.serve(data.u64() as u32, flags);
            }
        }
        count > 0
    }
}
