//! Questions to an agent's DNS, with any name table and any resolv.conf. Two bytes say how long the table and the
//! resolv.conf are, the question is the rest. Whatever is answered is a message that the asker can read: of the question's
//! own id and question, in no more bytes than the asker takes; and nobody is answered who answered.

#![no_main]

use hickory_proto::op::{Message, MessageType, ResponseCode};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use proxy::agent::dns::answered_here;
use proxy::xds::name_table::NameTable;

const NODE: &str = "sidecar~10.244.0.10~shop.default~default.svc.cluster.local";

fuzz_target!(|bytes: &[u8]| {
    let Some((&[table, resolv_conf], rest)) = bytes.split_first_chunk() else {
        return;
    };
    let Some((table, rest)) = rest.split_at_checked(table.into()) else {
        return;
    };
    let Some((resolv_conf, asked)) = rest.split_at_checked(resolv_conf.into()) else {
        return;
    };
    let told = NameTable::decode(table).ok();
    let resolv_conf = String::from_utf8_lossy(resolv_conf);
    let Some(reply) = answered_here(told.as_ref(), NODE, &resolv_conf, asked) else {
        return;
    };
    let question = Message::from_vec(asked).expect("what was answered is a message");
    let answer = Message::from_vec(&reply).expect("the answer is a message");
    assert_eq!(question.metadata.message_type, MessageType::Query);
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    assert_eq!(answer.metadata.id, question.metadata.id);
    assert!(reply.len() <= usize::from(question.max_payload()), "too long");
    assert!(answer.answers.is_empty() || answer.metadata.response_code == ResponseCode::NoError);
    assert!(answer.answers.is_empty() || answer.queries == question.queries);
    let again = answered_here(told.as_ref(), NODE, &resolv_conf, &reply);
    assert_eq!(again, None, "an answer to an answer");
});
