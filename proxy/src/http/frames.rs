//! HTTP/2 frames on a client's connection, looked at before hyper has them. What breaks the protocol ends a connection as
//! Envoy ends it: by GOAWAY with the frame's own error where a frame could not be decoded, without a word otherwise.
//!
//! Only heads of frames are looked at; nothing is copied, but a head that came in two parts.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::http1::DELAYED_CLOSE;
use super::offence::{Code, Offence};
use crate::streams::{Open, Streams};
use crate::within::within;

/// The head of a frame (RFC 9113, 4.1), and the length of the padding if it has some.
const LONGEST_HEAD: usize = 10;
const HEAD: usize = 9;
/// What clients say first.
const PREFACE: usize = crate::detect::PREFACE.len();
/// The largest frame that is taken: nobody was told of another one.
const LARGEST: usize = 16_384;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const PRIORITY: u8 = 2;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// A client's connection, as hyper has it and as its owner has it.
#[derive(Debug)]
pub(super) struct Wire<S>(Rc<RefCell<Inner<S>>>);

#[derive(Debug)]
struct Inner<S> {
    stream: S,
    incoming: Incoming,
    outgoing: Outgoing,
    offence: Option<Offence>,
    /// Set when hyper resets a stream whose body is not as its head said.
    refused: Rc<Cell<bool>>,
}

/// What the client sends.
#[derive(Debug)]
struct Incoming {
    /// The beginning of a frame's head, whose rest has not come.
    held: Vec<u8>,
    /// What was looked at already, and found no room.
    ready: Vec<u8>,
    /// As much of a frame is still to come.
    rest: usize,
    /// That rest is not hyper's.
    is_dropped: bool,
    /// The settings, which come first, were there.
    has_settings: bool,
    /// The head of this stream goes on in the next frame.
    block: Option<u32>,
    /// The last stream that was begun.
    last: u32,
    /// How many were begun.
    begun: u32,
    /// Streams whose end the client has not sent.
    open: BTreeSet<u32>,
    /// Streams whose answer has not ended.
    under_way: BTreeMap<u32, Open>,
    streams: Rc<Streams>,
    /// What came last, of all that could be to blame for a stream, is a head.
    ends_in_head: bool,
}

/// What hyper sends.
#[derive(Debug, Clone, Copy, Default)]
struct Outgoing {
    head: [u8; HEAD],
    has: usize,
    rest: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn of(bytes: &[u8]) -> Self {
        let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
        Self {
            length: usize::from(byte(0)) << 16 | usize::from(byte(1)) << 8 | usize::from(byte(2)),
            kind: byte(3),
            flags: byte(4),
            stream: u32::from_be_bytes([byte(5) & 0x7f, byte(6), byte(7), byte(8)]),
        }
    }

    const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    const fn may_be_padded(self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.has(PADDED) && self.length > 0
    }
}

impl<S> Wire<S> {
    /// A connection of which nothing was read yet, its preface least of all.
    pub(super) fn new(stream: S, refused: Rc<Cell<bool>>) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            stream,
            incoming: Incoming {
                held: Vec::new(),
                ready: Vec::new(),
                rest: PREFACE,
                is_dropped: false,
                has_settings: false,
                block: None,
                last: 0,
                begun: 0,
                open: BTreeSet::new(),
                under_way: BTreeMap::new(),
                streams: Rc::default(),
                ends_in_head: false,
            },
            outgoing: Outgoing::default(),
            offence: None,
            refused,
        })))
    }

    /// Hyper's side of it.
    pub(super) fn share(&self) -> Self {
        Self(Rc::clone(&self.0))
    }

    /// How the client broke the protocol, if it did.
    pub(super) fn offence(&self) -> Option<Offence> {
        self.0.borrow().offence
    }

    /// How many requests the client has begun.
    pub(super) fn begun(&self) -> u32 {
        self.0.borrow().incoming.begun
    }

    /// True if nothing of a frame is still to be sent.
    pub(super) fn is_between_frames(&self) -> bool {
        let outgoing = self.0.borrow().outgoing;
        outgoing.has == 0 && outgoing.rest == 0
    }

    /// The connection itself, once hyper has let go of it.
    pub(super) fn into_stream(self) -> Option<S> {
        Some(Rc::into_inner(self.0)?.into_inner().stream)
    }

    /// Its streams, each until the last frame of its answer goes out.
    pub(super) fn streams(&self) -> Rc<Streams> {
        Rc::clone(&self.0.borrow().incoming.streams)
    }

    /// The last stream that the client began.
    pub(super) fn last(&self) -> u32 {
        self.0.borrow().incoming.last
    }
}

/// Says what was wrong, and what was taken before.
pub(super) async fn go_away(stream: &mut (impl AsyncWrite + Unpin), last: u32, code: Code) {
    let mut frame = vec![0, 0, 8, kind::GOAWAY, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&last.to_be_bytes());
    frame.extend_from_slice(&code.number().to_be_bytes());
    // A client that is gone, or that takes nothing, does not hear it.
    drop(within(DELAYED_CLOSE, "a GOAWAY to be sent", stream.write_all(&frame)).await);
}

impl Incoming {
    /// Looks at what came; gives how much of it, moved to its beginning, is hyper's.
    fn look(&mut self, bytes: &mut [u8]) -> Result<usize, (usize, Offence)> {
        let (mut at, mut kept) = (0, 0);
        while at < bytes.len() {
            if self.rest == 0 {
                let left = &bytes[at..];
                let head = Head::of(left);
                let needed = if left.len() >= HEAD && head.may_be_padded() {
                    LONGEST_HEAD
                } else {
                    HEAD
                };
                if left.len() < needed {
                    self.held = left.to_vec();
                    return Ok(kept);
                }
                self.frame(head, left).map_err(|offence| (kept, offence))?;
                self.is_dropped =
                    head.kind == kind::PRIORITY || head.kind == kind::GOAWAY && head.stream == 0;
                self.rest = HEAD + head.length;
            }
            let length = self.rest.min(bytes.len() - at);
            if !self.is_dropped {
                if kept != at {
                    bytes.copy_within(at..at + length, kept);
                }
                kept += length;
            }
            at += length;
            self.rest -= length;
        }
        Ok(kept)
    }

    /// A frame begins.
    fn frame(&mut self, head: Head, bytes: &[u8]) -> Result<(), Offence> {
        use Offence::{Frame, Rule};
        let Head {
            length, kind, stream, ..
        } = head;
        if !std::mem::replace(&mut self.has_settings, true) && kind != kind::SETTINGS {
            return Err(Frame(Code::Protocol));
        }
        if length > LARGEST {
            return Err(Frame(Code::FrameSize));
        }
        if self
            .block
            .is_some_and(|block| kind != kind::CONTINUATION || stream != block)
            || self.block.is_none() && kind == kind::CONTINUATION
        {
            return Err(Frame(Code::Protocol));
        }
        let right_length = match kind {
            kind::PRIORITY => length == 5,
            kind::RST_STREAM | kind::WINDOW_UPDATE => length == 4,
            kind::PING => length == 8,
            kind::SETTINGS if head.has(ACK) => length == 0,
            kind::SETTINGS => length.is_multiple_of(6),
            _ => true,
        };
        if !right_length {
            return Err(Frame(Code::FrameSize));
        }
        if head.may_be_padded()
            && bytes
                .get(HEAD)
                .is_some_and(|padding| usize::from(*padding) >= length)
        {
            return Err(Frame(Code::Protocol));
        }
        match kind {
            kind::DATA if stream == 0 || stream > self.last => return Err(Frame(Code::Protocol)),
            kind::DATA if !self.open.contains(&stream) => return Err(Frame(Code::StreamClosed)),
            kind::DATA => {
                self.ends_in_head = false;
                self.ends(head);
            }
            kind::WINDOW_UPDATE => self.ends_in_head = false,
            kind::HEADERS => {
                // A second head is trailers, if the stream has not ended.
                if stream == 0
                    || stream.is_multiple_of(2)
                    || stream == self.last && !self.open.contains(&stream)
                {
                    return Err(Rule);
                }
                if stream > self.last {
                    self.last = stream;
                    self.begun += 1;
                    self.open.insert(stream);
                    self.under_way.insert(stream, self.streams.begin());
                }
                self.ends_in_head = true;
                self.ends(head);
                self.block = (!head.has(END_HEADERS)).then_some(stream);
            }
            kind::CONTINUATION if head.has(END_HEADERS) => self.block = None,
            kind::RST_STREAM => {
                self.open.remove(&stream);
                self.under_way.remove(&stream);
            }
            _ => {}
        }
        Ok(())
    }

    fn ends(&mut self, head: Head) {
        if head.has(END_STREAM) {
            self.open.remove(&head.stream);
        }
    }
}

impl Outgoing {
    /// Goes over what is written. `error` is asked, for each GOAWAY and `RST_STREAM` with an error, whether that is the end:
    /// where the frame begins, its head, the error. `ends` is told of streams whose last frame that is.
    fn look(
        &mut self,
        bytes: &[u8],
        mut error: impl FnMut(usize, Head, u32) -> bool,
        mut ends: impl FnMut(u32),
    ) {
        let (mut at, mut begins) = (0, 0);
        while at < bytes.len() {
            if self.rest == 0 {
                if self.has == 0 {
                    begins = at;
                }
                let length = (HEAD - self.has).min(bytes.len() - at);
                self.head[self.has..self.has + length].copy_from_slice(&bytes[at..at + length]);
                self.has += length;
                at += length;
                if self.has < HEAD {
                    return;
                }
                let head = Head::of(&self.head);
                (self.rest, self.has) = (head.length, 0);
                let may_end = matches!(head.kind, kind::DATA | kind::HEADERS);
                if head.kind == kind::RST_STREAM || may_end && head.has(END_STREAM) {
                    ends(head.stream);
                }
                let error_at = match head.kind {
                    kind::GOAWAY => Some(at + 4),
                    kind::RST_STREAM => Some(at),
                    _ => None,
                };
                // Such a frame is short, and stands in one buffer with all of itself.
                let code = error_at.and_then(|at| bytes.get(at..at + 4)?.try_into().ok());
                let code = code.map(u32::from_be_bytes).filter(|code| *code != 0);
                if code.is_some_and(|code| error(begins, head, code)) {
                    return;
                }
            }
            let length = self.rest.min(bytes.len() - at);
            at += length;
            self.rest -= length;
        }
    }

    /// These bytes were written.
    fn passed(&mut self, bytes: &[u8], ends: impl FnMut(u32)) {
        self.look(bytes, |_, _, _| false, ends);
    }
}

impl<S> Inner<S> {
    /// How much of these slices may be written: up to where hyper would tell the client of an offence, which is not its part.
    fn allowed(&mut self, slices: &[io::IoSlice<'_>]) -> usize {
        let mut outgoing = self.outgoing;
        let mut allowed = 0;
        for slice in slices {
            let mut cut = None;
            let error = |begins: usize, head: Head, error: u32| {
                let (goes_away, of_head) = (head.kind == kind::GOAWAY, self.incoming.ends_in_head);
                let offence = Offence::told_by_hyper(goes_away, error, of_head);
                cut = offence.map(|offence| (begins, offence));
                if cut.is_none() && error == Code::Protocol.number() {
                    self.refused.set(true);
                }
                cut.is_some()
            };
            outgoing.look(slice, error, |_| {});
            if let Some((begins, offence)) = cut {
                self.offence.get_or_insert(offence);
                return allowed + begins;
            }
            allowed += slice.len();
        }
        allowed
    }
}

/// What hyper gets of a connection if it always asks for `room` bytes, and how the client broke the protocol: for the tests
/// and for the fuzz target, which have no hyper.
#[doc(hidden)]
pub async fn passed(stream: impl AsyncRead + AsyncWrite + Unpin, room: usize) -> (Vec<u8>, Option<Offence>) {
    let wire = Wire::new(stream, Rc::default());
    let (mut taken, mut room) = (Vec::new(), vec![0; room]);
    // An offence ends it with an error.
    while let Ok(length @ 1..) = wire.share().read(&mut room).await {
        taken.extend_from_slice(&room[..length]);
    }
    (taken, wire.offence())
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the client broke the protocol")
}

/// What a read came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// The client's end.
    End,
    /// Nothing that is hyper's.
    Nothing,
    /// Something.
    Bytes,
}

impl<S: AsyncRead + Unpin> Inner<S> {
    /// Reads once, into more room than a head takes.
    fn fill(&mut self, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<Came>> {
        let before = into.filled().len();
        into.put_slice(&self.incoming.held);
        let held = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if read.is_pending() || into.filled().len() == held {
            into.set_filled(before);
            return read.map_ok(|()| Came::End);
        }
        self.incoming.held.clear();
        let kept = match self.incoming.look(&mut into.filled_mut()[before..]) {
            Ok(kept) => kept,
            Err((kept, offence)) => {
                self.offence = Some(offence);
                kept
            }
        };
        into.set_filled(before + kept);
        Poll::Ready(Ok(if kept == 0 { Came::Nothing } else { Came::Bytes }))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        loop {
            let waiting = &mut inner.incoming.ready;
            if !waiting.is_empty() {
                let length = waiting.len().min(buffer.remaining());
                buffer.put_slice(&waiting[..length]);
                waiting.drain(..length);
                return Poll::Ready(Ok(()));
            }
            if inner.offence.is_some() {
                return Poll::Ready(Err(broken()));
            }
            let has_room = buffer.remaining() > LONGEST_HEAD;
            let came = if has_room {
                ready!(inner.fill(context, buffer))?
            } else {
                let mut bytes = [0; 2 * LONGEST_HEAD];
                let mut room = ReadBuf::new(&mut bytes);
                let came = ready!(inner.fill(context, &mut room))?;
                inner.incoming.ready.extend_from_slice(room.filled());
                came
            };
            if came == Came::End || (came == Came::Bytes && has_room) {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.offence.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut inner.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        let allowed = inner.allowed(slices);
        let stream = Pin::new(&mut inner.stream);
        let written = if allowed == length {
            ready!(stream.poll_write_vectored(context, slices))?
        } else {
            let before: Vec<u8> = slices
                .iter()
                .flat_map(|slice| slice.iter().copied())
                .take(allowed)
                .collect();
            if before.is_empty() {
                return Poll::Ready(Err(broken()));
            }
            ready!(stream.poll_write(context, &before))?
        };
        let mut left = written;
        for slice in slices {
            let length = left.min(slice.len());
            let under_way = &mut inner.incoming.under_way;
            inner.outgoing.passed(&slice[..length], |stream| {
                under_way.remove(&stream);
            });
            left -= length;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A connection on which these lots come, and on which what is written is kept.
    #[derive(Debug, Default)]
    struct Lots {
        come: VecDeque<Vec<u8>>,
        written: Vec<u8>,
    }

    impl AsyncRead for Lots {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if let Some(mut lot) = self.come.pop_front() {
                let rest = lot.split_off(lot.len().min(buffer.remaining()));
                buffer.put_slice(&lot);
                if !rest.is_empty() {
                    self.come.push_front(rest);
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Lots {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.written.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[0, length[0], length[1], kind, flags, 0, 0, 0, stream], payload].concat()
    }

    fn opened(frames: &[Vec<u8>]) -> Vec<u8> {
        let settings = frame(kind::SETTINGS, 0, 0, &[]);
        [crate::detect::PREFACE, &settings, &frames.concat()].concat()
    }

    /// What hyper gets of these bytes, however they come, and how they offend.
    async fn through(bytes: &[u8], lots: usize, room: usize) -> (Vec<u8>, Option<Offence>) {
        let come = bytes.chunks(lots).map(<[u8]>::to_vec).collect();
        let io = Lots {
            come,
            ..Lots::default()
        };
        passed(io, room).await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_right_passes_in_whatever_lots_it_comes() {
        let request = frame(kind::HEADERS, END_HEADERS, 1, &[0x82; 20]);
        let body = frame(kind::DATA, END_STREAM | PADDED, 1, &[2, 9, 9, 0, 0]);
        let dropped = frame(kind::PRIORITY, 0, 1, &[0; 5]);
        let leaves = frame(kind::GOAWAY, 0, 0, &[0; 8]);
        let sent = opened(&[dropped.clone(), request.clone(), dropped, leaves, body.clone()]);
        let wanted = opened(&[request, body]);
        for lots in [1, 2, 9, 10, 13, 1000] {
            for room in [1, 2, 10, 11, 1000] {
                let taken = through(&sent, lots, room).await;
                assert_eq!(taken, (wanted.clone(), None), "{lots} {room}");
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn offences_are_told_apart() {
        use Offence::{Frame, Rule};
        let begun = |flags| frame(kind::HEADERS, flags | END_HEADERS, 1, &[0x82]);
        for (frames, wanted) in [
            (vec![frame(kind::PING, 0, 0, &[0; 7])], Frame(Code::FrameSize)),
            (
                vec![frame(kind::SETTINGS, ACK, 0, &[0; 6])],
                Frame(Code::FrameSize),
            ),
            (vec![frame(kind::DATA, 0, 1, b"x")], Frame(Code::Protocol)),
            (
                vec![begun(END_STREAM), frame(kind::DATA, 0, 1, b"x")],
                Frame(Code::StreamClosed),
            ),
            (vec![begun(END_STREAM), begun(END_STREAM)], Rule),
            (
                vec![frame(kind::HEADERS, PADDED | END_HEADERS, 1, &[9, 0, 0])],
                Frame(Code::Protocol),
            ),
            (
                vec![
                    frame(kind::HEADERS, 0, 1, &[0x82]),
                    frame(kind::PING, 0, 0, &[0; 8]),
                ],
                Frame(Code::Protocol),
            ),
            (vec![frame(kind::HEADERS, END_HEADERS, 2, &[0x82])], Rule),
        ] {
            for lots in [1, 1000] {
                assert_eq!(
                    through(&opened(&frames), lots, 64).await.1,
                    Some(wanted),
                    "{frames:?}"
                );
            }
        }
        let early = [crate::detect::PREFACE, &begun(END_STREAM)].concat();
        assert_eq!(through(&early, 1000, 64).await.1, Some(Frame(Code::Protocol)));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_hyper_says_of_an_offence_is_not_sent() {
        let answer = frame(kind::HEADERS, END_HEADERS, 1, &[0x88]);
        let reset = frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 2]);
        let settings = frame(kind::GOAWAY, 0, 0, &[0; 8]);
        let complaint = frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 9]);
        let sent = [answer, reset, settings].concat();
        let mut wire = Wire::new(Lots::default(), Rc::default());
        // The first frame comes in two parts.
        wire.write_all(&sent[..4]).await.unwrap();
        let all = [&sent[4..], &complaint].concat();
        assert!(wire.write_all(&all).await.is_err());
        assert_eq!(wire.offence(), Some(Offence::Frame(Code::Compression)));
        assert_eq!(wire.into_stream().unwrap().written, sent);
    }
}
