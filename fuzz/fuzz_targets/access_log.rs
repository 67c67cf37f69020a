//! Lines of access logs. A line is an entry or a mistake that shows the line; an entry's fields, written out, are the same
//! entry.

#![no_main]

use lab::observe::access_log::{Entry, parse};
use libfuzzer_sys::fuzz_target;

/// All that is read of a line. Not the line: a number with a fraction may lose its last digit.
fn read(entry: &Entry) -> String {
    let who = (&entry.pod, &entry.listener, &entry.filter_chain, &entry.route_name);
    let numbers = (entry.connection_id, entry.upstream_connection_id, entry.duration);
    let asked = (&entry.method, &entry.path, &entry.authority, &entry.request_id);
    let answered = (entry.response_code, &entry.response_flags, &entry.response_code_details);
    let upstream = (&entry.upstream_cluster, entry.upstream_host, entry.upstream_local_address);
    let downstream = (entry.downstream_local_address, entry.downstream_remote_address);
    format!("{:?}", (who, numbers, asked, answered, upstream, downstream, &entry.start_time))
}

fuzz_target!(|line: &str| {
    match parse("pod", line) {
        Err(error) => assert!(error.to_string().contains(line)),
        Ok(entry) => {
            let line = serde_json::to_string(&entry.fields()).expect("fields are JSON");
            let again = parse("pod", &line).expect("the same fields are the same entry");
            assert_eq!(read(&entry), read(&again));
            assert!(entry.response_flags.iter().all(|flag| flag != "-"));
            assert_ne!(entry.response_code, Some(0));
        }
    }
});
