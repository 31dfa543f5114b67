//! One connection: its socket and its session, and moving bytes between the two.
//!
//! Locking: none, it belongs to one worker.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::HandedOver;
use crate::engine::Fetch;
use crate::session::{Desk, End, Pages, Progress, Session};

/// How long the client has to close its side after the last reply. Closing with bytes unread would
/// reset the connection and could take replies with it that the client has not read yet.
const LINGER: Duration = Duration::from_secs(1);
/// The same while all others wait for this one's end.
const LINGER_HURRIED: Duration = Duration::from_millis(100);
/// What epoll says of a client that sends no more.
const LEFT: EventFlags = EventFlags::RDHUP
    .union(EventFlags::HUP)
    .union(EventFlags::ERR);
/// Turns of a session in a row before others have theirs.
const TURNS: u32 = 4;

/// A connection of a worker.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) number: u64,
    socket: OwnedFd,
    session: Session,
    /// What epoll is asked for; None if it is not to be asked any more.
    pub(super) interest: Option<EventFlags>,
    /// The client sends no more, and its replies are owed all the same: that it has closed its
    /// side is no news any more.
    half_closed: bool,
    /// Nor does it receive.
    hung_up: bool,
    /// Its session has work that needs no event.
    pub(super) more: bool,
    /// When it is to be looked at, events or not.
    pub(super) deadline: Option<Instant>,
    detach_by: Option<Instant>,
    hand_over_by: Option<Instant>,
    /// The last reply is sent; waiting for the client to close, until then at most.
    lingering: Option<Instant>,
}

/// What serving a connection came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Served {
    /// Bytes were received.
    pub(super) received: bool,
    /// It is over: the socket can be closed.
    pub(super) closed: bool,
    /// It can go on elsewhere: the socket is to be kept.
    pub(super) handed_over: bool,
    /// It was asked to go elsewhere and could not in time: it goes on here.
    pub(super) stays: bool,
}

impl Connection {
    pub(super) fn new(number: u64, socket: OwnedFd, session: Session) -> Self {
        Connection {
            number,
            socket,
            session,
            interest: None,
            half_closed: false,
            hung_up: false,
            more: true,
            deadline: None,
            detach_by: None,
            hand_over_by: None,
            lingering: None,
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// It has place `slot` in its worker.
    pub(super) fn set_slot(&mut self, slot: u32) {
        self.session.set_connection(slot);
    }

    /// Why its session ended.
    pub(super) fn reason(&self) -> String {
        self.session.end().map(End::to_string).unwrap_or_default()
    }

    /// A fetch came back.
    pub(super) fn fetched<P: Pages>(&mut self, desk: &mut Desk<P>, fetch: Box<Fetch>) {
        self.session.fetched(desk, fetch);
        self.more = true;
    }

    /// True if it waits for boxes or for space.
    pub(super) fn waits(&self, boxes: bool, space: bool) -> bool {
        let waits = self.session.waits();
        boxes && waits.boxes || space && waits.space
    }

    /// Finish what is begun, at `by` at the latest.
    pub(super) fn detach(&mut self, by: Instant) {
        self.session.leave(End::Detached);
        self.detach_by = Some(by);
        self.more = true;
    }

    /// Gets it to a point where another session can go on, at `by` at the latest.
    pub(super) fn begin_hand_over(&mut self, by: Instant, now: Instant) {
        self.session.begin_hand_over();
        self.hand_over_by = Some(by);
        if let Some(until) = &mut self.lingering {
            *until = (*until).min(now + LINGER_HURRIED);
            self.deadline = self.lingering;
        }
        self.more = true;
    }

    /// All that another session needs to go on with it.
    pub(super) fn into_handed_over<P: Pages>(mut self, desk: &mut Desk<P>) -> HandedOver {
        let (export, negotiated) = self.session.agreed();
        HandedOver {
            number: self.number,
            socket: self.socket,
            export,
            negotiated,
            unfinished: self.session.take_unfinished(desk),
        }
    }

    /// The session failed by a mistake of ours.
    pub(super) fn fail<P: Pages>(&mut self, desk: &mut Desk<P>, message: String) {
        self.session.abandon(desk, End::Bug { message });
    }

    /// Drops what the session holds, if it has not ended yet.
    pub(super) fn abandon<P: Pages>(&mut self, desk: &mut Desk<P>) {
        self.session.abandon(desk, End::EndOfStream);
    }

    /// Receives if the socket's `flags` say so, answers, and sends.
    pub(super) fn serve<P: Pages>(&mut self, desk: &mut Desk<P>, flags: EventFlags) -> Served {
        let mut served = Served::default();
        self.more = false;
        if let Some(until) = self.lingering {
            served.closed = desk.now >= until || self.read_away();
            return served;
        }
        if flags.intersects(EventFlags::IN | LEFT) {
            served.received = self.receive(desk, flags);
        }
        if self.deadline.is_some_and(|deadline| deadline <= desk.now) {
            self.session.expire(desk);
            if self.detach_by.is_some_and(|by| by <= desk.now) {
                self.session.abandon(desk, End::DetachedLate);
            }
        }
        if self.hand_over_by.take_if(|by| *by <= desk.now).is_some() {
            if self.session.waits_for_client() {
                // Without lingering: it takes nothing anyway, and all others wait.
                self.session.abandon(desk, End::NotHandedOver);
                served.closed = true;
                return served;
            } else {
                self.session.stay();
                served.stays = true;
            }
        }
        self.work(desk);
        served.handed_over = self.session.is_handed_over();
        if served.handed_over {
            return served;
        }
        self.deadline = [self.session.deadline(), self.detach_by, self.hand_over_by]
            .into_iter()
            .flatten()
            .min();
        let replies_owed = self.session.end().is_none_or(End::sends_replies);
        if self.session.end().is_some() && (self.session.output().is_empty() || !replies_owed) {
            self.begin_linger(desk.now);
            served.closed = self.read_away();
        }
        served
    }

    /// Asks epoll for what can be used now.
    pub(super) fn update_interest(&mut self, epoll: &OwnedFd, slot: u32) {
        let Some(asked) = self.interest else {
            return;
        };
        if self.hung_up {
            // This cannot be masked and would be reported again and again.
            epoll::delete(epoll, &self.socket).expect("the socket is in the set");
            self.interest = None;
            return;
        }
        let wanted = self.interest_wanted();
        if wanted != asked {
            let data = EventData::new_u64(slot.into());
            epoll::modify(epoll, &self.socket, data, wanted).expect("the socket is in the set");
            self.interest = Some(wanted);
        }
    }

    fn interest_wanted(&mut self) -> EventFlags {
        if self.lingering.is_some() {
            return EventFlags::IN;
        }
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::RDHUP, !self.half_closed);
        wanted.set(EventFlags::IN, self.session.input().is_some());
        wanted.set(EventFlags::OUT, !self.session.output().is_empty());
        wanted
    }

    /// Receives what is there, up to the room that the session has. True if that was anything.
    fn receive<P: Pages>(&mut self, desk: &mut Desk<P>, flags: EventFlags) -> bool {
        let Some(space) = self.session.input() else {
            if self.session.is_disconnecting() || self.session.end().is_some() {
                // What it asked for before is still to be done, and replies may still be on their
                // way to it.
                self.half_closed = flags.intersects(LEFT);
                self.hung_up = flags.intersects(EventFlags::HUP | EventFlags::ERR);
            } else if flags.intersects(LEFT) {
                // Its requests wait for space or for the store while the client, which gave up,
                // sends them again elsewhere. They must not be begun any more.
                self.session.abandon(desk, End::EndOfStream);
            }
            return false;
        };
        match recv(&self.socket, space, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => self.session.abandon(desk, End::EndOfStream),
            Ok((_, bytes)) => {
                self.session.received(bytes);
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => self.cut("receive", errno, desk),
        }
        false
    }

    /// Lets the session work and sends what it says.
    fn work<P: Pages>(&mut self, desk: &mut Desk<P>) {
        for _ in 0..TURNS {
            let progress = self.session.advance(desk);
            let sent = self.send_output(desk);
            // Room for replies is the one thing it may have waited for that came just now.
            let again = progress == Progress::More || sent && self.session.waits().output;
            self.more = again;
            if !again {
                break;
            }
        }
    }

    /// Sends what the socket takes. True if it took anything.
    fn send_output<P: Pages>(&mut self, desk: &mut Desk<P>) -> bool {
        let output = self.session.output();
        if output.is_empty() {
            return false;
        }
        match send(
            &self.socket,
            output,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        ) {
            Ok(bytes) => {
                self.session.sent(bytes);
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) if self.session.is_disconnecting() => {
                // It did not wait for its replies. What it asked for before it said that it leaves
                // is done all the same.
                let unheard = output.len();
                self.session.sent(unheard);
                return true;
            }
            Err(errno) => self.cut("send", errno, desk),
        }
        false
    }

    fn cut<P: Pages>(&mut self, what: &str, errno: Errno, desk: &mut Desk<P>) {
        // A client that goes away without a word is no news.
        let end = match errno {
            Errno::PIPE | Errno::CONNRESET => End::EndOfStream,
            _ => End::Socket {
                why: format!("{what}: {}", std::io::Error::from(errno)),
            },
        };
        self.session.abandon(desk, end);
    }

    fn begin_linger(&mut self, now: Instant) {
        // Fails only if the client is gone already, which the next receive finds out.
        let _ = shutdown(&self.socket, Shutdown::Write);
        self.lingering = Some(now + LINGER);
        self.deadline = self.lingering;
    }

    /// Reads away what the client still sends. True if it is done.
    fn read_away(&mut self) -> bool {
        let mut bytes = [0; 4096];
        for _ in 0..16 {
            match recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return true,
                Ok(_) => {}
                Err(Errno::AGAIN | Errno::INTR) => return false,
                Err(_) => return true,
            }
        }
        false
    }
}

/// Does something with a connection; a panic in it ends that connection and no other.
pub(super) fn guarded<P: Pages, T>(
    connection: &mut Connection,
    desk: &mut Desk<P>,
    act: impl FnOnce(&mut Connection, &mut Desk<P>) -> T,
) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(|| act(connection, desk))) {
        Ok(done) => Some(done),
        Err(panic) => {
            // What a session holds is plain data: giving it back cannot fail the same way again.
            connection.fail(desk, message_of(&*panic));
            None
        }
    }
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    text.or(owned)
        .unwrap_or("a panic without a message")
        .to_string()
}
