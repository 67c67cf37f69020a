//! Capabilities of a process between fork and exec: all but a few are given up, and what is left is read back.

use std::os::raw::{c_int, c_ulong};

use nix::errno::Errno;

/// A set of capabilities, by their numbers (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// None at all.
    pub const NONE: Self = Self(0);
    /// `CAP_NET_ADMIN`: transparent sockets, marks.
    pub const NET_ADMIN: Self = Self(1 << 12);

    const fn is_empty(self) -> bool {
        self.0 == 0
    }

    const fn has(self, number: c_ulong) -> bool {
        self.0 & (1 << number) != 0
    }

    /// Every number that there can be, and whether it is in the set.
    fn all(self) -> impl Iterator<Item = (c_ulong, bool)> {
        (0..u64::from(u64::BITS)).map(move |number| (number, self.has(number)))
    }
}

/// None but these can come back.
pub(super) fn bound(keep: Capabilities) -> nix::Result<()> {
    for (number, kept) in keep.all() {
        if kept {
            continue;
        }
        match control(libc::PR_CAPBSET_DROP, number, 0) {
            Ok(_) => {}
            // Past the last capability that this kernel knows.
            Err(Errno::EINVAL) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A change of user takes the permitted ones away, unless this is said before.
pub(super) fn outlast_user(keep: Capabilities) -> nix::Result<()> {
    if keep.is_empty() {
        return Ok(());
    }
    control(libc::PR_SET_KEEPCAPS, 1, 0).map(drop)
}

/// These are in effect, and stay so when another program is executed, whoever the user is; no others are.
pub(super) fn set(keep: Capabilities) -> nix::Result<()> {
    let (header, words) = (HEADER, words(keep));
    // SAFETY: header and data have the layout that version 3 asks for; the call only reads them.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) };
    Errno::result(done)?;
    let raise = c_ulong::try_from(libc::PR_CAP_AMBIENT_RAISE).map_err(|_error| Errno::EINVAL)?;
    for (number, _) in keep.all().filter(|(_, kept)| *kept) {
        control(libc::PR_CAP_AMBIENT, raise, number)?;
    }
    Ok(())
}

/// True if exactly these are in effect, ambient, and in the bounding set.
pub(super) fn are(keep: Capabilities) -> nix::Result<bool> {
    let (header, mut found) = (HEADER, [0_u32; 6]);
    // SAFETY: header and data have the layout that version 3 asks for, and the data is ours to write.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw const header, found.as_mut_ptr()) };
    Errno::result(done)?;
    if found != words(keep) {
        return Ok(false);
    }
    let is_set = c_ulong::try_from(libc::PR_CAP_AMBIENT_IS_SET).map_err(|_error| Errno::EINVAL)?;
    for (number, kept) in keep.all() {
        match control(libc::PR_CAPBSET_READ, number, 0) {
            Ok(bound) if (bound == 1) != kept => return Ok(false),
            Ok(_) => {}
            Err(Errno::EINVAL) => return Ok(true),
            Err(errno) => return Err(errno),
        }
        if kept && control(libc::PR_CAP_AMBIENT, is_set, number)? != 1 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `struct __user_cap_header_struct` of version 3, for the calling thread (capget(2)).
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

const HEADER: Header = Header {
    version: 0x2008_0522,
    pid: 0,
};

/// Two `struct __user_cap_data_struct`: effective, permitted and inheritable of the lower half, then of the upper one.
const fn words(keep: Capabilities) -> [u32; 6] {
    #[expect(clippy::cast_possible_truncation, reason = "the halves are taken one by one")]
    let (low, high) = (keep.0 as u32, (keep.0 >> u32::BITS) as u32);
    [low, low, low, high, high, high]
}

fn control(option: c_int, argument: c_ulong, more: c_ulong) -> nix::Result<c_int> {
    const NOTHING: c_ulong = 0;
    // SAFETY: prctl with integer arguments touches no memory of ours.
    let done = unsafe { libc::prctl(option, argument, more, NOTHING, NOTHING) };
    Errno::result(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_half_of_a_set_stands_in_its_words() {
        assert_eq!(words(Capabilities::NONE), [0; 6]);
        assert_eq!(words(Capabilities::NET_ADMIN), [0x1000, 0x1000, 0x1000, 0, 0, 0]);
        assert_eq!(words(Capabilities(1 << 40)), [0, 0, 0, 0x100, 0x100, 0x100]);
    }

    /// Whoever runs this has either more than nothing, or a bounding set.
    #[test]
    fn what_was_not_given_up_is_seen() {
        assert_eq!(are(Capabilities::NONE), Ok(false));
        assert_eq!(are(Capabilities::NET_ADMIN), Ok(false));
    }
}
