//! Keeps the process alive when a mapped file is cut short by someone else.
//!
//! Touching a page behind the file's end raises SIGBUS, which kills. The handler here puts empty pages in
//! their place, so that the reader goes on, and marks the map as broken, so that the reader fails as soon as
//! it looks. A SIGBUS outside our maps goes to whoever had the signal before.

#![allow(unsafe_code, reason = "signal handlers are the system's, not Rust's")]

use std::{
    io,
    ptr::{null, null_mut},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::SeqCst},
    },
};

/// Maps at a time; the system itself allows a process 65 530.
const MAX_MAPS: usize = 1 << 14;

/// A mapped range of addresses; free where `end` is 0.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    broken: AtomicBool,
}

static SLOTS: [Slot; MAX_MAPS] = [const {
    Slot { start: AtomicUsize::new(0), end: AtomicUsize::new(0), broken: AtomicBool::new(false) }
}; MAX_MAPS];
/// Slots from here on were never used.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Slots below `USED` that are free again.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());
/// Who handled the signal before; leaked, because a handler may be reading it.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(null_mut());
/// Set while another handler is called, which may call this one.
static PASSING: AtomicBool = AtomicBool::new(false);

/// A range of addresses that is watched until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    slot: usize,
}

impl Watch {
    /// Watches a mapped range.
    pub(super) fn new(start: *const u8, len: usize) -> io::Result<Self> {
        install()?;
        let reused = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let slot = reused.unwrap_or_else(|| USED.fetch_add(1, SeqCst));
        let Some(place) = SLOTS.get(slot) else {
            USED.fetch_sub(1, SeqCst);
            return Err(io::Error::other("too many files are mapped at once"));
        };
        place.broken.store(false, SeqCst);
        place.start.store(start.addr(), SeqCst);
        place.end.store(start.addr() + len, SeqCst);
        Ok(Self { slot })
    }

    /// True once a page of the range was missing.
    pub(super) fn is_broken(&self) -> bool {
        SLOTS[self.slot].broken.load(SeqCst)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        SLOTS[self.slot].end.store(0, SeqCst);
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self.slot);
    }
}

/// Bytes of addresses that the process may use, if there is a limit.
pub(super) fn address_limit() -> Option<usize> {
    // SAFETY: the call fills the struct that it gets.
    let limit = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        (libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) == 0).then_some(limit.rlim_cur)?
    };
    (limit != libc::RLIM_INFINITY).then(|| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Puts the handler in place, in front of whoever came since the last time.
fn install() -> io::Result<()> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: a `sigaction` of zeros is valid, and the calls get pointers to live ones.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, null(), &raw mut now) != 0 {
            return Err(io::Error::last_os_error());
        }
        let ours = on_bus_error as *const () as usize;
        if now.sa_sigaction == ours {
            return Ok(());
        }
        BEFORE.store(Box::into_raw(Box::new(now)), SeqCst);
        let mut next: libc::sigaction = std::mem::zeroed();
        next.sa_sigaction = ours;
        // On the stack of its own where the thread has one; other signals may come meanwhile.
        next.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        if libc::sigaction(libc::SIGBUS, &raw const next, null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The handler. Calls nothing but what is allowed in one: atomics, `mmap`, `sysconf`, and at last what was there before.
extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the system hands over a valid `siginfo_t` for SIGBUS.
    let address = unsafe { (*info).si_addr() }.addr();
    for slot in &SLOTS[..USED.load(SeqCst).min(MAX_MAPS)] {
        let (start, end) = (slot.start.load(SeqCst), slot.end.load(SeqCst));
        if (start..end).contains(&address) {
            // Before the pages are there: another thread may read them at once, and then looks.
            slot.broken.store(true, SeqCst);
            if replace(address, end) {
                return;
            }
        }
    }
    pass_on(signal, info, context);
}

/// Puts empty pages from the page of `address` to `end`.
fn replace(address: usize, end: usize) -> bool {
    // SAFETY: the range lies inside a map of ours, whose owner reads it and nothing else; it stays readable.
    unsafe {
        let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096);
        let start = address / page * page;
        let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let at = std::ptr::without_provenance_mut(start);
        libc::mmap(at, end - start, libc::PROT_READ, flags, -1, 0) != libc::MAP_FAILED
    }
}

/// Does what would have been done without this handler.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    type Plain = extern "C" fn(libc::c_int);
    type Informed = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    let before = BEFORE.load(SeqCst);
    // SAFETY: `BEFORE` is null or leaked from a box, and holds what the system gave, whose flags tell which
    // kind of function its address is.
    unsafe {
        let handler = if before.is_null() { libc::SIG_DFL } else { (*before).sa_sigaction };
        let again = PASSING.swap(true, SeqCst);
        if again || handler == libc::SIG_DFL || handler == libc::SIG_IGN {
            // The access is repeated on return, and then kills as it should.
            libc::signal(signal, libc::SIG_DFL);
        } else if (*before).sa_flags & libc::SA_SIGINFO != 0 {
            std::mem::transmute::<usize, Informed>(handler)(signal, info, context);
        } else {
            std::mem::transmute::<usize, Plain>(handler)(signal);
        }
        PASSING.store(false, SeqCst);
    }
}
