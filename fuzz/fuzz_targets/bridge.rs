//! Any bytes on the bridge, in both directions: refused, or messages that are written as they were read.

#![no_main]

use std::io::Cursor;
use std::time::Duration;

use bridge::{
    Client, Connection, ContainerNotification, CreateContainer, CreateContainerResponse, Deadline,
    DeleteContainerState, DumpStacks, DumpStacksResponse, ErrorKind, ExecuteProcess,
    ExecuteProcessResponse, GetProperties, GetPropertiesResponse, MAX_TO_GUEST, MAX_TO_HOST,
    Method, ModifySettings, Negotiate, NegotiateResponse, ResizeConsole, ResponseBase,
    SignalProcess, WaitForProcess, WaitForProcessResponse, read_message,
};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|bytes: &[u8]| {
    for max in [MAX_TO_GUEST, MAX_TO_HOST] {
        let mut stream = bytes;
        while let Ok(Some((header, body))) = read_message(&mut stream, max) {
            assert_eq!(body.len() + 16, header.size as usize);
            assert!(header.size <= max);
            message(header.method, &body);
        }
    }
    // The first byte chooses what the rest is the body of, without a frame around it.
    if let Some((method, body)) = bytes.split_first() {
        message(Method::container(u16::from(*method & 0xf)), body);
    }
    guest(bytes);
});

fn message(method: Method, body: &[u8]) {
    match method {
        Method::NEGOTIATE_PROTOCOL => both::<Negotiate, NegotiateResponse>(body),
        Method::CREATE => both::<CreateContainer, CreateContainerResponse>(body),
        Method::EXECUTE_PROCESS => both::<ExecuteProcess, ExecuteProcessResponse>(body),
        Method::WAIT_FOR_PROCESS => both::<WaitForProcess, WaitForProcessResponse>(body),
        Method::SIGNAL_PROCESS => both::<SignalProcess, ResponseBase>(body),
        Method::RESIZE_CONSOLE => both::<ResizeConsole, ResponseBase>(body),
        Method::GET_PROPERTIES => both::<GetProperties, GetPropertiesResponse>(body),
        Method::MODIFY_SETTINGS => both::<ModifySettings, ResponseBase>(body),
        Method::DUMP_STACKS => both::<DumpStacks, DumpStacksResponse>(body),
        _ => both::<DeleteContainerState, ContainerNotification>(body),
    }
}

fn both<Request, Response>(body: &[u8])
where
    Request: Serialize + DeserializeOwned + PartialEq,
    Response: Serialize + DeserializeOwned + PartialEq,
{
    round_trip::<Request>(body);
    round_trip::<Response>(body);
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq>(body: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(body) else { return };
    // A float may be read as another one and then stay; what is written is stable.
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(serde_json::to_vec(&again).expect("it was written before"), written);
}

/// A host whose guest says these bytes: its calls end, whatever they are.
fn guest(bytes: &[u8]) {
    let connection = Connection::new(Cursor::new(bytes.to_vec()), std::io::sink(), || {});
    let client = Client::new(connection, Box::new(|_| {})).expect("threads can be made");
    let deadline = Deadline::after(Duration::from_secs(10));
    if let Err(error) = client.call(&Negotiate::ours(), &deadline) {
        assert_ne!(error.kind(), ErrorKind::TimedOut, "the guest has ended");
    }
}
