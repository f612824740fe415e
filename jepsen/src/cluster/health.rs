//! What nodes say about themselves, without a grant: readiness, state hashes, metrics.

use anyhow::{Context, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest answer read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// A node that is cut off is not waited for longer.
const CONNECT_MAX: Duration = Duration::from_millis(500);
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// `GET path` of the health plane: status and body.
///
/// # Errors
/// When it does not answer in time.
pub fn get(at: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&at, CONNECT_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.context("no status line")?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, b)| b);
    Ok((status, body.to_owned()))
}

/// Whether it serves; if not, what it says it waits for.
///
/// # Errors
/// When it does not answer, or is not ready.
pub fn ready(at: SocketAddr) -> anyhow::Result<()> {
    let (status, body) = get(at, "/readyz")?;
    ensure!(status == 200, "{status}: {}", body.trim());
    Ok(())
}

/// A group's state: group, applied index, hash.
pub type GroupState = (u64, u64, String);

/// The hash of every group's state.
///
/// # Errors
/// When it does not answer.
pub fn state_hashes(at: SocketAddr) -> anyhow::Result<Vec<GroupState>> {
    let (status, body) = get(at, "/state-hash")?;
    ensure!(status == 200, "{status}: {body}");
    let groups: Vec<serde_json::Value> = serde_json::from_str(&body)?;
    let one = |g: &serde_json::Value| {
        Some((
            g["group"].as_u64()?,
            g["applied"].as_u64()?,
            g["hash"].as_str()?.to_owned(),
        ))
    };
    groups
        .iter()
        .map(|g| one(g).context(body.clone()))
        .collect()
}

/// One figure of the metrics page, summed over its labels; 0 when it is not there.
///
/// # Errors
/// When it does not answer.
pub fn metric(at: SocketAddr, name: &str) -> anyhow::Result<f64> {
    let (status, page) = get(at, "/metrics")?;
    ensure!(status == 200, "{status}");
    Ok(sum_of(&page, name))
}

fn sum_of(page: &str, name: &str) -> f64 {
    page.lines()
        .filter_map(|l| l.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_summed_over_its_labels_and_no_other() {
        let page = "# TYPE a gauge\na{x=\"1\"} 2\na{x=\"2\"} 3.5\nab 7\na 1\n";
        assert_eq!(sum_of(page, "a"), 6.5);
        assert_eq!(sum_of(page, "b"), 0.0);
    }
}
