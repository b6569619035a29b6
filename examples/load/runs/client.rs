//! The clients of a load: when each connection begins, and what goes over it.

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::ledger::Ledger;
use super::part::{Part, Quota, Talk};
use super::ports::Ports;
use super::{ANSWER, PATIENCE, REQUEST, dns, until};
use crate::support::tcp_info::TcpReport;

/// How long clients wait for a host that does not exist: less than the second after which a SYN is sent again.
const SILENCE: Duration = Duration::from_millis(700);
/// How long they wait for an answer to a datagram before they send it again, and how often they do.
const RESEND: Duration = Duration::from_secs(5);
const ATTEMPTS: usize = 3;
/// Time between the datagrams of media and the commands to a database.
const MEDIA_EVERY: Duration = Duration::from_millis(10);
const COMMAND_EVERY: Duration = Duration::from_millis(4);
const MEDIA: usize = 1200;

/// What the connections of a part share.
pub struct Clients {
    /// What they do.
    pub part: &'static Part,
    /// Whom they connect to.
    pub server: SocketAddrV4,
    /// How many there are.
    pub connections: u64,
    /// Where they connect from.
    pub ports: Ports,
    /// Their account.
    pub ledger: Arc<Ledger>,
    /// Connections of all parts that have begun.
    pub begun: Arc<AtomicU64>,
    /// No more than this many connections of all parts are open.
    pub room: Arc<Semaphore>,
    /// Set if the load is to end early.
    pub stop: Arc<AtomicBool>,
}

impl Clients {
    /// Begins each connection when it is due, and waits for the end of all.
    ///
    /// # Errors
    ///
    /// None but that of a task that panicked.
    pub async fn run(self: Arc<Self>, start: Instant, duration: Duration) -> Result<()> {
        let mut open = tokio::task::JoinSet::new();
        let is_lasting = matches!(self.part.quota, Quota::Lasting(_));
        for index in 0..self.connections {
            let after =
                if is_lasting { Duration::ZERO } else { duration.mul_f64(index as f64 / self.connections as f64) };
            sleep_until(start + after).await;
            let permit = Arc::clone(&self.room).acquire_owned().await?;
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            self.begun.fetch_add(1, Ordering::Relaxed);
            let clients = Arc::clone(&self);
            open.spawn(async move {
                let end = start + duration;
                let connection = clients.connection(index, end);
                match timeout_at(end + PATIENCE, connection).await.context("it does not end").flatten() {
                    Ok(()) => clients.ledger.made(),
                    Err(error) => clients.ledger.astray(&error),
                }
                drop(permit);
            });
            while let Some(ended) = open.try_join_next() {
                ended?;
            }
        }
        while let Some(ended) = open.join_next().await {
            ended?;
        }
        Ok(())
    }

    fn is_over(&self, end: Instant) -> bool {
        Instant::now() >= end || self.stop.load(Ordering::Relaxed)
    }

    async fn connection(&self, index: u64, end: Instant) -> Result<()> {
        match (self.part.talk, self.part.protocol) {
            (Talk::Datagram | Talk::Dns | Talk::Unanswered | Talk::Media, _) | (Talk::Refused, "udp") => {
                self.datagrams(index, end).await
            }
            (Talk::Refused | Talk::Silent, _) => self.unaccepted().await,
            _ => self.stream(index, end).await,
        }
    }

    /// A socket with the next address and port.
    fn socket(&self, of: Type) -> Result<Socket> {
        let socket = Socket::new(Domain::IPV4, of.nonblocking(), None)?;
        // Clients of other parts may have the same pair.
        socket.set_reuse_address(true)?;
        let from = self.ports.take();
        socket.bind(&from.into()).with_context(|| format!("bind {from}"))?;
        Ok(socket)
    }

    /// Sends a SYN; returns the socket with the outcome, which comes when the stream is writable.
    fn dial(&self) -> Result<TcpStream> {
        let socket = self.socket(Type::STREAM)?;
        match socket.connect(&self.server.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => return Err(error.into()),
            _ => {}
        }
        Ok(TcpStream::from_std(socket.into())?)
    }

    async fn unaccepted(&self) -> Result<()> {
        let stream = self.dial()?;
        let outcome = timeout(SILENCE, stream.writable()).await;
        let report = TcpReport::of(&stream);
        self.ledger.tcp_unaccepted(&report);
        match (self.part.talk, outcome) {
            (Talk::Silent, Err(_)) => Ok(()),
            (Talk::Refused, Ok(_)) => match stream.take_error()? {
                Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                other => bail!("not refused: {other:?}"),
            },
            (_, outcome) => bail!("{} was {}", self.server, if outcome.is_ok() { "answered" } else { "silent" }),
        }
    }

    async fn stream(&self, index: u64, end: Instant) -> Result<()> {
        let mut stream = self.dial()?;
        timeout(PATIENCE, stream.writable()).await.context("no answer to a SYN")??;
        if let Some(error) = stream.take_error()? {
            return Err(error).with_context(|| format!("connect to {}", self.server));
        }
        stream.set_nodelay(true)?;
        match self.part.talk {
            Talk::Echo => {
                stream.write_all(&[7; REQUEST]).await?;
                stream.read_exact(&mut [0; ANSWER]).await?;
            }
            Talk::Http { requests } => http(&mut stream, index, requests).await?,
            Talk::Redis => self.redis(&mut stream, index, end).await?,
            Talk::Stream => {
                let mut chunk = vec![0; 64 << 10];
                while !self.is_over(end) {
                    ensure!(stream.read(&mut chunk).await? > 0, "the server closed");
                }
                stream.shutdown().await?;
                while stream.read(&mut chunk).await? > 0 {}
            }
            Talk::Reset { by_client } => {
                stream.write_all(&[7; REQUEST]).await?;
                if by_client {
                    // An ACK that came later would be answered by another RST.
                    until("the request's ACK", || TcpReport::of(&stream).unacknowledged == 0).await?;
                    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                    self.ledger.tcp_client(&TcpReport::of(&stream), 0, 1);
                    return Ok(());
                }
                match stream.read(&mut [0]).await {
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                    other => bail!("the server should have reset the connection: {other:?}"),
                }
                self.ledger.tcp_client(&TcpReport::of(&stream), 0, 0);
                return Ok(());
            }
            _ => {}
        }
        stream.shutdown().await?;
        // A stream has been read to its end already.
        ensure!(stream.read(&mut [0]).await? == 0, "the server sent more than it should");
        self.ledger.tcp_client(&TcpReport::of(&stream), 1, 0);
        Ok(())
    }

    /// Commands until the end: a SET, then GETs of it and of other keys.
    async fn redis(&self, stream: &mut TcpStream, index: u64, end: Instant) -> Result<()> {
        let mut random = SmallRng::seed_from_u64(index);
        let mut stream = BufReader::new(stream);
        let mut count = 0u64;
        while !self.is_over(end) {
            let key = format!("key:{}", count % 7);
            let value = "v".repeat(random.random_range(1..2000));
            let command = match count % 3 {
                0 => format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", key.len(), value.len()),
                _ => format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len()),
            };
            stream.write_all(command.as_bytes()).await?;
            let mut line = String::new();
            ensure!(stream.read_line(&mut line).await? > 0, "the server closed");
            // The length of what follows, or -1 for nothing.
            if let Some(length) = line.strip_prefix('$').and_then(|length| length.trim_end().parse::<usize>().ok()) {
                stream.read_exact(&mut vec![0; length + 2]).await?;
            }
            count += 1;
            sleep(COMMAND_EVERY).await;
        }
        Ok(())
    }

    async fn datagrams(&self, index: u64, end: Instant) -> Result<()> {
        let socket = self.socket(Type::DGRAM)?;
        socket.connect(&self.server.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        match self.part.talk {
            Talk::Dns => self.ask(&socket, &dns::query(index)).await,
            Talk::Media => {
                // RTP's version, and a sequence number.
                let mut datagram = [0x80; MEDIA];
                for number in 0u16.. {
                    if self.is_over(end) {
                        break;
                    }
                    datagram[2..4].copy_from_slice(&number.to_be_bytes());
                    self.ask(&socket, &datagram).await?;
                    sleep(MEDIA_EVERY).await;
                }
                Ok(())
            }
            Talk::Unanswered => {
                self.send(&socket, &dns::query(index)).await?;
                match timeout(SILENCE, socket.recv(&mut [0; 2048])).await {
                    Err(_) => Ok(()),
                    Ok(other) => bail!("there should be no answer: {other:?}"),
                }
            }
            Talk::Refused => {
                self.send(&socket, &[7; REQUEST]).await?;
                match timeout(PATIENCE, socket.recv(&mut [0; 2048])).await.context("no ICMP error")? {
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                    other => bail!("not refused: {other:?}"),
                }
            }
            _ => self.ask(&socket, &[7; REQUEST]).await,
        }
    }

    async fn send(&self, socket: &UdpSocket, datagram: &[u8]) -> Result<()> {
        socket.send(datagram).await.context("send a datagram")?;
        self.ledger.udp(|truth| &mut truth.to_server.sent, datagram.len());
        // Where nobody receives it, the kernel that refuses it does.
        if self.part.talk == Talk::Refused {
            self.ledger.udp(|truth| &mut truth.to_server.arrived, datagram.len());
        }
        Ok(())
    }

    async fn ask(&self, socket: &UdpSocket, datagram: &[u8]) -> Result<()> {
        let mut answer = [0; 2048];
        for _ in 0..ATTEMPTS {
            self.send(socket, datagram).await?;
            if let Ok(size) = timeout(RESEND, socket.recv(&mut answer)).await {
                self.ledger.udp(|truth| &mut truth.to_client.arrived, size?);
                return Ok(());
            }
        }
        bail!("no answer to {ATTEMPTS} datagrams")
    }
}

/// Requests for pages of different sizes, one in twenty for one that is not there.
async fn http(stream: &mut TcpStream, index: u64, most: u64) -> Result<()> {
    let mut random = SmallRng::seed_from_u64(index);
    for _ in 0..random.random_range(1..=most) {
        // Most pages are small: evenly over the exponent, from 200 bytes to 100 kB.
        let size = 200.0 * 500f64.powf(random.random::<f64>());
        let path = if random.random_range(0..20) == 0 { "missing".to_owned() } else { (size as usize).to_string() };
        let request = format!("GET /{path} HTTP/1.1\r\nHost: load.example\r\nAccept: */*\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        let whole = loop {
            let mut headers = [httparse::EMPTY_HEADER; 8];
            let mut parsed = httparse::Response::new(&mut headers);
            if let httparse::Status::Complete(head) = parsed.parse(&answer)? {
                let length = parsed.headers.iter().find(|header| header.name == "Content-Length");
                let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
                break head + length.context("an answer without a length")?;
            }
            ensure!(stream.read_buf(&mut answer).await? > 0, "the server closed");
        };
        while answer.len() < whole {
            ensure!(stream.read_buf(&mut answer).await? > 0, "the server closed");
        }
        ensure!(answer.len() == whole, "more than was asked for");
    }
    Ok(())
}
