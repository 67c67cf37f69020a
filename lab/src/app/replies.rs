//! Answers whose bodies are more than a text: long, slow, with trailers, or what came sent back as it comes.

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use serde_json::json;

use super::serve::{json_response, text};
use crate::client::content::Content;
use crate::client::http::Outgoing;
use crate::client::raw::pause;

/// The body of an answer.
pub(super) type Reply = UnsyncBoxBody<Bytes, hyper::Error>;

fn boxed(body: Outgoing) -> Reply {
    body.map_err(|never| match never {}).boxed_unsync()
}

/// These bytes, with their length.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Reply {
    boxed(Outgoing::bytes(bytes))
}

/// Takes the body away and leaves its length: hyper does this for HEAD of HTTP/1 alone.
pub(super) fn headers_alone(response: &mut Response<Reply>) {
    if let Some(length) = response.body().size_hint().exact() {
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    *response.body_mut() = whole(Bytes::new());
}

/// So many bytes of the pattern, with their length.
pub(super) fn bytes(length: u64) -> Response<Reply> {
    Response::new(boxed(Outgoing::pattern(length)))
}

/// So many bytes of the pattern, in chunks.
pub(super) fn chunked(length: u64) -> Response<Reply> {
    Response::new(boxed(Outgoing::pattern(length).chunked()))
}

/// So many lines, with so many milliseconds before each.
pub(super) fn drip(lines: u64, millis: u64) -> Response<Reply> {
    let lines = stream::unfold(0, move |number| async move {
        if number == lines {
            return None;
        }
        pause(millis).await;
        let line = Bytes::from(format!("line {number}\n"));
        Some((Ok::<_, hyper::Error>(Frame::data(line)), number + 1))
    });
    Response::new(StreamBody::new(lines).boxed_unsync())
}

/// Reads the whole body, and tells what it was.
pub(super) async fn sink(mut body: Incoming) -> Response<Reply> {
    let (mut content, mut trailers) = (Content::default(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return text(400, &error.to_string()),
        };
        if let Some(bytes) = frame.data_ref() {
            content.push(bytes);
        }
        for (name, value) in frame.trailers_ref().into_iter().flatten() {
            trailers.push((
                name.as_str().to_owned(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            ));
        }
    }
    let told = json!({ "length": content.length(), "sha256": content.sha256(), "trailers": trailers });
    json_response(200, &told)
}

/// A body in chunks with a trailer after it.
pub(super) fn with_trailers() -> Response<Reply> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-trailer", HeaderValue::from_static("at the end"));
    let body = boxed(Outgoing::bytes("body\n").followed_by(trailers));
    let mut response = Response::new(body);
    let announced = HeaderValue::from_static("x-trailer");
    response.headers_mut().insert(header::TRAILER, announced);
    response
}

fn grpc(body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn grpc_status(code: &'static str, message: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    trailers
}

/// gRPC: all messages back, once all have come.
pub(super) async fn grpc_unary(body: Incoming) -> Response<Reply> {
    match body.collect().await {
        Ok(body) => grpc(boxed(
            Outgoing::bytes(body.to_bytes()).followed_by(grpc_status("0", "fine")),
        )),
        Err(error) => text(400, &error.to_string()),
    }
}

/// gRPC: each message back as it comes, then trailers.
pub(super) fn grpc_stream(body: Incoming) -> Response<Reply> {
    let frames = stream::unfold(Some(body), |body| async move {
        let mut body = body?;
        match body.frame().await {
            Some(Ok(frame)) if frame.is_data() => Some((Ok(frame), Some(body))),
            Some(Err(error)) => Some((Err(error), None)),
            Some(Ok(_)) | None => Some((Ok(Frame::trailers(grpc_status("0", "fine"))), None)),
        }
    });
    grpc(StreamBody::new(frames).boxed_unsync())
}

/// gRPC: no message, and the status in the headers.
pub(super) fn grpc_fail() -> Response<Reply> {
    let mut response = grpc(whole(Bytes::new()));
    response
        .headers_mut()
        .extend(grpc_status("14", "unavailable for the test"));
    response
}
