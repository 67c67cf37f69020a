//! Questions to the cluster's DNS server. Whatever is answered is a message that the asker can read: an answer with the
//! question's own id, of the question's own name; and nobody is answered who answered.

#![no_main]

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use lab::dns::Records;
use libfuzzer_sys::fuzz_target;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 1, 1);

fuzz_target!(|bytes: &[u8]| {
    let records = Records::new(&[("reviews".to_owned(), ADDRESS.into())]);
    let Some(reply) = records.reply(bytes) else { return };
    let question = Message::from_vec(bytes).expect("what was answered is a message");
    let answer = Message::from_vec(&reply).expect("the answer is a message");
    assert_eq!(question.metadata.message_type, MessageType::Query);
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    assert_eq!(answer.metadata.id, question.metadata.id);
    assert_eq!(
        answer.metadata.recursion_desired,
        question.metadata.recursion_desired
    );
    assert!(u16::try_from(reply.len()).is_ok(), "too long for TCP");
    if let Some(query) = answer.queries.first() {
        assert_eq!(Some(query), question.queries.first());
        let is_ours = query.name().to_lowercase().to_string().starts_with("reviews.");
        assert!(answer.answers.is_empty() || is_ours);
        assert!(answer.answers.is_empty() || answer.metadata.response_code == ResponseCode::NoError);
    }
    assert_eq!(records.reply(&reply), None, "an answer to an answer");
});
