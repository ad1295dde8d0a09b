//! Metrics for Prometheus, read from the kernel's maps whenever they are asked for.
//!
//! | what | module |
//! | --- | --- |
//! | what is read of each group | `collector` |
//! | which metrics that makes (pure) | `families` |
//! | the bounds of histograms (pure) | `histogram` |
//! | how histograms become text (pure) | `pattern` |
//! | where they go: HTTP, or a file | `server`, `textfile` |

mod collector;
mod families;
mod histogram;
mod pattern;
pub mod server;
pub mod textfile;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result};
use balancer_steering::{service::ServiceName, steering::Store};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, prometheus_text, text},
    registry::Registry,
};

use self::collector::GroupCollector;

/// A form that metrics are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' older one, which everything reads that reads metrics.
    Prometheus,
}

impl Format {
    /// The best one that a client takes, by the header `Accept` of its request.
    pub fn accepted(accept: &str) -> Self {
        let takes = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let refused = |part: &str| {
                let quality = part.strip_prefix("q=").and_then(|q| q.parse::<f64>().ok());
                quality.is_some_and(|quality| quality <= 0.0)
            };
            name.eq_ignore_ascii_case("application/openmetrics-text") && !parts.any(refused)
        };
        if accept.split(',').any(takes) { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// Its name in HTTP.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Adds to a text what `part` writes.
    fn encode<F>(self, text: &mut String, part: F) -> fmt::Result
    where
        F: Fn(&mut DescriptorEncoder<'_>) -> fmt::Result + Send + Sync + 'static,
    {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Part(part)));
        match self {
            Self::OpenMetrics => text::encode_registry(text, &registry),
            Self::Prometheus => prometheus_text::encode(text, &registry),
        }
    }

    /// Adds to a text what must come last.
    fn finish(self, text: &mut String) -> fmt::Result {
        match self {
            Self::OpenMetrics => text::encode_eof(text),
            Self::Prometheus => Ok(()),
        }
    }
}

/// A part of the text.
struct Part<F>(F);

impl<F> fmt::Debug for Part<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Part")
    }
}

impl<F> Collector for Part<F>
where
    F: Fn(&mut DescriptorEncoder<'_>) -> fmt::Result + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(&mut encoder)
    }
}

/// Everything that there is to measure. Several threads may scrape at once.
pub struct Metrics {
    collector: GroupCollector,
    /// How long the last text was: the next is about as long.
    length: AtomicUsize,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Of one group, of those of a service, or of all there are; with requests tracked for as long as this value lives, if
    /// `observe` says so.
    ///
    /// # Errors
    /// Returns an error if the groups cannot be listed, or requests cannot be tracked.
    pub fn new(
        store: &Store,
        group: Option<&str>,
        service: Option<ServiceName>,
        observe: bool,
    ) -> Result<Self> {
        let collector = GroupCollector::new(store, group, service, observe)?;
        Ok(Self { collector, length: AtomicUsize::new(0) })
    }

    /// All metrics as they are now. A group that cannot be read is counted as an error, and the others
    /// are there.
    ///
    /// # Errors
    /// Returns an error if they cannot be written as text.
    pub fn scrape(&self, format: Format) -> Result<String> {
        let mut text = String::with_capacity(self.length.load(Ordering::Relaxed));
        let reading = Arc::new(self.collector.read());
        families::write(&mut text, format, &reading, self.collector.bounds())
            .context("cannot write metrics as text")?;
        self.length.store(text.len(), Ordering::Relaxed);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_openmetrics_if_it_takes_that() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
        for accept in [prometheus, "text/plain, application/openmetrics-text ; q=0.1"] {
            assert_eq!(Format::accepted(accept), Format::OpenMetrics, "{accept}");
        }
        for accept in ["", "*/*", "text/html", "application/openmetrics-text;q=0, */*"] {
            assert_eq!(Format::accepted(accept), Format::Prometheus, "{accept}");
        }
    }
}
