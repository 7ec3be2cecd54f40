//! Option haggling, from the server's greeting to the export's size.
//!
//! ```text
//!   greeting ─▶ STRUCTURED_REPLY ─▶ SET_META_CONTEXT (only when contexts are wanted) ─▶ GO ─▶ transmission
//! ```

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{error::Error, wire::*};

/// What the two sides agreed on.
pub(crate) struct Agreed {
    /// Size of the export in bytes.
    pub size: u64,
    /// The server's number for each wanted context, in the order of the request; `None` where it has no such context.
    pub context_ids: Vec<Option<u32>>,
}

pub(crate) async fn negotiate<S>(stream: &mut S, export: &str, contexts: &[String]) -> Result<Agreed, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    greet(stream).await?;
    structured_replies(stream).await?;
    let context_ids =
        if contexts.is_empty() { Vec::new() } else { set_contexts(stream, export, contexts).await? };
    let size = go(stream, export).await?;
    Ok(Agreed { size, context_ids })
}

async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<(), Error> {
    let magic = stream.read_u64().await.map_err(|e| Error::closed(&e))?;
    let option_magic = stream.read_u64().await.map_err(|e| Error::closed(&e))?;
    if magic != MAGIC_SERVER || option_magic != MAGIC_OPTION {
        return Err(Error::protocol("its greeting is not that of a newstyle NBD server"));
    }
    let flags = stream.read_u16().await.map_err(|e| Error::closed(&e))?;
    if flags & HANDSHAKE_FIXED_NEWSTYLE == 0 {
        return Err(Error::protocol("it does not speak the fixed newstyle handshake"));
    }
    let answer = flags & (HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES);
    stream.write_u32(u32::from(answer)).await.map_err(|e| Error::closed(&e))
}

async fn structured_replies<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<(), Error> {
    send_option(stream, OPT_STRUCTURED_REPLY, &[]).await?;
    match next_reply(stream, OPT_STRUCTURED_REPLY, "structured replies").await? {
        (REP_ACK, _) => Ok(()),
        (other, _) => Err(unexpected(other)),
    }
}

async fn set_contexts<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    export: &str,
    contexts: &[String],
) -> Result<Vec<Option<u32>>, Error> {
    let mut body = Vec::new();
    put_text(&mut body, export)?;
    body.extend_from_slice(&length(contexts.len())?.to_be_bytes());
    for context in contexts {
        put_text(&mut body, context)?;
    }
    send_option(stream, OPT_SET_META_CONTEXT, &body).await?;

    let mut ids = vec![None; contexts.len()];
    for _ in 0..MAX_OPTION_REPLIES {
        let (kind, body) = next_reply(stream, OPT_SET_META_CONTEXT, "the meta contexts").await?;
        match kind {
            REP_ACK => return Ok(ids),
            REP_META_CONTEXT => accept_context(&body, contexts, &mut ids)?,
            other => return Err(unexpected(other)),
        }
    }
    Err(Error::protocol("it answers an option without end"))
}

fn accept_context(body: &[u8], contexts: &[String], ids: &mut [Option<u32>]) -> Result<(), Error> {
    let (id, name) =
        body.split_first_chunk().ok_or_else(|| Error::protocol("a meta context reply is too short"))?;
    let id = u32::from_be_bytes(*id);
    let index = contexts.iter().position(|wanted| wanted.as_bytes() == name);
    let index = index.ok_or_else(|| Error::protocol("it selected a meta context that was not asked for"))?;
    if ids[index].is_some() || ids.contains(&Some(id)) {
        return Err(Error::protocol("it selected a meta context twice"));
    }
    ids[index] = Some(id);
    Ok(())
}

async fn go<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, export: &str) -> Result<u64, Error> {
    let mut body = Vec::new();
    put_text(&mut body, export)?;
    body.extend_from_slice(&0u16.to_be_bytes());
    send_option(stream, OPT_GO, &body).await?;

    let mut size = None;
    for _ in 0..MAX_OPTION_REPLIES {
        let (kind, body) = next_reply(stream, OPT_GO, "the export").await?;
        match kind {
            REP_ACK => return size.ok_or_else(|| Error::protocol("it did not say how large the export is")),
            REP_INFO => size = export_size(&body)?.or(size),
            other => return Err(unexpected(other)),
        }
    }
    Err(Error::protocol("it answers an option without end"))
}

/// The size out of an `NBD_INFO_EXPORT`; other kinds of information are passed over.
fn export_size(body: &[u8]) -> Result<Option<u64>, Error> {
    let (kind, rest) =
        body.split_first_chunk().ok_or_else(|| Error::protocol("an information reply is too short"))?;
    if u16::from_be_bytes(*kind) != INFO_EXPORT {
        return Ok(None);
    }
    let size: &[u8; 8] =
        rest.first_chunk().ok_or_else(|| Error::protocol("the export information is too short"))?;
    let size = u64::from_be_bytes(*size);
    if size > i64::MAX as u64 {
        return Err(Error::protocol(format!("it claims an export of {size} bytes")));
    }
    Ok(Some(size))
}

async fn send_option<S: AsyncWrite + Unpin>(stream: &mut S, option: u32, body: &[u8]) -> Result<(), Error> {
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend_from_slice(&MAGIC_OPTION.to_be_bytes());
    message.extend_from_slice(&option.to_be_bytes());
    message.extend_from_slice(&length(body.len())?.to_be_bytes());
    message.extend_from_slice(body);
    stream.write_all(&message).await.map_err(|e| Error::closed(&e))?;
    stream.flush().await.map_err(|e| Error::closed(&e))
}

/// The next reply to `option`; an error reply becomes [`Error::Refused`].
async fn next_reply<S>(stream: &mut S, option: u32, what: &'static str) -> Result<(u32, Vec<u8>), Error>
where
    S: AsyncRead + Unpin,
{
    let magic = stream.read_u64().await.map_err(|e| Error::closed(&e))?;
    let echoed = stream.read_u32().await.map_err(|e| Error::closed(&e))?;
    let kind = stream.read_u32().await.map_err(|e| Error::closed(&e))?;
    let size = stream.read_u32().await.map_err(|e| Error::closed(&e))?;
    if magic != MAGIC_OPTION_REPLY || echoed != option {
        return Err(Error::protocol("an option reply has a wrong header"));
    }
    if size > MAX_OPTION_REPLY {
        return Err(Error::protocol(format!("an option reply claims {size} bytes")));
    }
    let mut body = vec![0; size as usize];
    stream.read_exact(&mut body).await.map_err(|e| Error::closed(&e))?;
    if kind & REP_ERROR_BIT != 0 {
        let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
        return Err(Error::Refused { what, why: format!("error {} {text}", kind & !REP_ERROR_BIT) });
    }
    Ok((kind, body))
}

fn unexpected(kind: u32) -> Error {
    Error::protocol(format!("an option was answered with a reply of type {kind}"))
}

fn put_text(body: &mut Vec<u8>, text: &str) -> Result<(), Error> {
    if text.len() > 4096 {
        return Err(Error::Invalid(format!("an NBD name of {} bytes is longer than 4096", text.len())));
    }
    body.extend_from_slice(&length(text.len())?.to_be_bytes());
    body.extend_from_slice(text.as_bytes());
    Ok(())
}

fn length(value: usize) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| Error::Invalid("an NBD option does not fit into 4 GiB".to_owned()))
}
