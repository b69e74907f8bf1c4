//! Frames: cut, joined, limited.

use super::*;

fn buffer(bytes: &[u8]) -> BytesMut {
    BytesMut::from(bytes)
}

#[test]
fn frames_are_cut_at_nul_however_they_arrive() {
    let bytes = b"{\"method\":\"a.B\"}\0{}\0";
    for cut in 0..=bytes.len() {
        let mut codec = FrameCodec::new(64);
        let mut source = buffer(&bytes[..cut]);
        let mut frames = Vec::new();
        while let Some(frame) = codec.decode(&mut source).unwrap() {
            frames.push(frame);
        }
        source.extend_from_slice(&bytes[cut..]);
        while let Some(frame) = codec.decode_eof(&mut source).unwrap() {
            frames.push(frame);
        }
        assert_eq!(frames, ["{\"method\":\"a.B\"}", "{}"], "cut at {cut}");
    }
}

#[test]
fn the_limit_counts_bytes_without_the_nul() {
    let mut codec = FrameCodec::new(4);
    assert_eq!(codec.decode(&mut buffer(b"1234\0")).unwrap().unwrap(), "1234");
    assert!(codec.decode(&mut buffer(b"1234")).unwrap().is_none());
    let mut codec = FrameCodec::new(4);
    assert!(matches!(
        codec.decode(&mut buffer(b"12345\0")),
        Err(ProtocolError::FrameTooLong { limit: 4 })
    ));
    let mut codec = FrameCodec::new(4);
    assert!(matches!(
        codec.decode(&mut buffer(b"12345")),
        Err(ProtocolError::FrameTooLong { limit: 4 })
    ));
}

#[test]
fn the_limit_holds_for_each_frame_of_many() {
    let mut codec = FrameCodec::new(4);
    let mut source = buffer(b"1\x002\x003\x0012345\0");
    for expected in ["1", "2", "3"] {
        assert_eq!(codec.decode(&mut source).unwrap().unwrap(), expected);
    }
    assert!(matches!(
        codec.decode(&mut source),
        Err(ProtocolError::FrameTooLong { limit: 4 })
    ));
}

#[test]
fn an_unfinished_frame_at_the_end_is_an_error() {
    let mut codec = FrameCodec::new(64);
    let torn = codec.decode_eof(&mut buffer(b"{\"meth"));
    assert!(matches!(torn, Err(ProtocolError::Truncated { bytes: 6 })));
    assert!(codec.decode_eof(&mut buffer(b"")).unwrap().is_none());
}

#[test]
fn a_message_that_is_too_long_is_not_sent() {
    let mut target = BytesMut::new();
    let long = "x".repeat(FRAME_BYTES_MAX);
    let sent = FrameCodec::new(64).encode(&long, &mut target);
    assert!(matches!(
        sent,
        Err(ProtocolError::FrameTooLong {
            limit: FRAME_BYTES_MAX
        })
    ));
    assert!(target.is_empty());
}

#[test]
fn envelopes_have_these_bytes() {
    let parameters = Parameters::from_iter([("vm".to_owned(), Value::from("web"))]);
    let mut call = Call::new("org.maqet.Control.Events", parameters.clone());
    call.more = true;
    let mut reply = Reply::ok(Parameters::new());
    reply.continues = true;
    let error = Reply::error("org.maqet.Control.VmNotFound", parameters);
    let mut target = BytesMut::new();
    FrameCodec::new(64).encode(&call, &mut target).unwrap();
    FrameCodec::new(64).encode(&reply, &mut target).unwrap();
    FrameCodec::new(64).encode(&error, &mut target).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&target).replace('\0', "\n"),
        r#"{"method":"org.maqet.Control.Events","parameters":{"vm":"web"},"more":true}
{"parameters":{},"continues":true}
{"parameters":{"vm":"web"},"error":"org.maqet.Control.VmNotFound"}
"#
    );
}

#[test]
fn envelopes_tolerate_what_they_do_not_know() {
    let call: Call = parse(br#"{"method":"a.B","future":1}"#).unwrap();
    assert_eq!(
        call,
        Call {
            method: "a.B".to_owned(),
            ..Call::default()
        }
    );
    let reply: Reply = parse(br#"{"parameters":null,"continues":false,"future":1}"#).unwrap();
    assert_eq!(reply, Reply::default());
    assert!(matches!(parse::<Call>(b"[]"), Err(ProtocolError::Malformed(_))));
    assert!(matches!(
        parse::<Call>(b" [\"a.B\"]"),
        Err(ProtocolError::Malformed(_))
    ));
    assert!(matches!(parse::<Call>(b""), Err(ProtocolError::Malformed(_))));
}
