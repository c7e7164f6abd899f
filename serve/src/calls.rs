//! What every call goes through: the caller's right, its deadline, one span of the log, and the counters.

#[cfg(target_os = "linux")]
#[path = "calls/socket_caller.rs"]
mod caller;
#[cfg(windows)]
#[path = "calls/pipe_caller.rs"]
mod caller;

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service as TowerService};
use tracing::{Instrument as _, Span};

use crate::service::Service;

/// All methods of the socket, so that what strangers make up is no name in the metrics.
const METHODS: &[&str] = &[
    "containerd.services.diff.v1.Diff/Apply",
    "containerd.services.diff.v1.Diff/Diff",
    "containerd.services.mounts.v1.Mounts/Activate",
    "containerd.services.mounts.v1.Mounts/Deactivate",
    "containerd.services.mounts.v1.Mounts/Info",
    "containerd.services.mounts.v1.Mounts/List",
    "containerd.services.mounts.v1.Mounts/Update",
    "containerd.services.snapshots.v1.Snapshots/Cleanup",
    "containerd.services.snapshots.v1.Snapshots/Commit",
    "containerd.services.snapshots.v1.Snapshots/List",
    "containerd.services.snapshots.v1.Snapshots/Mounts",
    "containerd.services.snapshots.v1.Snapshots/Prepare",
    "containerd.services.snapshots.v1.Snapshots/Remove",
    "containerd.services.snapshots.v1.Snapshots/Stat",
    "containerd.services.snapshots.v1.Snapshots/Update",
    "containerd.services.snapshots.v1.Snapshots/Usage",
    "containerd.services.snapshots.v1.Snapshots/View",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "plywood.v1.Control/Call",
];

/// `Snapshots/Prepare` of a request's path.
fn method(path: &str) -> &'static str {
    let known = METHODS.iter().find(|known| path.strip_prefix('/') == Some(known));
    known.map_or("unknown", |known| known.rsplit('.').next().unwrap_or(known))
}

/// Puts [`Calls`] around the services.
#[derive(Debug, Clone)]
pub(crate) struct CallLayer {
    pub(crate) service: Service,
}

impl<S> Layer<S> for CallLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls { inner, service: self.service.clone(), allowed: caller::Allowed::now() }
    }
}

/// The services, with every call checked, bounded, logged and counted.
#[derive(Debug, Clone)]
pub(crate) struct Calls<S> {
    inner: S,
    service: Service,
    allowed: caller::Allowed,
}

impl<S> TowerService<http::Request<Body>> for Calls<S>
where
    S: TowerService<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = method(request.uri().path());
        let span = tracing::info_span!("call", method, key = tracing::field::Empty);
        let call = Call::begin(self.service.clone(), method, span.clone());
        if !self.allowed.may_call(&request) {
            let status = Status::permission_denied("only root and the daemon's own user may call");
            return Box::pin(std::future::ready(Ok(call.watch(status.into_http()))));
        }
        // Made here and not in the future, so that it rings before tonic's own, whose answer is another code.
        let alarm = deadline(request.headers()).map(tokio::time::sleep);
        let answer = self.inner.call(request);
        let bounded = async move {
            let Some(alarm) = alarm else { return Ok(call.watch(answer.await?)) };
            tokio::select! {
                biased;
                answer = answer => Ok(call.watch(answer?)),
                () = alarm => {
                    let status = Status::deadline_exceeded("the call took longer than its deadline");
                    Ok(call.watch(status.into_http()))
                }
            }
        };
        Box::pin(bounded.instrument(span))
    }
}

/// The `grpc-timeout` of a request: up to eight digits and a unit.
fn deadline(headers: &http::HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// One call from its request to the end of its answer. Dropped before that, it was cancelled.
struct Call {
    service: Service,
    method: &'static str,
    span: Span,
    since: Instant,
    ended: bool,
}

impl Call {
    fn begin(service: Service, method: &'static str, span: Span) -> Self {
        service.metrics().call_began();
        Self { service, method, span, since: Instant::now(), ended: false }
    }

    /// Follows the answer to its end.
    fn watch(mut self, answer: http::Response<Body>) -> http::Response<Body> {
        // An error without an answer comes as headers only.
        match Status::from_header_map(answer.headers()) {
            Some(status) => {
                self.end(status.code(), status.message());
                answer
            }
            None => answer.map(|body| Body::new(Watched { body, call: self })),
        }
    }

    fn end(&mut self, code: Code, message: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let took = self.since.elapsed();
        self.service.metrics().call_ended(self.method, code, took);
        let ms = took.as_secs_f64() * 1000.0;
        let (message, code) = (crate::text::one_line(message), format!("{code:?}"));
        let _inside = self.span.enter();
        match code.as_str() {
            "Internal" | "Unknown" | "DataLoss" | "ResourceExhausted" | "Unavailable" => {
                tracing::warn!(code, ms, "{message}");
            }
            "Ok" => tracing::debug!(code, ms, "done"),
            _ => tracing::debug!(code, ms, "{message}"),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled, "the caller went away");
    }
}

/// An answer's body, up to the trailers, where its code is.
struct Watched {
    body: Body,
    call: Call,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let status = Status::from_header_map(trailers);
                    let (code, message) = status
                        .as_ref()
                        .map_or((Code::Unknown, ""), |status| (status.code(), status.message()));
                    self.call.end(code, message);
                }
            }
            Some(Err(status)) => self.call.end(status.code(), status.message()),
            None => self.call.end(Code::Ok, ""),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_named_or_unknown() {
        assert_eq!(method("/plywood.v1.Control/Call"), "Control/Call");
        assert_eq!(method("/containerd.services.snapshots.v1.Snapshots/View"), "Snapshots/View");
        for strange in ["", "/", "plywood.v1.Control/Call", "/plywood.v1.Control/Cal", "//"] {
            assert_eq!(method(strange), "unknown");
        }
    }

    #[test]
    fn deadlines_as_grpc_writes_them() {
        let of = |text: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            deadline(&headers)
        };
        assert_eq!(of("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(of("3M"), Some(Duration::from_secs(180)));
        assert_eq!(of("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(of("5m"), Some(Duration::from_millis(5)));
        assert_eq!(of("6u"), Some(Duration::from_micros(6)));
        assert_eq!(of("7n"), Some(Duration::from_nanos(7)));
        for wrong in ["", "5", "m", "-1S", "+1S", "100000000S", "1 S", "1x", "1ms"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert_eq!(deadline(&http::HeaderMap::new()), None);
    }
}
