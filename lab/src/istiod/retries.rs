//! Istio's retry policies, which hide races if they are on.

use envoy_types::pb::envoy::config::route::v3::RetryPolicy;
use envoy_types::pb::envoy::config::route::v3::retry_policy::RetryHostPredicate;
use envoy_types::pb::envoy::config::route::v3::retry_policy::retry_host_predicate::ConfigType;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::util::pack_any;

use super::wire::number;

/// Istio's default policy for requests to services, with so many attempts after the first; none if there are none
/// (Istio, `retry.DefaultPolicy`).
pub(super) fn outbound(attempts: u32) -> Option<RetryPolicy> {
    (attempts > 0).then(|| RetryPolicy {
        retry_on: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes".to_owned(),
        num_retries: Some(number(attempts)),
        retriable_status_codes: vec![503],
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(ConfigType::TypedConfig(pack_any(PreviousHostsPredicate {}))),
        }],
        host_selection_retry_max_attempts: 5,
        ..RetryPolicy::default()
    })
}

/// Istio's policy for requests to the pod's own processes (`BuildDefaultHTTPInboundRoute`): always two attempts, unless
/// retries are off altogether.
pub(super) fn inbound(attempts: u32) -> Option<RetryPolicy> {
    (attempts > 0).then(|| RetryPolicy {
        retry_on: "reset-before-request".to_owned(),
        num_retries: Some(number(2)),
        ..RetryPolicy::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_attempts_is_no_policy() {
        assert_eq!(outbound(0), None);
        assert_eq!(inbound(0), None);
    }

    #[test]
    fn the_attempts_are_the_mesh_s_outbound_and_two_inbound() {
        assert_eq!(outbound(3).and_then(|policy| policy.num_retries), Some(number(3)));
        assert_eq!(inbound(3).and_then(|policy| policy.num_retries), Some(number(2)));
    }
}
