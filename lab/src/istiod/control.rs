//! The control socket: what the lab tells istiod, and what istiod tells the lab, one JSON document a line.

use std::io;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;

use super::kind::Kind;
use super::mesh::Mesh;
use super::registry::{Command, Report};

/// The control socket cannot be understood, or broke.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It broke while it was read.
    #[error("cannot read the control socket")]
    Read {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It broke while it was written.
    #[error("cannot write to the control socket")]
    Write {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line is no command.
    #[error("the control socket said `{line}`, which is no command")]
    NoCommand {
        /// The line.
        line: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A report cannot be written as JSON.
    #[error("cannot write a report as JSON")]
    NoReport {
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A command names no resource type.
    #[error("the control socket named the resource type `{kind}`; types are: cds, eds, lds, rds, nds")]
    UnknownKind {
        /// The name.
        kind: String,
    },
}

/// Does what the lab says, until it closes the socket.
pub(super) async fn obey(commands: impl AsyncRead + Unpin, mesh: &Mesh) -> Result<(), Error> {
    let mut lines = BufReader::new(commands).lines();
    while let Some(line) = lines.next_line().await.map_err(|source| Error::Read { source })? {
        let command = serde_json::from_str(&line).map_err(|source| Error::NoCommand { line, source })?;
        take(command, mesh)?;
    }
    Ok(())
}

fn take(command: Command, mesh: &Mesh) -> Result<(), Error> {
    let known = |kind: String| Kind::from_name(&kind).ok_or(Error::UnknownKind { kind });
    match command {
        Command::State { generation, registry } => mesh.set_state(generation, registry),
        Command::Hold { pod, kind } => mesh.set_hold(&pod, known(kind)?, true),
        Command::Release { pod, kind } => mesh.set_hold(&pod, known(kind)?, false),
    }
    Ok(())
}

/// Tells the lab what happens, as it happens.
pub(super) async fn tell(
    mut socket: impl AsyncWrite + Unpin,
    mut reports: mpsc::UnboundedReceiver<Report>,
) -> Result<(), Error> {
    while let Some(report) = reports.recv().await {
        let mut line = serde_json::to_string(&report).map_err(|source| Error::NoReport { source })?;
        line.push('\n');
        socket
            .write_all(line.as_bytes())
            .await
            .map_err(|source| Error::Write { source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh() -> (Mesh, mpsc::UnboundedReceiver<Report>) {
        let (reports, received) = mpsc::unbounded_channel();
        (Mesh::new(reports), received)
    }

    const STATE: &str = r#"{"do":"state","generation":4,"registry":{"allow_any":true,"inbound_to_pod_ip":true,"retries":2,"protocol_detection_ms":0,"access_log":true,"services":[],"proxies":[]}}"#;

    #[tokio::test(flavor = "current_thread")]
    async fn the_first_state_is_answered_with_listening_and_the_end_of_the_socket_ends_it() {
        let (mesh, mut reports) = mesh();
        let lines = format!(
            "{STATE}\n{STATE}\n{}\n",
            r#"{"do":"hold","pod":"reviews-v1","kind":"eds"}"#
        );
        obey(lines.as_bytes(), &mesh).await.unwrap();
        assert!(mesh.held("reviews-v1").contains(&Kind::Eds));
        assert_eq!(reports.try_recv().unwrap(), Report::Listening);
        assert_eq!(reports.try_recv().unwrap(), Report::Synced { generation: 4 });
        assert!(reports.try_recv().is_err());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_no_command_is_an_error() {
        let (mesh, _reports) = mesh();
        let error = obey(&b"{\"do\":\"dance\"}\n"[..], &mesh).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the control socket said `{\"do\":\"dance\"}`, which is no command"
        );
        let error = obey(&b"{\"do\":\"hold\",\"pod\":\"a\",\"kind\":\"sds\"}\n"[..], &mesh)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("`sds`"), "{error}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn reports_are_lines_of_json() {
        let (sender, reports) = mpsc::unbounded_channel();
        sender.send(Report::Listening).unwrap();
        sender.send(Report::Synced { generation: 3 }).unwrap();
        drop(sender);
        let mut out = Vec::new();
        tell(&mut out, reports).await.unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"event\":\"listening\"}\n{\"event\":\"synced\",\"generation\":3}\n"
        );
    }
}
