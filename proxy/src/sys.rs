//! Every `unsafe` of this crate: socket options and descriptors that no crate wraps.

use std::fs::File;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd as _, FromRawFd as _, RawFd};

use crate::addr::{Arrival, OriginalDst};

/// `SO_ORIGINAL_DST` and `IP6T_SO_ORIGINAL_DST` (`linux/netfilter_ipv4.h`, `linux/netfilter_ipv6/ip6_tables.h`).
const SO_ORIGINAL_DST: libc::c_int = 80;

/// How a connection came to `local`. Only "no such entry" means that nothing redirected it; any other answer of the
/// kernel's is an error, never a guess. `transparent` is the listener's own port if its socket is transparent: REDIRECT
/// makes that the destination, so a connection to any other port can only be TPROXY's.
pub fn arrival(
    stream: &tokio::net::TcpStream,
    local: SocketAddr,
    transparent: Option<u16>,
) -> io::Result<Arrival> {
    if transparent.is_some_and(|own| own != local.port()) {
        return Ok(Arrival::Transparent(OriginalDst(local)));
    }
    let original = match local {
        SocketAddr::V4(_) => original_v4(stream.as_raw_fd()),
        SocketAddr::V6(_) => original_v6(stream.as_raw_fd()),
    };
    match original {
        Ok(original) if original == local => Ok(Arrival::Direct(local)),
        Ok(original) => Ok(Arrival::Redirected(OriginalDst(original))),
        // ENOENT: conntrack knows of no translation. ENOPROTOOPT: there is no conntrack in this namespace at all.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT)) => {
            Ok(Arrival::Direct(local))
        }
        Err(error) => Err(error),
    }
}

fn original_v4(socket: RawFd) -> io::Result<SocketAddr> {
    // SAFETY: a sockaddr_in is plain numbers, for which zero is a value.
    let mut address: libc::sockaddr_in = unsafe { mem::zeroed() };
    get(socket, libc::SOL_IP, &mut address)?;
    let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
    Ok(SocketAddr::from((ip, u16::from_be(address.sin_port))))
}

fn original_v6(socket: RawFd) -> io::Result<SocketAddr> {
    // SAFETY: a sockaddr_in6 is plain numbers, for which zero is a value.
    let mut address: libc::sockaddr_in6 = unsafe { mem::zeroed() };
    get(socket, libc::SOL_IPV6, &mut address)?;
    let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
    Ok(SocketAddr::V6(SocketAddrV6::new(
        ip,
        u16::from_be(address.sin6_port),
        0,
        address.sin6_scope_id,
    )))
}

fn get<T>(socket: RawFd, level: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let pointer = std::ptr::from_mut(value).cast();
    // SAFETY: `value` is ours, `length` says its size, and the kernel writes at most that much.
    let done = unsafe { libc::getsockopt(socket, level, SO_ORIGINAL_DST, pointer, &raw mut length) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes over a descriptor that the parent process left open under this number for this process alone.
pub fn take_descriptor(number: RawFd) -> File {
    // SAFETY: the number comes from a hidden option whose user opened it for this process, and it is taken once, at the
    // start.
    let file = unsafe { File::from_raw_fd(number) };
    // Children have no business with it.
    nix::fcntl::fcntl(
        &file,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )
    .unwrap_or_default();
    file
}

/// Makes a command's process die with this one.
pub fn die_together(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    let step = || nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(io::Error::from);
    // SAFETY: one system call between fork and exec, nothing that allocates or locks.
    unsafe { command.pre_exec(step) };
}

/// Gives back what of this program's code has been touched so far: what is used again comes back from the page cache, at
/// the price of some hundred page faults without a read. The kernel maps 64 KiB around each page that is touched
/// (`fault_around_bytes`), so that a start leaves megabytes that nobody has read a byte of. Only
/// mappings that nobody ever writes to are given back: code, and the read-only segment that a program begins with.
/// What the allocator holds free goes too.
pub fn give_back() {
    // SAFETY: it moves nothing that is in use (malloc_trim(3)), and takes the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let own = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    for line in maps.lines() {
        // `START-END PERMISSIONS OFFSET DEVICE INODE PATH` (proc(5)).
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(permissions), Some(offset)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let is_own = words.nth(2).is_some_and(|path| std::path::Path::new(path) == own);
        let is_untouched =
            permissions == "r-xp" || (permissions == "r--p" && offset.bytes().all(|byte| byte == b'0'));
        let ends = range.split_once('-').map(|(start, end)| {
            let number = |text| usize::from_str_radix(text, 16);
            (number(start), number(end))
        });
        if let Some((Ok(start), Ok(end))) = ends
            && is_own
            && is_untouched
        {
            let pointer = std::ptr::with_exposed_provenance_mut(start);
            // SAFETY: the range is a whole mapping of this program's file that is private and was never written to, so that
            // every page of it is read again from the file when it is next used (madvise(2)).
            let done = unsafe { libc::madvise(pointer, end - start, libc::MADV_DONTNEED) };
            // Memory that stays is no harm.
            debug_assert_eq!(done, 0);
        }
    }
}

/// Lets a socket that is bound to an address get its port when it connects (`IP_BIND_ADDRESS_NO_PORT`, ip(7)).
pub fn bind_without_port(socket: &impl std::os::fd::AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    let (value, option) = (std::ptr::from_ref(&on).cast(), libc::IP_BIND_ADDRESS_NO_PORT);
    // SAFETY: the value is a C int that outlives the call, and the length is its own.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, option, value, length) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_tproxy_brings_a_connection_to_another_port_than_the_listeners() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let other = address.port() ^ 1;
        let came = |transparent| arrival(&stream, address, transparent).unwrap();
        assert_eq!(came(Some(other)), Arrival::Transparent(OriginalDst(address)));
        assert_eq!(came(Some(address.port())), Arrival::Direct(address));
        assert_eq!(came(None), Arrival::Direct(address));
        drop(client);
    }
}
