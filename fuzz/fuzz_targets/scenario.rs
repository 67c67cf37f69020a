//! Scenario files. A text is a scenario, or has mistakes that can be shown, each in a line that the text has; of a scenario
//! a plan can be made.

#![no_main]

use lab::plan::Plan;
use lab::scenario::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match parse("fuzz.yaml", text) {
        Ok(loaded) => {
            let plan = Plan::new(&loaded.scenario);
            assert_eq!(plan.pods.len(), loaded.scenario.pods.len());
            assert!(loaded.warnings.iter().all(|warning| !warning.render().is_empty()));
        }
        Err(mistakes) => {
            assert!(!mistakes.render().is_empty());
            assert!(mistakes.locations().count() > 0);
            // The end of a text is in the line behind its last.
            let last = text.replace("\r\n", "\n").split(['\n', '\r']).count() + 1;
            for location in mistakes.locations() {
                assert!(
                    (1..=last).contains(&location.line) && location.column >= 1,
                    "{location:?}"
                );
            }
        }
    }
});
