//! How a client of HTTP/2 breaks the protocol, and what Envoy makes of it.

/// An error code (RFC 9113, 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// `NO_ERROR`.
    NoError,
    /// `PROTOCOL_ERROR`.
    Protocol,
    /// `STREAM_CLOSED`.
    StreamClosed,
    /// `FRAME_SIZE_ERROR`.
    FrameSize,
    /// `COMPRESSION_ERROR`.
    Compression,
}

/// What a client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    /// A frame that cannot be decoded: the client is told.
    Frame(Code),
    /// A frame that is out of place.
    Rule,
    /// A head that is no request's.
    Head,
}

impl Code {
    /// As frames have it.
    pub const fn number(self) -> u32 {
        match self {
            Self::NoError => 0,
            Self::Protocol => 1,
            Self::StreamClosed => 5,
            Self::FrameSize => 6,
            Self::Compression => 9,
        }
    }
}

impl Offence {
    /// What an error that hyper sends means; none if it is no answer to an offence. `of_head`: a head came last on the
    /// stream that is reset.
    pub fn told_by_hyper(goes_away: bool, error: u32, of_head: bool) -> Option<Self> {
        const PROTOCOL: u32 = 1;
        const FLOW_CONTROL: u32 = 3;
        match error {
            _ if goes_away && error == Code::Compression.number() => Some(Self::Frame(Code::Compression)),
            // A name that HTTP does not have ends hyper's connection, another fault of a head its stream.
            PROTOCOL if of_head => Some(Self::Head),
            _ if goes_away => Some(Self::Rule),
            FLOW_CONTROL => Some(Self::Rule),
            _ => None,
        }
    }

    /// In Envoy's words, for the streams that end with it.
    pub const fn details(self) -> &'static str {
        match self {
            Self::Frame(_) => "codec_error:The_user_callback_function_failed",
            Self::Rule => "http2.unknown.nghttp2.error",
            Self::Head => "http2.invalid.header.field",
        }
    }
}
