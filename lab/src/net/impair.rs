//! Delay and loss on a link: the kernel's netem, by rtnetlink.

use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};

use super::link::{Error, Links};

/// Attributes of a traffic control message (`linux/rtnetlink.h`), and of netem's options (`linux/pkt_sched.h`).
const TCA_OPTIONS: u16 = 2;
const TCA_NETEM_LATENCY64: u16 = 10;
const TCA_NETEM_JITTER64: u16 = 11;

/// How many packets may be on their way (tc's default).
const LIMIT: u32 = 1000;

impl Links {
    /// Delays what leaves by this link, and drops a share of it (0 to 1).
    pub async fn impair(
        &self,
        index: u32,
        delay: Duration,
        jitter: Duration,
        loss: f64,
    ) -> Result<(), Error> {
        let mut message = root(index);
        message.attributes.extend([
            TcAttribute::Kind("netem".to_owned()),
            TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options(delay, jitter, loss))),
        ]);
        let what = format!(
            "adding netem to link {index} (the kernel needs CONFIG_NET_SCH_NETEM; load the module sch_netem)"
        );
        let message = RouteNetlinkMessage::NewQueueDiscipline(message);
        self.ask(what, message, NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// Lets everything pass again.
    pub async fn mend(&self, index: u32) -> Result<(), Error> {
        let what = format!("removing netem from link {index}");
        let message = RouteNetlinkMessage::DelQueueDiscipline(root(index));
        match self.ask(what, message, 0).await {
            // There was none.
            Err(Error::Request {
                source: rtnetlink::Error::NetlinkError(error),
                ..
            }) if error.raw_code() == -libc::ENOENT => Ok(()),
            done => done,
        }
    }
}

fn root(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = TcHandle::ROOT;
    message
}

/// `struct tc_netem_qopt`, then attributes: the 64-bit times, in nanoseconds, stand for the struct's own, in ticks.
fn options(delay: Duration, jitter: Duration, loss: f64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in [0, LIMIT, share(loss), 0, 0, 0] {
        bytes.extend(number.to_ne_bytes());
    }
    for (kind, time) in [(TCA_NETEM_LATENCY64, delay), (TCA_NETEM_JITTER64, jitter)] {
        bytes.extend(12_u16.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX).to_ne_bytes());
    }
    bytes
}

/// A share of all values of 32 bits.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the number is between 0 and u32::MAX"
)]
fn share(loss: f64) -> u32 {
    (loss.clamp(0.0, 1.0) * f64::from(u32::MAX)).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_laid_out_as_the_kernel_reads_them() {
        let bytes = options(Duration::from_millis(20), Duration::ZERO, 0.5);
        assert_eq!(bytes.len(), 24 + 2 * 12);
        assert_eq!(bytes[8..12], 2_147_483_648_u32.to_ne_bytes());
        assert_eq!(
            bytes[24..28],
            [12_u16.to_ne_bytes(), 10_u16.to_ne_bytes()].concat()
        );
        assert_eq!(bytes[28..36], 20_000_000_i64.to_ne_bytes());
        assert_eq!(share(0.0), 0);
        assert_eq!(share(1.0), u32::MAX);
    }

    /// `TCA_OPTIONS` of `tc qdisc add dev lo root netem loss 10%` (iproute2 6.1.0), taken off its socket.
    const OF_TC: [u8; 24] = [
        0, 0, 0, 0, 0xe8, 0x03, 0, 0, 0x9a, 0x99, 0x99, 0x19, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    #[test]
    fn loss_is_asked_for_as_tc_does() {
        let bytes = options(Duration::ZERO, Duration::ZERO, 0.1);
        assert_eq!(bytes[..24], OF_TC);
    }
}
