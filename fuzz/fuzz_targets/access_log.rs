//! Lines of access logs. A line is an entry or a mistake that shows the line; an entry's fields, written out, are the same
//! entry.

#![no_main]

use lab::observe::access_log::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| {
    match parse("pod", line) {
        Err(error) => assert!(error.to_string().contains(line)),
        Ok(entry) => {
            let line = serde_json::to_string(&entry.fields).expect("fields are JSON");
            let again = parse("pod", &line).expect("the same fields are the same entry");
            // A number with a fraction may lose its last digit.
            let fields = entry.fields.clone();
            assert_eq!(entry, lab::observe::access_log::Entry { fields, ..again });
            assert!(entry.response_flags.iter().all(|flag| flag != "-"));
            assert_ne!(entry.response_code, Some(0));
        }
    }
});
