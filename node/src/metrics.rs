//! One Prometheus recorder for the process.
//!
//! Nodes of an embedded deployment share it, so everything that counts per node
//! carries `cluster` and `node` labels. No label ever names an account, a chat
//! or a key.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;
use std::time::Duration;

/// How often histograms are folded, so that an unread page does not grow.
const UPKEEP: Duration = Duration::from_secs(5);

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// The recorder, installed at the first call. When another recorder is already
/// installed (a test harness), the page stays empty; nothing else changes.
pub fn handle() -> &'static PrometheusHandle {
    HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed; /metrics stays empty");
        }
        let upkeep = handle.clone();
        // Ends with the process; it holds nothing but the handle.
        std::thread::Builder::new()
            .name("metrics-upkeep".into())
            .spawn(move || {
                loop {
                    std::thread::sleep(UPKEEP);
                    upkeep.run_upkeep();
                }
            })
            .map_or_else(|e| tracing::warn!("no upkeep of metrics: {e}"), drop);
        handle
    })
}
