//! The yardsticks: programs that do only what is measured.
//!
//! They are separate processes and use the daemon's runtime and MQTT library.

use std::io::Write;
use std::time::Duration;

use hs100d::smarthome::frame::HEADER_LEN;
use rumqttc::{AsyncClient, Broker, Event, MqttOptions, Packet, PublishOptions, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval_at};

use super::plugs;
use super::process::Fault;

/// The bare chain: for each message one prepared frame on an open connection, its reply, one state message.
pub(crate) async fn chain(broker: u16, port: u16, count: usize) -> Result<(), Fault> {
    let mut wires = Vec::new();
    for plug in 0..count {
        wires.push(connect(plug, port).await?);
    }
    let frames = [plugs::switch_frame(false), plugs::switch_frame(true)];
    let mut answer = Vec::new();
    let mut options = MqttOptions::new("bare-chain", Broker::tcp("127.0.0.1", broker));
    // At each turn the library scans all slots for acknowledgements; with all 65,535 of them that takes 0.3 ms.
    options.set_outgoing_inflight_upper_limit(100);
    // As the daemon's: small writes are sent at once.
    options.set_socket_connector(move |_, _| async move {
        let stream = TcpStream::connect(("127.0.0.1", broker)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    });
    let (client, mut events) = AsyncClient::builder(options).capacity(64).build();
    client.subscribe("bare/+/set", QoS::AtLeastOnce).await?;
    loop {
        match events.poll().await? {
            Event::Incoming(Packet::SubAck(_)) => ready()?,
            Event::Incoming(Packet::Publish(message)) => {
                let topic = std::str::from_utf8(&message.topic)?;
                let name = topic.split('/').nth(1).unwrap_or_default();
                let on = &*message.payload == b"ON";
                let plug = plugs::number(name).ok_or("no such plug")?;
                wires[plug].write_all(&frames[usize::from(on)]).await?;
                read_answer(&mut wires[plug], &mut answer).await?;
                let state = if on { r#"{"state":"ON"}"# } else { r#"{"state":"OFF"}"# };
                let retained = PublishOptions::new(QoS::AtLeastOnce).retain(true);
                client.publish(format!("bare/{name}/state"), state, retained).await?;
            }
            _ => {}
        }
    }
}

/// The bare poll: an open connection per plug, `get_sysinfo` at a fixed rate, its reply.
pub(crate) async fn poll(port: u16, count: usize, every: Duration) -> Result<(), Fault> {
    let mut wires = Vec::new();
    for plug in 0..count {
        wires.push(connect(plug, port).await?);
    }
    let frame = plugs::ask_frame();
    let begin = Instant::now();
    for (plug, mut wire) in wires.into_iter().enumerate() {
        let frame = frame.clone();
        let mut ticks = interval_at(begin + every.mul_f64(plug as f64 / count as f64), every);
        tokio::spawn(async move {
            let mut answer = Vec::new();
            loop {
                ticks.tick().await;
                if wire.write_all(&frame).await.is_err() || read_answer(&mut wire, &mut answer).await.is_err()
                {
                    return;
                }
            }
        });
    }
    ready()?;
    std::future::pending().await
}

async fn connect(plug: usize, port: u16) -> Result<TcpStream, Fault> {
    let stream = TcpStream::connect((plugs::address(plug), port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn read_answer(wire: &mut TcpStream, answer: &mut Vec<u8>) -> Result<(), Fault> {
    answer.clear();
    loop {
        if wire.read_buf(answer).await? == 0 {
            return Err("the plug hung up".into());
        }
        if let Some(header) = answer.first_chunk::<HEADER_LEN>()
            && answer.len() >= HEADER_LEN + u32::from_be_bytes(*header) as usize
        {
            return Ok(());
        }
    }
}

/// Prints that it is ready.
fn ready() -> Result<(), Fault> {
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    Ok(out.flush()?)
}
