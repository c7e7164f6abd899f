use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::*;
use crate::message::{
    ModifySettings, Negotiate, NegotiateResponse, RequestBase, ResponseBase, StartContainer,
    WaitForProcess,
};
use crate::{Cancel, Handler, Incoming, ServeLimits, Server, answer, decode, write_message};

fn second() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A guest that answers Negotiate, holds WaitForProcess until told, and refuses the rest.
struct Guest {
    release: Mutex<mpsc::Receiver<()>>,
}

impl Handler for Guest {
    fn handle(&self, request: &Incoming) -> Result<Option<Vec<u8>>> {
        match request.method {
            Method::NEGOTIATE_PROTOCOL => {
                let message: Negotiate = decode(request)?;
                let version = message.maximum_version;
                answer(request, NegotiateResponse { version, ..Default::default() })
            }
            Method::WAIT_FOR_PROCESS => {
                let _ = self.release.lock().unwrap().recv();
                answer(request, ResponseBase::default())
            }
            Method::START => panic!("a bug in one request"),
            _ => Err(Error::refused(ResultCode::SYSTEM_NOT_FOUND, "nobody here")),
        }
    }
}

fn pair() -> (Client, mpsc::Sender<()>, mpsc::Receiver<ContainerNotification>, crate::Notifier) {
    let (host, guest) = UnixStream::pair().unwrap();
    let (release, released) = mpsc::channel();
    let server = Server::new(Connection::unix(guest).unwrap());
    let notifier = server.notifier();
    let handler = Arc::new(Guest { release: Mutex::new(released) });
    thread::spawn(move || server.serve(handler, ServeLimits { requests: 4 }));
    let (told, notifications) = mpsc::channel();
    let notify = Box::new(move |notification| drop(told.send(notification)));
    let client = Client::new(Connection::unix(host).unwrap(), notify).unwrap();
    (client, release, notifications, notifier)
}

/// A client whose guest is the test itself.
fn raw() -> (Client, UnixStream) {
    let (host, guest) = UnixStream::pair().unwrap();
    guest.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let client = Client::new(Connection::unix(host).unwrap(), Box::new(|_| {})).unwrap();
    (client, guest)
}

#[test]
fn calls_are_answered_out_of_order() {
    let (client, release, _, _) = pair();
    let waiting = {
        let client = client.clone();
        thread::spawn(move || client.call(&WaitForProcess::default(), &second()))
    };
    let negotiated = client.call(&Negotiate::ours(), &second()).unwrap();
    assert_eq!(negotiated.version, 4);
    assert_eq!(negotiated.base.activity_id, crate::NULL_ACTIVITY, "the activity comes back");
    assert!(!waiting.is_finished());
    release.send(()).unwrap();
    waiting.join().unwrap().unwrap();
}

#[test]
fn a_refusal_has_its_code_and_words() {
    let (client, _release, _, _) = pair();
    let error = client.call(&crate::ShutdownForced::new("x"), &second()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(error.result(), Some(ResultCode::SYSTEM_NOT_FOUND));
    assert!(error.to_string().contains("nobody here"), "{error}");
    let error = client.call(&StartContainer::new("x"), &second()).unwrap_err();
    assert_eq!(error.result(), Some(ResultCode::FAIL), "a panic is answered too: {error}");
}

#[test]
fn deadline_and_cancel_end_a_call_and_its_late_answer_is_dropped() {
    let (client, release, _, _) = pair();
    let soon = Deadline::after(Duration::from_millis(50));
    let error = client.call(&WaitForProcess::default(), &soon).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);

    let cancel = Cancel::new();
    let canceller = cancel.clone();
    let cancelling = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        canceller.cancel();
    });
    let deadline = Deadline::never().with_cancel(cancel);
    let error = client.call(&WaitForProcess::default(), &deadline).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    cancelling.join().unwrap();

    release.send(()).unwrap();
    release.send(()).unwrap();
    for _ in 0..10 {
        client.call(&Negotiate::ours(), &second()).unwrap();
    }
    assert!(client.0.0.lock().calls.is_empty(), "nothing is kept for calls that were given up");
}

#[test]
fn more_requests_than_the_guest_serves_are_refused_and_it_recovers() {
    let (client, release, _, _) = pair();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            // The probe below takes a turn now and then.
            thread::spawn(move || {
                while let Err(error) = client.call(&WaitForProcess::default(), &second()) {
                    assert_eq!(error.result(), Some(ResultCode::NO_RESOURCES));
                }
            })
        })
        .collect();
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match client.call(&Negotiate::ours(), &second()) {
            Err(error) => break assert_eq!(error.result(), Some(ResultCode::NO_RESOURCES)),
            Ok(_) => assert!(Instant::now() < until, "never refused"),
        }
    }
    for _ in 0..4 {
        release.send(()).unwrap();
    }
    for thread in waiting {
        thread.join().unwrap();
    }
    while client.call(&Negotiate::ours(), &second()).is_err() {
        assert!(Instant::now() < until, "the guest never recovers");
    }
}

#[test]
fn notifications_arrive_and_foreign_ones_are_ignored() {
    let (client, _release, notifications, notifier) = pair();
    let notification = ContainerNotification {
        base: RequestBase::new("c"),
        notification_type: "UnexpectedExit".to_owned(),
        ..Default::default()
    };
    notifier.notify(&notification).unwrap();
    assert_eq!(notifications.recv_timeout(Duration::from_secs(20)).unwrap(), notification);
    drop(client);
    let until = Instant::now() + Duration::from_secs(20);
    while notifier.notify(&notification).is_ok() {
        assert!(Instant::now() < until, "the last client closes the connection");
    }

    let (client, mut guest) = raw();
    let say = |guest: &mut UnixStream, kind, method, id, body: &[u8]| {
        write_message(guest, kind, method, id, body, MAX_TO_HOST).unwrap();
    };
    say(&mut guest, Kind::Notification, Method::CREATE, 0, b"no json");
    say(&mut guest, Kind::Notification, Method::container(77), 0, b"{}");
    say(&mut guest, Kind::Response, Method::START, 4711, b"{}");
    say(&mut guest, Kind::Request, Method::START, 5, b"{}");
    let (header, body) = read_message(&mut guest, MAX_TO_GUEST).unwrap().unwrap();
    assert_eq!((header.kind, header.id), (Kind::Response, 5), "a request to the host is answered");
    let base: ResponseBase = serde_json::from_slice(&body).unwrap();
    assert_eq!(base.result, ResultCode::NOT_IMPLEMENTED);
    assert_eq!(client.ended(), None);
}

#[test]
fn the_end_of_the_guest_fails_every_waiting_call() {
    let (client, guest) = raw();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            thread::spawn(move || client.call(&WaitForProcess::default(), &Deadline::never()))
        })
        .collect();
    let mut guest_reads = guest.try_clone().unwrap();
    for _ in 0..3 {
        read_message(&mut guest_reads, MAX_TO_GUEST).unwrap().unwrap();
    }
    drop((guest, guest_reads));
    for call in calls {
        assert_eq!(call.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
    }
    client.wait_for_end(&second()).unwrap();
    let error = client.call(&Negotiate::ours(), &second()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "and every later one");
}

#[test]
fn a_request_is_sent_byte_for_byte() {
    let (client, mut guest) = raw();
    let calling = thread::spawn(move || client.call(&Negotiate::ours(), &second()));
    let (header, body) = read_message(&mut guest, MAX_TO_GUEST).unwrap().unwrap();
    let text = "{\"ContainerId\":\"00000000-0000-0000-0000-000000000000\",\"ActivityId\":\"00000000-0000-0000-0000-000000000000\",\"MinimumVersion\":4,\"MaximumVersion\":4}\n";
    assert_eq!(String::from_utf8(body).unwrap(), text);
    assert_eq!(header.method, Method::NEGOTIATE_PROTOCOL);
    write_message(
        &mut guest,
        Kind::Response,
        header.method,
        header.id,
        b"{\"Result\":0}",
        MAX_TO_HOST,
    )
    .unwrap();
    assert_eq!(calling.join().unwrap().unwrap().version, 0);
}

#[test]
fn answers_that_are_none_fail_their_call_only() {
    let (client, mut guest) = raw();
    for (method, body) in [
        (Method::NEGOTIATE_PROTOCOL, b"[]".as_slice()),
        (Method::NEGOTIATE_PROTOCOL, b"\xff"),
        (Method::NEGOTIATE_PROTOCOL, b""),
        (Method::START, b"{\"Result\":0}"),
    ] {
        let caller = client.clone();
        let calling = thread::spawn(move || caller.call(&Negotiate::ours(), &second()));
        let (header, _) = read_message(&mut guest, MAX_TO_GUEST).unwrap().unwrap();
        write_message(&mut guest, Kind::Response, method, header.id, body, MAX_TO_HOST).unwrap();
        assert_eq!(calling.join().unwrap().unwrap_err().kind(), ErrorKind::Malformed);
    }
    assert_eq!(client.ended(), None);
    let huge = Header { kind: Kind::Response, method: Method::START, size: MAX_TO_HOST + 1, id: 1 };
    std::io::Write::write_all(&mut guest, &huge.encode()).unwrap();
    let why = client.wait_for_end(&second()).unwrap();
    assert!(why.contains("more than the 65536 allowed"), "{why}");
}

#[test]
fn a_guest_that_does_not_read_cannot_hold_a_call_beyond_its_deadline() {
    let (client, guest) = raw();
    let big = crate::GuestRequest::add(crate::Resource::Other {
        resource_type: "Big".to_owned(),
        settings: serde_json::Value::String("x".repeat(1 << 20)),
    });
    let big = ModifySettings::of_vm(big);
    let started = Instant::now();
    for _ in 0..QUEUE + 3 {
        let soon = Deadline::after(Duration::from_millis(2));
        assert_eq!(client.call(&big, &soon).unwrap_err().kind(), ErrorKind::TimedOut);
    }
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(client.0.0.lock().queue.is_empty(), "calls given up take their frames along");
    drop(guest);
}

#[test]
fn a_request_larger_than_the_guest_accepts_is_refused_here() {
    let (client, _guest) = raw();
    let body = vec![b' '; MAX_TO_GUEST as usize];
    let error = client.exchange(Method::START, &body, &second()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}
