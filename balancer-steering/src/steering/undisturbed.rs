//! Loading a program while signals may come. The kernel's verifier gives up with EAGAIN if a signal is pending
//! for the thread (`kernel/bpf/verifier.c`, `do_check`), and a program of some hundred thousand instructions takes
//! it a while. What is tried again then is the same with a log, which grows until it is too long: so Ctrl-C at the
//! wrong moment looked like a program that the kernel refuses.

use std::mem::MaybeUninit;

/// Does something with all signals held back from this thread that can be; they arrive afterwards.
pub(super) fn undisturbed<T>(what: impl FnOnce() -> T) -> T {
    let _held = Held::back();
    what()
}

/// The signals that this thread took before.
struct Held(Option<libc::sigset_t>);

impl Held {
    fn back() -> Self {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigfillset` initialises `all`, which is read afterwards, and both are there for the call.
        let result = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr())
        };
        // SAFETY: on success the kernel has written it.
        Self((result == 0).then(|| unsafe { before.assume_init() }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // SAFETY: a set that the kernel has written.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether this thread takes SIGTERM.
    fn takes() -> bool {
        let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: with no new set it only writes the one that is in force.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), mask.as_mut_ptr());
            libc::sigismember(mask.as_ptr(), libc::SIGTERM) == 0
        }
    }

    #[test]
    fn signals_are_held_back_meanwhile_and_taken_again_afterwards() {
        assert!(takes());
        assert!(!undisturbed(takes));
        assert!(takes());
    }
}
