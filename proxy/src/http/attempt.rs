//! One try of a request at one host: it is sent, the answer's head is awaited, and the answer is passed on.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use hyper::body::{Body as _, Frame};
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::net::tcp::WriteHalf;
use tokio::time::Instant;

use super::client::{BACKLOG, Client, write_out, write_piece};
use super::fed::{Fed, Feed};
use super::h1::body::{Decoder, Framing};
use super::h1::{encode, fill, parse};
use super::head::{RequestHead, ResponseHead};
use super::headers;
use super::request_body::{Broken, Piece, RequestBody};
use super::response_body::{Broke, ResponseBody};
use super::stream_info::{Ridden, StreamInfo};
use crate::access_log::Flags;
use crate::addr::Source;
use crate::config::listener::HttpConfig;
use crate::pass;
use crate::upstream::Cluster;
use crate::upstream::connect::{ConnectError, connect_http1, connect_http2};
use crate::upstream::counted::Counted;
use crate::upstream::host::{Host, Http1, Http2, more};
use crate::within::until;

/// What of a request is the same for all tries.
pub(super) struct Request<'a> {
    /// The connection manager's configuration.
    pub config: &'a HttpConfig,
    /// The cluster.
    pub cluster: &'a Cluster,
    /// From which address the host is to see it come, if not from this proxy's.
    pub source: Option<Source>,
    /// The head, as it goes upstream.
    pub head: &'a RequestHead,
    /// The upgrade that passes through.
    pub upgrade: bool,
    /// The limit of the whole request, from the moment at which it has come whole.
    pub timeout: Option<Duration>,
    /// When that is over; known once the request has come whole.
    pub deadline: &'a Cell<Option<Instant>>,
}

/// Why a try gave no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// No host to send it to.
    NoHost,
    /// No connection.
    Connect(ConnectError),
    /// The host closed or reset the connection before an answer.
    Terminated,
    /// The answer was not HTTP.
    Garbage,
    /// It took too long.
    TimedOut,
    /// The client went away.
    ClientGone,
    /// The client's body is malformed.
    ClientMalformed,
    /// The host does not change the protocol, and answers so.
    NotUpgraded(StatusCode),
}

/// What became of a try that got an answer.
#[derive(Debug)]
pub(super) enum Answered {
    /// It is not the last: there is another try.
    Again,
    /// It was passed on whole.
    Whole {
        /// The client's body had not come whole: what follows of it cannot be told from a new request.
        leftover: bool,
    },
    /// It broke off after its head had been passed on.
    BrokeOff,
    /// Both sides speak something else from now on.
    Upgraded(Box<Http1>),
}

/// Tries a request at a host. `again` says whether an answer of that status is worth another try.
pub(super) async fn attempt(
    request: &Request<'_>,
    host: &Rc<Host>,
    body: &mut RequestBody<'_>,
    client: &mut Client<'_>,
    info: &mut StreamInfo,
    again: &dyn Fn(StatusCode) -> bool,
) -> Result<Answered, Failure> {
    if request.cluster.config.http2.speaks(request.head.http2) {
        let connection = if let Some(connection) = host.http2(request.source) {
            connection
        } else {
            let made = connect_http2(request.cluster, host, request.source);
            let connection = Box::pin(connecting(request, body, made)).await?;
            host.share(connection.clone());
            connection
        };
        let stream = connection.streams.begin();
        let answered = over_http2(request, connection, body, client, info, again).await;
        drop(stream);
        request.cluster.rests();
        return answered;
    }
    let mut connection = if let Some(connection) = host.take(&request.cluster.config, request.source) {
        connection
    } else {
        // Once for many requests: room of its own, instead of room in every connection's task.
        let made = connect_http1(request.cluster, host, request.source);
        Box::pin(connecting(request, body, made)).await?
    };
    Ok(
        match over_http1(request, &mut connection, body, client, info, again).await? {
            Exchanged::Again => Answered::Again,
            Exchanged::BrokeOff => Answered::BrokeOff,
            Exchanged::Upgraded => Answered::Upgraded(Box::new(connection)),
            Exchanged::Whole { leftover, reusable } => {
                if reusable {
                    request.cluster.put(connection, host);
                }
                Answered::Whole { leftover }
            }
        },
    )
}

/// A connection is made, unless the client goes away or the time is over before.
async fn connecting<T>(
    request: &Request<'_>,
    body: &mut RequestBody<'_>,
    connect: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, Failure> {
    request.cluster.stats.rq_pending_total.inc();
    if body.is_whole() {
        tokio::select! {
            biased;
            made = connect => made.map_err(Failure::Connect),
            why = watch(request, body) => Err(why),
        }
    } else if request.head.http2 {
        // What a stream sends ahead waits in its flow-control window.
        tokio::select! {
            biased;
            made = connect => made.map_err(Failure::Connect),
            () = body.gone() => Err(Failure::ClientGone),
        }
    } else {
        tokio::select! {
            biased;
            made = connect => made.map_err(Failure::Connect),
            broken = body.read_ahead() => Err(broken.into()),
        }
    }
}

/// Ends when the client goes away, or the time is over. The client's body has come whole.
async fn watch(request: &Request<'_>, body: &mut RequestBody<'_>) -> Failure {
    if request.deadline.get().is_none() {
        request
            .deadline
            .set(request.timeout.map(|timeout| Instant::now() + timeout));
    }
    match request.deadline.get() {
        None => {
            body.gone().await;
            Failure::ClientGone
        }
        Some(deadline) => match until(deadline, body.gone()).await {
            Some(()) => Failure::ClientGone,
            None => Failure::TimedOut,
        },
    }
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Gone => Self::ClientGone,
            Broken::Malformed => Self::ClientMalformed,
        }
    }
}

/// What became of an exchange over HTTP/1.1.
enum Exchanged {
    Again,
    BrokeOff,
    Whole { leftover: bool, reusable: bool },
    Upgraded,
}

async fn over_http1(
    request: &Request<'_>,
    connection: &mut Http1,
    body: &mut RequestBody<'_>,
    client: &mut Client<'_>,
    info: &mut StreamInfo,
    again: &dyn Fn(StatusCode) -> bool,
) -> Result<Exchanged, Failure> {
    connection.requests += 1;
    info.ridden = Some(Ridden {
        id: connection.link.id,
        local: connection.link.local,
    });
    let Http1 {
        stream,
        input,
        output,
        ..
    } = connection;
    let (read, write) = stream.split();
    let mut read = Counted::new(read, &request.cluster.stats);
    let mut write = Counted::new(write, &request.cluster.stats);
    let framing = body.framing();
    output.clear();
    encode::request(output, request.head, framing);
    let sent = Cell::new(false);
    let upload = async {
        if upload_http1(&mut write, output, framing, body).await? {
            sent.set(true);
        } else {
            // The host takes no more: what it said before shows on the other side.
            std::future::pending::<()>().await;
        }
        Ok::<_, Failure>(watch(request, body).await)
    };
    let mut upload = pin!(upload);
    let to_head = request.head.method == Method::HEAD;
    let response = {
        let mut response = pin!(response_http1(&mut read, input, to_head));
        tokio::select! {
            biased;
            why = upload.as_mut() => return Err(why.unwrap_or_else(|why| why)),
            response = response.as_mut() => response?,
        }
    };
    if again(response.head.status) {
        return Ok(Exchanged::Again);
    }
    let upgraded = request.upgrade && response.head.status == StatusCode::SWITCHING_PROTOCOLS;
    let mut answer = ResponseBody::Http1 {
        read,
        input,
        decoder: Decoder::new(response.framing),
    };
    let head = Head {
        response: response.head,
        framing: response.framing,
        is_early: !sent.get(),
    };
    let passed = relay(request, head, &mut answer, client, info, upload).await?;
    Ok(match passed {
        false => Exchanged::BrokeOff,
        true if upgraded => Exchanged::Upgraded,
        true => Exchanged::Whole {
            leftover: !sent.get(),
            reusable: sent.get() && !response.close && input.is_empty(),
        },
    })
}

/// Sends head and body; false if the host takes no more.
async fn upload_http1(
    write: &mut Counted<WriteHalf<'_>>,
    out: &mut BytesMut,
    framing: Framing,
    body: &mut RequestBody<'_>,
) -> Result<bool, Failure> {
    loop {
        if body.has_long_rest() {
            if write_out(write, out).await.is_err() {
                return Ok(false);
            }
            let to: &TcpStream = write.inner().as_ref();
            match body.pass_rest(to, |length| write.gave(length)).await {
                // Short of its end, the next piece tells that the client is gone.
                Ok(()) => {}
                Err(pass::Broke::Writing) => return Ok(false),
                Err(pass::Broke::Reading | pass::Broke::Reset) => return Err(Failure::ClientGone),
            }
        }
        // What is there already goes out together with what was gathered.
        let next = if let Some(next) = body.next().now_or_never() {
            next
        } else {
            if write_out(write, out).await.is_err() {
                return Ok(false);
            }
            body.next().await
        };
        match next? {
            Some(Piece::Data(data)) => {
                if write_piece(write, out, framing, data).await.is_err() {
                    return Ok(false);
                }
            }
            // HTTP/1.1 trailers are not sent.
            Some(Piece::Trailers(_)) => {}
            None => {
                if framing == Framing::Chunked {
                    out.extend_from_slice(encode::LAST_CHUNK);
                }
                return Ok(write_out(write, out).await.is_ok());
            }
        }
    }
}

/// The head of the final response; interim ones are passed over.
async fn response_http1(
    read: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
    to_head: bool,
) -> Result<parse::Response, Failure> {
    loop {
        if let Some(response) = parse::response(input, to_head).map_err(|_garbage| Failure::Garbage)? {
            let status = response.head.status;
            if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(response);
            }
            continue;
        }
        if !matches!(fill(read, input).await, Ok(1..)) {
            // Half a head is no HTTP.
            let begun = !input.is_empty();
            return Err(if begun {
                Failure::Garbage
            } else {
                Failure::Terminated
            });
        }
    }
}

async fn over_http2(
    request: &Request<'_>,
    mut connection: Http2,
    body: &mut RequestBody<'_>,
    client: &mut Client<'_>,
    info: &mut StreamInfo,
    again: &dyn Fn(StatusCode) -> bool,
) -> Result<Answered, Failure> {
    info.ridden = Some(Ridden {
        id: connection.id,
        local: connection.local,
    });
    let (feed, upload_body) = if body.framing() == Framing::None {
        (None, Fed::empty())
    } else {
        let (feed, body) = Fed::pair();
        (Some(feed), body)
    };
    let outgoing = http2_request(request.head, upload_body).ok_or(Failure::Garbage)?;
    let sent = Cell::new(false);
    let upload = async {
        if let Some(feed) = &feed {
            upload_http2(feed, body).await?;
        }
        sent.set(true);
        Ok::<_, Failure>(watch(request, body).await)
    };
    let mut upload = pin!(upload);
    let response = {
        let answer = async {
            connection
                .sender
                .ready()
                .await
                .map_err(|_error| Failure::Terminated)?;
            connection
                .sender
                .send_request(outgoing)
                .await
                .map_err(|_error| Failure::Terminated)
        };
        let mut answer = pin!(answer);
        tokio::select! {
            biased;
            why = upload.as_mut() => return Err(why.unwrap_or_else(|why| why)),
            answer = answer.as_mut() => answer?,
        }
    };
    if again(response.status()) {
        return Ok(Answered::Again);
    }
    let (parts, incoming) = response.into_parts();
    let head = ResponseHead {
        status: parts.status,
        headers: parts.headers,
    };
    let framing = http2_framing(&head, &incoming, request.head.method == Method::HEAD);
    let mut answer = ResponseBody::Http2(incoming);
    let head = Head {
        response: head,
        framing,
        is_early: !sent.get(),
    };
    let passed = relay(request, head, &mut answer, client, info, upload).await?;
    Ok(if passed {
        Answered::Whole {
            leftover: !sent.get(),
        }
    } else {
        Answered::BrokeOff
    })
}

fn http2_framing(head: &ResponseHead, body: &hyper::body::Incoming, to_head: bool) -> Framing {
    if body.is_end_stream() || to_head {
        return Framing::None;
    }
    let length = head.headers.get(http::header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
    length.map_or(Framing::Chunked, Framing::Length)
}

async fn upload_http2(feed: &Feed, body: &mut RequestBody<'_>) -> Result<(), Broken> {
    while let Some(piece) = body.next().await? {
        let frame = match piece {
            Piece::Data(data) => Frame::data(data),
            Piece::Trailers(trailers) => Frame::trailers(trailers),
        };
        if !feed.send(frame).await {
            std::future::pending::<()>().await;
        }
    }
    feed.end().await;
    Ok(())
}

fn http2_request(head: &RequestHead, body: Fed) -> Option<http::Request<Fed>> {
    let uri = Uri::builder()
        .scheme("http")
        .authority(head.authority.as_deref().unwrap_or_default())
        .path_and_query(head.path.as_str())
        .build()
        .ok()?;
    let mut request = http::Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri;
    let headers: &mut HeaderMap = request.headers_mut();
    headers.clone_from(&head.headers);
    headers.remove(http::header::TRANSFER_ENCODING);
    Some(request)
}

/// The head of an answer that is passed on.
struct Head {
    response: ResponseHead,
    framing: Framing,
    /// It came before all of the request had gone.
    is_early: bool,
}

/// Passes an answer on; false if it broke off. `upload` goes on beside it.
async fn relay(
    request: &Request<'_>,
    head: Head,
    answer: &mut ResponseBody<'_>,
    client: &mut Client<'_>,
    info: &mut StreamInfo,
    mut upload: Pin<&mut impl Future<Output = Result<Failure, Failure>>>,
) -> Result<bool, Failure> {
    let Head {
        response: mut head,
        framing,
        is_early,
    } = head;
    let upgraded = request.upgrade && head.status == StatusCode::SWITCHING_PROTOCOLS;
    if request.upgrade && !upgraded {
        return Err(Failure::NotUpgraded(head.status));
    }
    // A request that has not gone whole, or never will, has no time that the host took.
    let took = (!is_early && !upgraded).then(|| info.since_sent());
    headers::to_downstream(request.config, &mut head.headers, took, upgraded);
    if is_early && let Client::Http1(client) = client {
        // What follows of the body cannot be told from a new request.
        client.close = true;
    }
    info.status = head.status.as_u16();
    info.details = "via_upstream".into();
    client.push_head(&head, framing);
    info.response_headers = head.headers;
    let sent = &mut info.sent;
    let ended = {
        let mut pass = pin!(pass(answer, client, sent));
        tokio::select! {
            biased;
            ended = pass.as_mut() => ended,
            why = upload.as_mut() => Err(Cut::Failed(why.unwrap_or_else(|why| why))),
        }
    };
    match ended {
        Ok(()) => Ok(true),
        Err(Cut::Client | Cut::Failed(Failure::ClientGone)) => Err(Failure::ClientGone),
        Err(Cut::Host) => {
            info.broke_off();
            Ok(false)
        }
        Err(Cut::Failed(Failure::TimedOut)) => {
            info.flags.set(Flags::UPSTREAM_REQUEST_TIMEOUT);
            info.details = "response_timeout".into();
            Ok(false)
        }
        Err(Cut::Failed(_)) => Ok(false),
    }
}

/// What ended an answer before its end.
enum Cut {
    Client,
    Host,
    Failed(Failure),
}

async fn pass(answer: &mut ResponseBody<'_>, client: &mut Client<'_>, sent: &mut u64) -> Result<(), Cut> {
    let mut batch = Batch::default();
    loop {
        if answer.has_long_rest() && matches!(client, Client::Http1(_)) {
            batch.push(client, sent).await?;
            client.flush().await.map_err(|_gone| Cut::Client)?;
            if let Client::Http1(to) = &*client {
                let rest = answer.pass_rest(to.write.as_ref(), |length| *sent += length);
                rest.await.map_err(|broke| match broke {
                    pass::Broke::Writing => Cut::Client,
                    pass::Broke::Reading | pass::Broke::Reset => Cut::Host,
                })?;
            }
        }
        // What is there already goes out as one.
        let next = if let Some(next) = answer.next().now_or_never() {
            next
        } else {
            batch.push(client, sent).await?;
            client.flush().await.map_err(|_gone| Cut::Client)?;
            answer.next().await
        };
        match next {
            Ok(Some(Piece::Data(data))) => {
                batch.add(data);
                if batch.length > BACKLOG {
                    batch.push(client, sent).await?;
                }
            }
            Ok(Some(trailers @ Piece::Trailers(_))) => {
                batch.push(client, sent).await?;
                client.push(trailers).await.map_err(|_gone| Cut::Client)?;
            }
            Ok(None) => {
                batch.push(client, sent).await?;
                return client.finish().await.map_err(|_gone| Cut::Client);
            }
            // What came together with what is malformed is not passed on.
            Err(Broke::Malformed) => return Err(Cut::Host),
            Err(Broke::Early | Broke::Reset) => {
                batch.push(client, sent).await?;
                return Err(Cut::Host);
            }
        }
    }
}

/// Pieces of a body that came together.
#[derive(Default)]
struct Batch {
    pieces: Vec<Bytes>,
    length: usize,
}

impl Batch {
    fn add(&mut self, data: Bytes) {
        self.length += data.len();
        self.pieces.push(data);
    }

    async fn push(&mut self, client: &mut Client<'_>, sent: &mut u64) -> Result<(), Cut> {
        let data = match self.pieces.as_mut_slice() {
            [] => return Ok(()),
            [one] => std::mem::take(one),
            several => several.concat().into(),
        };
        *sent += u64::try_from(data.len()).unwrap_or(0);
        (self.length, self.pieces) = (0, Vec::new());
        client.push(Piece::Data(data)).await.map_err(|_gone| Cut::Client)
    }
}

/// What a host's counters make of the end of a try.
pub(super) fn count(host: &Host, result: &Result<Answered, Failure>, status: u16) {
    match result {
        Ok(_) if status < 500 => more(&host.rq_success),
        Err(Failure::TimedOut) => more(&host.rq_timeout),
        Err(Failure::ClientGone | Failure::ClientMalformed | Failure::NotUpgraded(_)) => {}
        Ok(_) | Err(_) => more(&host.rq_error),
    }
}
