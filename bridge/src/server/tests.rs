use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{Header, write_message};

/// Answers everything with as many bytes as the body says, or refuses.
struct Sized;

impl Handler for Sized {
    fn handle(&self, request: &Incoming) -> Result<Option<Vec<u8>>> {
        let size: usize = decode(request)?;
        if size == 0 {
            return Err(Error::refused(ResultCode::FAIL, "é".repeat(100_000)));
        }
        Ok(Some(vec![b' '; size]))
    }
}

fn serve() -> (UnixStream, thread::JoinHandle<Result<()>>) {
    let (host, guest) = UnixStream::pair().unwrap();
    host.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let server = Server::new(Connection::unix(guest).unwrap());
    (host, thread::spawn(move || server.serve(Arc::new(Sized), ServeLimits::default())))
}

fn ask(host: &mut UnixStream, kind: Kind, id: u64, body: &[u8]) {
    write_message(host, kind, Method::START, id, body, MAX_TO_GUEST).unwrap();
}

#[test]
fn every_answer_fits_the_host() {
    let (mut host, serving) = serve();
    for (body, code) in
        [("100000", ResultCode::FAIL), ("0", ResultCode::FAIL), ("{", ResultCode::INVALID_JSON)]
    {
        ask(&mut host, Kind::Request, 9, body.as_bytes());
        let (header, body) = read_message(&mut host, MAX_TO_HOST).unwrap().unwrap();
        assert_eq!((header.kind, header.id, header.method), (Kind::Response, 9, Method::START));
        let base: ResponseBase = serde_json::from_slice(&body).unwrap();
        assert_eq!(base.result, code);
        assert_eq!(base.error_records.len(), 1);
    }
    // Neither is for a guest; nothing comes back but the answer to the request behind them.
    ask(&mut host, Kind::Response, 1, b"{}");
    ask(&mut host, Kind::Notification, 2, b"{}");
    ask(&mut host, Kind::Request, 3, b"5");
    assert_eq!(read_message(&mut host, MAX_TO_HOST).unwrap().unwrap().0.id, 3);
    drop(host);
    serving.join().unwrap().unwrap();
}

#[test]
fn bytes_that_are_no_frame_end_the_connection() {
    let (mut host, serving) = serve();
    host.write_all(&[0xff; 64]).unwrap();
    assert_eq!(serving.join().unwrap().unwrap_err().kind(), ErrorKind::Malformed);
    assert!(read_message(&mut host, MAX_TO_HOST).unwrap_or(None).is_none(), "it is shut down");

    let (mut host, serving) = serve();
    let header =
        Header { kind: Kind::Request, method: Method::START, size: MAX_TO_GUEST + 1, id: 1 };
    host.write_all(&header.encode()).unwrap();
    assert_eq!(serving.join().unwrap().unwrap_err().kind(), ErrorKind::TooLarge);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (mut host, serving) = serve();
        // The guest may have closed already.
        let _ = host.write_all(&bytes);
        host.shutdown(std::net::Shutdown::Both).unwrap();
        prop_assert!(serving.join().is_ok(), "it panicked");
    }

    #[test]
    fn any_body_of_any_method_is_answered(number in 0_u16..0x1000, body in prop::collection::vec(any::<u8>(), 0..60)) {
        let (mut host, _serving) = serve();
        write_message(&mut host, Kind::Request, Method::container(number), 8, &body, MAX_TO_GUEST).unwrap();
        let (header, _) = read_message(&mut host, u32::MAX).unwrap().unwrap();
        prop_assert_eq!(header.id, 8);
    }
}
