//! A small HTTP server for whoever collects the metrics.

#[cfg(windows)]
#[path = "exporter/no_socket.rs"]
mod socket;
#[cfg(target_os = "linux")]
mod socket;

use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use crate::error::{Error, ErrorKind, Result};
use crate::service::Service;

/// What the text format calls itself.
const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where the metrics are served.
#[derive(Debug)]
pub(crate) enum Exporter {
    /// To whoever reaches the address.
    Tcp(TcpListener),
    /// To the daemon's own user.
    Socket(socket::Listener),
}

impl Exporter {
    /// Listens on `host:port`, or on the socket of an absolute path.
    ///
    /// # Errors
    /// `AddressTaken`, `Io`.
    pub(crate) async fn listen(address: &str) -> Result<Self> {
        if let Some(listener) = socket::Listener::bind(address)? {
            return Ok(Self::Socket(listener));
        }
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::AddrInUse => ErrorKind::AddressTaken,
                _ => ErrorKind::Io,
            };
            Error::caused(kind, format!("cannot serve metrics on {address}"), error)
        })?;
        Ok(Self::Tcp(listener))
    }

    /// Where it listens, with the port that was found for port 0.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| String::new(), |address| address.to_string())
            }
            Self::Socket(listener) => listener.address(),
        }
    }

    /// Answers until it is dropped.
    pub(crate) async fn serve(self, service: Service) {
        loop {
            let accepted = match &self {
                Self::Tcp(listener) => {
                    listener.accept().await.map(|(stream, _)| answer(stream, &service))
                }
                Self::Socket(listener) => {
                    listener.accept().await.map(|stream| answer(stream, &service))
                }
            };
            if let Err(error) = accepted {
                tracing::warn!("cannot accept a connection for metrics: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, service: &Service) {
    let service = service.clone();
    let handler = service_fn(move |request: Request<Incoming>| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(respond(&request, service).await) }
    });
    tokio::spawn(async move {
        let mut connection = http1::Builder::new();
        // A client that sends no request is not waited for for ever.
        connection.timer(TokioTimer::new()).header_read_timeout(std::time::Duration::from_secs(30));
        let _ = connection.serve_connection(TokioIo::new(stream), handler).await;
    });
}

async fn respond(request: &Request<Incoming>, service: Service) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let text = service
                .blocking(|service| {
                    let text = service.metrics().text(service);
                    text.map_err(|error| tonic::Status::internal(error.to_string()))
                })
                .await;
            match text {
                Ok(text) => (StatusCode::OK, text),
                Err(status) => {
                    (StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", status.message()))
                }
            }
        }
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "only /metrics is here\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = if status == StatusCode::OK { TYPE } else { "text/plain; charset=utf-8" };
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
