//! The servers of a load: they speak real protocols, and enter into the ledger what their sockets sent and received.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use super::ledger::Ledger;
use super::part::{Part, Talk};
use super::{ANSWER, PATIENCE, REPORT, REQUEST, dns, until};
use crate::support::tcp_info::TcpReport;

/// What a streaming server sends at a time, and how often.
const CHUNK: usize = 16 << 10;
const CHUNK_EVERY: Duration = Duration::from_millis(10);
/// Connections that may wait to be accepted, and bytes of datagrams to be read.
const BACKLOG: i32 = 4096;
const RECEIVE_BUFFER: usize = 4 << 20;

/// Starts the server of a part on the calling thread's runtime. Nobody listens where that is the point.
///
/// # Errors
///
/// The address is not available.
pub fn start(part: &'static Part, at: SocketAddrV4, ledger: Arc<Ledger>) -> Result<()> {
    match part.talk {
        Talk::Refused | Talk::Silent => Ok(()),
        Talk::Datagram | Talk::Dns | Talk::Unanswered | Talk::Media => {
            let socket = bind(at, Type::DGRAM)?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
            let socket = UdpSocket::from_std(socket.into())?;
            tokio::spawn(async move { answer_datagrams(part, &socket, &ledger).await });
            Ok(())
        }
        _ => {
            let socket = bind(at, Type::STREAM)?;
            socket.listen(BACKLOG)?;
            let listener = TcpListener::from_std(socket.into())?;
            tokio::spawn(accept(part, listener, ledger));
            Ok(())
        }
    }
}

fn bind(at: SocketAddrV4, of: Type) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, of.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into()).with_context(|| format!("listen on {at}"))?;
    Ok(socket)
}

async fn accept(part: &'static Part, listener: TcpListener, ledger: Arc<Ledger>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let ledger = Arc::clone(&ledger);
                tokio::spawn(async move {
                    if let Err(error) = serve(part, stream, &ledger).await {
                        ledger.astray(&error.context("server"));
                    }
                });
            }
            // Out of descriptors, for example: the connection waits in the backlog.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(part: &Part, mut stream: TcpStream, ledger: &Ledger) -> Result<()> {
    stream.set_nodelay(true)?;
    match part.talk {
        Talk::Echo => {
            stream.read_exact(&mut [0; REQUEST]).await?;
            stream.write_all(&[7; ANSWER]).await?;
        }
        Talk::Http { .. } => http(&mut stream).await?,
        Talk::Redis => redis(&mut stream).await?,
        Talk::Stream => send_until_closed(&mut stream).await?,
        Talk::Reset { by_client: true } => {
            let mut rest = [0; REQUEST];
            stream.read_exact(&mut rest).await?;
            match stream.read(&mut rest).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                other => bail!("the client should have reset the connection: {other:?}"),
            }
            ledger.tcp_server(&TcpReport::of(&stream), 0, 0);
            return Ok(());
        }
        Talk::Reset { by_client: false } => {
            stream.read_exact(&mut [0; REQUEST]).await?;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            ledger.tcp_server(&TcpReport::of(&stream), 0, 1);
            return Ok(());
        }
        _ => {}
    }
    // The client closes first.
    ensure!(stream.read(&mut [0]).await? == 0, "the client sent more than it should");
    stream.shutdown().await?;
    until("the client's last ACK", || TcpReport::of(&stream).is_closed).await?;
    ledger.tcp_server(&TcpReport::of(&stream), 1, 0);
    Ok(())
}

/// Answers GETs of `/SIZE` with so many bytes until the client closes; anything else is not found.
async fn http(stream: &mut TcpStream) -> Result<()> {
    let mut request = Vec::new();
    loop {
        // The end of the connection is read again by the caller.
        if stream.read_buf(&mut request).await? == 0 {
            ensure!(request.is_empty(), "half a request");
            return Ok(());
        }
        let mut headers = [httparse::EMPTY_HEADER; 8];
        let mut parsed = httparse::Request::new(&mut headers);
        if parsed.parse(&request)?.is_partial() {
            continue;
        }
        let size = parsed.path.and_then(|path| path.strip_prefix('/')?.parse::<usize>().ok());
        // Clients send a request only after the answer to the one before.
        request.clear();
        let (status, size) = size.map_or(("404 Not Found", 0), |size| ("200 OK", size));
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n");
        let mut answer = head.into_bytes();
        answer.resize(answer.len() + size, b'x');
        stream.write_all(&answer).await?;
    }
}

/// SET and GET (RESP 2) until the client closes.
async fn redis(stream: &mut TcpStream) -> Result<()> {
    let mut values: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    let mut stream = BufReader::new(stream);
    loop {
        let Some(count) = length(&mut stream, '*').await? else { return Ok(()) };
        let mut words = Vec::new();
        for _ in 0..count {
            let size = length(&mut stream, '$').await?.context("half a command")?;
            let mut word = vec![0; size + 2];
            stream.read_exact(&mut word).await?;
            word.truncate(size);
            words.push(word);
        }
        let answer = match words.as_slice() {
            [set, key, value] if set == b"SET" => {
                values.insert(key.clone(), value.clone());
                b"+OK\r\n".to_vec()
            }
            [get, key] if get == b"GET" => match values.get(key) {
                Some(value) => [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat(),
                None => b"$-1\r\n".to_vec(),
            },
            _ => b"-ERR unknown command\r\n".to_vec(),
        };
        stream.write_all(&answer).await?;
    }
}

/// A line with a number behind `mark`; nothing if the client has closed.
async fn length(stream: &mut BufReader<&mut TcpStream>, mark: char) -> Result<Option<usize>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let number = line.strip_prefix(mark).and_then(|rest| rest.trim_end().parse().ok());
    Ok(Some(number.with_context(|| format!("not RESP: {line:?}"))?))
}

async fn send_until_closed(stream: &mut TcpStream) -> Result<()> {
    let chunk = vec![7; CHUNK];
    loop {
        match timeout(CHUNK_EVERY, stream.peek(&mut [0])).await {
            Ok(read) => {
                ensure!(read? == 0, "the client sent more than it should");
                return Ok(());
            }
            Err(_) => timeout(PATIENCE, stream.write_all(&chunk)).await.context("the client does not read")??,
        }
    }
}

async fn answer_datagrams(part: &Part, socket: &UdpSocket, ledger: &Ledger) {
    let mut datagram = [0; 2048];
    // An error is that of one datagram.
    loop {
        let Ok((size, client)) = socket.recv_from(&mut datagram).await else { continue };
        ledger.udp(|truth| &mut truth.to_server.arrived, size);
        let answer = match part.talk {
            Talk::Dns => dns::answer(&datagram[..size]),
            Talk::Unanswered => None,
            Talk::Media => Some(vec![0x81; REPORT]),
            _ => Some(vec![7; ANSWER]),
        };
        let Some(answer) = answer else { continue };
        if socket.send_to(&answer, client).await.is_ok() {
            ledger.udp(|truth| &mut truth.to_client.sent, answer.len());
        }
    }
}
