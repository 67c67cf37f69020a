//! The TCP servers of a built-in workload: echo, with or without a greeting, or what a first line asks for.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::client::content::{Content, pattern};

/// The longest first line that asks for something.
const LONGEST: usize = 64;

/// What a first line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// FIN at once.
    Close,
    /// RST at once.
    Reset,
    /// So many bytes of the pattern, then FIN.
    Bytes(u64),
    /// All that comes is counted; at its end length and hash come back.
    Sink,
    /// Nothing, for ever.
    Hang,
}

impl Wish {
    fn of(line: &str) -> Option<Self> {
        match line.trim_end() {
            "/close" => Some(Self::Close),
            "/reset" => Some(Self::Reset),
            "/sink" => Some(Self::Sink),
            "/hang" => Some(Self::Hang),
            other => other.strip_prefix("/bytes/")?.parse().ok().map(Self::Bytes),
        }
    }
}

/// Serves: a greeting if there is one, then whatever comes, back.
pub(super) async fn serve(socket: TcpListener, greeting: Option<&'static [u8]>) -> Result<(), String> {
    let mut open = JoinSet::new();
    loop {
        let (stream, _) = socket
            .accept()
            .await
            .map_err(|error| format!("accepting: {error}"))?;
        while open.try_join_next().is_some() {}
        open.spawn_local(async move {
            // What goes wrong with one connection ends that connection.
            drop(connection(stream, greeting).await);
        });
    }
}

async fn connection(mut stream: TcpStream, greeting: Option<&[u8]>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(greeting) = greeting {
        stream.write_all(greeting).await?;
    }
    let mut first = Vec::new();
    if stream.read_buf(&mut first).await? == 0 {
        return Ok(());
    }
    // A line may come in pieces.
    while first.starts_with(b"/") && !first.contains(&b'\n') && first.len() < LONGEST {
        if stream.read_buf(&mut first).await? == 0 {
            break;
        }
    }
    let line_end = first.iter().position(|byte| *byte == b'\n');
    let line = line_end.and_then(|end| std::str::from_utf8(&first[..end]).ok());
    if let Some(wish) = line.and_then(Wish::of) {
        return grant(wish, stream, &first[line_end.map_or(0, |end| end + 1)..]).await;
    }
    stream.write_all(&first).await?;
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await.map(drop)
}

async fn grant(wish: Wish, mut stream: TcpStream, after: &[u8]) -> io::Result<()> {
    match wish {
        Wish::Close => Ok(()),
        Wish::Reset => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
        Wish::Bytes(length) => {
            for block in pattern(length) {
                stream.write_all(&block).await?;
            }
            Ok(())
        }
        Wish::Sink => {
            let mut content = Content::default();
            content.push(after);
            let mut buffer = vec![0; 64 << 10];
            loop {
                let length = stream.read(&mut buffer).await?;
                if length == 0 {
                    break;
                }
                content.push(&buffer[..length]);
            }
            let told = format!("{} bytes, sha256 {}\n", content.length(), content.sha256());
            stream.write_all(told.as_bytes()).await
        }
        Wish::Hang => {
            let mut rest = [0; 1024];
            while stream.read(&mut rest).await? > 0 {}
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(sent: &[u8]) -> io::Result<Vec<u8>> {
        let socket = TcpListener::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let mut got = Vec::new();
        tokio::select! {
            served = serve(socket, None) => panic!("{served:?}"),
            talked = async {
                let mut stream = TcpStream::connect(address).await?;
                stream.write_all(sent).await?;
                stream.shutdown().await?;
                stream.read_to_end(&mut got).await
            } => talked?,
        };
        Ok(got)
    }

    fn run(sent: &[u8]) -> io::Result<Vec<u8>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, answer(sent))
    }

    #[test]
    fn what_comes_goes_back_unless_a_line_asks_for_more() {
        assert_eq!(run(b"hello").unwrap(), b"hello");
        assert_eq!(run(b"/hello\nx").unwrap(), b"/hello\nx");
        assert_eq!(run(b"/bytes/70000\n").unwrap().len(), 70_000);
        assert_eq!(run(b"/close\n").unwrap(), b"");
        assert_eq!(
            run(b"/reset\n").unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
        let told = String::from_utf8(run(b"/sink\nabc").unwrap()).unwrap();
        assert_eq!(
            told,
            "3 bytes, sha256 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"
        );
    }
}
