//! Response flags: Envoy's short words for what went wrong (`envoy/stream_info/stream_info.h`).

use std::fmt;

/// The flags of a stream, in the order in which they are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u32);

macro_rules! flags {
    ($($name:ident $short:literal $doc:literal;)*) => {
        impl Flags {
            flags!(@constants 0, $($name $doc;)*);
        }
        /// Short names in the order of the bits.
        const NAMES: &[&str] = &[$($short),*];
    };
    (@constants $bit:expr, $name:ident $doc:literal; $($rest:tt)*) => {
        #[doc = $doc]
        pub const $name: Self = Self(1 << $bit);
        flags!(@constants $bit + 1, $($rest)*);
    };
    (@constants $bit:expr,) => {};
}

flags! {
    NO_HEALTHY_UPSTREAM "UH" "No host to send it to.";
    RETRY_LIMIT_EXCEEDED_HTTP "URX" "An HTTP request was tried as often as allowed.";
    UPSTREAM_CONNECTION_FAILURE "UF" "The host could not be connected to.";
    RETRY_LIMIT_EXCEEDED_TCP "URX" "A TCP connection was tried as often as allowed.";
    UPSTREAM_CONNECTION_TERMINATION "UC" "The host closed the connection.";
    UPSTREAM_REQUEST_TIMEOUT "UT" "The host did not answer in time.";
    UPSTREAM_PROTOCOL_ERROR "UPE" "The host's answer was not HTTP.";
    NO_ROUTE_FOUND "NR" "No route, or no filter chain.";
    NO_CLUSTER_FOUND "NC" "The route's cluster is unknown.";
    DOWNSTREAM_PROTOCOL_ERROR "DPE" "The client's request was not HTTP.";
    UPSTREAM_REMOTE_RESET "UR" "The host reset the connection.";
    DOWNSTREAM_REMOTE_RESET "DR" "The client reset the connection.";
    DOWNSTREAM_CONNECTION_TERMINATION "DC" "The client went away.";
    STREAM_IDLE_TIMEOUT "SI" "Nothing moved for too long.";
}

impl Flags {
    /// Sets these too.
    pub const fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// True if all of these are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// As access logs have it: comma-separated, `-` if none is set.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut any = false;
        for (bit, name) in NAMES.iter().enumerate() {
            if self.0 & (1 << bit) != 0 {
                if any {
                    f.write_str(",")?;
                }
                f.write_str(name)?;
                any = true;
            }
        }
        if any { Ok(()) } else { f.write_str("-") }
    }
}

#[cfg(test)]
mod tests {
    use super::Flags;

    #[test]
    fn http_and_tcp_print_as_envoy_was_seen_to() {
        let mut flags = Flags::default();
        assert_eq!(flags.to_string(), "-");
        flags.set(Flags::UPSTREAM_CONNECTION_FAILURE);
        flags.set(Flags::RETRY_LIMIT_EXCEEDED_HTTP);
        assert_eq!(flags.to_string(), "URX,UF");
        let mut flags = Flags::default();
        flags.set(Flags::RETRY_LIMIT_EXCEEDED_TCP);
        flags.set(Flags::UPSTREAM_CONNECTION_FAILURE);
        assert_eq!(flags.to_string(), "UF,URX");
    }
}
