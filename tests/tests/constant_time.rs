//! Share arithmetic takes the same path whatever the secret: counted, instruction
//! by instruction.
//!
//! A forked child runs one operation between two stops; the parent single-steps
//! it and compares the number of instructions and the addresses they stand at.
//! Equal traces over random and extreme secrets mean that no branch, no loop
//! length and no early exit depends on them. Controls that do branch on a secret
//! must be told apart, else the measurement is worth nothing. What it cannot see
//! (addresses of data, hence tables) is argued in `docs/constant-time.md`.
//!
//! Counting needs no quiet machine and no performance counters. Without ptrace the
//! test says that it skips; with `CI=true` that is a failure.
//!
//! This target has no harness: forking is only sound in a process of one thread.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use quorate_engine::sharing::{
    ValidThreshold, combine, combine_bytes, commitment, commitment_holds, split, split_bytes,
};
use quorate_engine::types::{CustodianId, DataKey, KeyId, Secret, Share, Structure};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use single_step::{Trace, Traced};
use std::cell::RefCell;
use std::hint::black_box;

/// Random secrets for each operation.
const RANDOM_SECRETS: u64 = 32;

/// A secret of the measurement and a generator for the coefficients.
struct Case {
    name: String,
    key: [u8; 32],
    rng: ChaCha20Rng,
}

fn cases() -> Vec<Case> {
    let mut extremes = vec![("all zeros", [0; 32]), ("all ones", [0xff; 32])];
    let mut one_bit = [0; 32];
    one_bit[31] = 0x80;
    extremes.push(("one bit", one_bit));
    let mut half = [0; 32];
    half[..16].fill(0xff);
    extremes.push(("half", half));
    // Generators are fresh: how much of a buffered block is used up is no secret,
    // but it would show.
    let random = (0..RANDOM_SECRETS).map(|seed| {
        let mut key = [0; 32];
        ChaCha20Rng::seed_from_u64(seed).fill_bytes(&mut key);
        Case {
            name: format!("seed {seed}"),
            key,
            rng: ChaCha20Rng::seed_from_u64(2_000 + seed),
        }
    });
    let extreme = extremes.into_iter().map(|(name, key)| Case {
        name: name.into(),
        key,
        rng: ChaCha20Rng::seed_from_u64(1_000),
    });
    extreme.chain(random).collect()
}

fn id(name: &str) -> CustodianId {
    CustodianId::new(name).unwrap()
}

/// Any 3 of br, ch, (any 2 of de, nl), is, sg: an inner gate with a coefficient of its own.
fn structure() -> Structure {
    let leaf = |name| Structure::Leaf(id(name));
    let eu = Structure::Gate {
        threshold: 2,
        children: vec![leaf("de"), leaf("nl")],
    };
    Structure::Gate {
        threshold: 3,
        children: vec![leaf("br"), leaf("ch"), eu, leaf("is"), leaf("sg")],
    }
}

fn key(case: &Case) -> DataKey {
    DataKey(Secret::from_slice(&case.key).unwrap())
}

/// One operation, its inputs prepared before the count starts.
type Prepare = fn(&Case) -> Box<dyn Fn()>;

fn prepare_split(case: &Case) -> Box<dyn Fn()> {
    let (structure, key, rng) = (structure(), key(case), RefCell::new(case.rng.clone()));
    Box::new(move || {
        drop(black_box(
            split(&structure, &key, &mut *rng.borrow_mut()).unwrap(),
        ))
    })
}

fn prepare_combine(case: &Case) -> Box<dyn Fn()> {
    let structure = structure();
    let shares = split(&structure, &key(case), &mut case.rng.clone()).unwrap();
    Box::new(move || {
        // br, de, nl, sg: the inner gate is combined too.
        let chosen = [0, 2, 3, 5].map(|i: usize| (shares[i].0.clone(), &shares[i].1));
        drop(black_box(combine(&structure, &chosen).unwrap()));
    })
}

fn prepare_split_bytes(case: &Case) -> Box<dyn Fn()> {
    let threshold = ValidThreshold::new(3, 5).unwrap();
    let (key, rng) = (case.key, RefCell::new(case.rng.clone()));
    Box::new(move || {
        drop(black_box(
            split_bytes(threshold, &key, &mut *rng.borrow_mut()).unwrap(),
        ))
    })
}

fn prepare_combine_bytes(case: &Case) -> Box<dyn Fn()> {
    let threshold = ValidThreshold::new(3, 200).unwrap();
    let shares = split_bytes(threshold, &case.key, &mut case.rng.clone()).unwrap();
    Box::new(move || {
        let points = [199, 4, 77].map(|i: usize| (shares[i].0, shares[i].1.as_slice()));
        drop(black_box(combine_bytes(3, &points).unwrap()));
    })
}

fn prepare_commitment(case: &Case) -> Box<dyn Fn()> {
    let (key_id, leaf) = (KeyId([3; 16]), id("ch"));
    let share = Share(Secret::from_slice(&case.key).unwrap());
    let mut expected = commitment(&key_id, &leaf, &share);
    // Wrong at a place that differs from case to case; right for some.
    let at = usize::from(case.key[0] % 40);
    if let Some(byte) = expected.get_mut(at) {
        *byte ^= 1;
    }
    Box::new(move || {
        black_box(commitment_holds(&key_id, &leaf, &share, &expected));
    })
}

/// Control: multiplication that stops when no bits are left.
fn prepare_leaky_product(case: &Case) -> Box<dyn Fn()> {
    let secret = case.key;
    Box::new(move || {
        for byte in secret {
            let (mut a, mut b, mut product) = (0x53u8, byte, 0u8);
            while black_box(b) != 0 {
                if b & 1 == 1 {
                    product ^= a;
                }
                a = (a << 1) ^ (0x1b * (a >> 7));
                b >>= 1;
            }
            black_box(product);
        }
    })
}

/// Control: comparison that stops at the first difference.
fn prepare_leaky_comparison(case: &Case) -> Box<dyn Fn()> {
    let (secret, mut guess) = (case.key, case.key);
    guess[usize::from(case.key[0] % 32)] ^= 1;
    Box::new(move || {
        let same = secret
            .iter()
            .zip(&guess)
            .all(|(a, b)| black_box(a) == black_box(b));
        black_box(same);
    })
}

/// The distinct traces over all secrets, with the place of the first case of each.
///
/// Between two forks this process allocates nothing, so that every child starts
/// with the same heap: else the allocator's path would differ from case to case.
fn distinct(cases: &[Case], prepare: Prepare) -> Result<Vec<(Trace, usize)>, String> {
    let mut found: Vec<(Trace, usize)> = Vec::with_capacity(cases.len());
    for (place, case) in cases.iter().enumerate() {
        match single_step::trace(&|| prepare(case)) {
            Traced::Finished(trace) if found.iter().any(|(t, _)| *t == trace) => {}
            Traced::Finished(trace) => found.push((trace, place)),
            Traced::Unavailable(why) => return Err(why),
            Traced::Failed(why) => panic!("{}: {why}", case.name),
        }
    }
    Ok(found)
}

fn run() -> Result<(), String> {
    single_step::stay_on_one_processor();
    let measured: [(&str, Prepare); 5] = [
        ("split along a structure", prepare_split),
        ("combine along a structure", prepare_combine),
        ("split_bytes", prepare_split_bytes),
        ("combine_bytes", prepare_combine_bytes),
        ("commitment_holds", prepare_commitment),
    ];
    let controls: [(&str, Prepare); 2] = [
        ("control: product with an early exit", prepare_leaky_product),
        (
            "control: comparison with an early exit",
            prepare_leaky_comparison,
        ),
    ];
    let cases = cases();
    for (what, prepare) in controls {
        let traces = distinct(&cases, prepare)?;
        println!("{what}: {} different traces", traces.len());
        assert!(
            traces.len() > 1,
            "{what} was not told apart: the measurement is blind"
        );
    }
    for (what, prepare) in measured {
        let traces = distinct(&cases, prepare)?;
        println!(
            "{what}: {} instructions, {} trace",
            traces[0].0.steps,
            traces.len()
        );
        assert!(traces[0].0.steps > 100, "{what}: nothing was measured");
        assert!(
            traces.len() == 1,
            "{what} depends on the secret: {traces:?}"
        );
    }
    Ok(())
}

fn main() {
    // What cargo and other runners pass to a test without a harness.
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|a| a == "--list") {
        println!("constant_time: test");
        return;
    }
    let filter = args.iter().find(|a| !a.starts_with('-'));
    if filter.is_some_and(|f| !"constant_time".contains(f.as_str())) {
        return;
    }
    match run() {
        Ok(()) => println!("test constant_time ... ok"),
        Err(why) if std::env::var("CI").is_ok_and(|v| v == "true") => {
            panic!("cannot single-step here: {why}; CI must be able to")
        }
        Err(why) => println!("test constant_time ... SKIPPED: cannot single-step here: {why}"),
    }
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
mod single_step {
    //! Counting a child's instructions with ptrace(2).

    use std::io::Error;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Most instructions one operation may take before something is wrong.
    const STEPS_MAX: u64 = 5_000_000;
    const EXIT_NO_PTRACE: i32 = 42;
    const EXIT_PANIC: i32 = 43;

    /// What was executed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Trace {
        /// Instructions between the two stops.
        pub steps: u64,
        /// Hash (FNV-1a) of the addresses they stand at; 0 where they are not read.
        pub path: u64,
    }

    /// The outcome of tracing, apart from that of the operation.
    pub enum Traced {
        Finished(Trace),
        Unavailable(String),
        Failed(String),
    }

    /// Keeps this process and its children on the processor it runs on: handing over
    /// within one is several times faster. A refusal only costs time.
    pub fn stay_on_one_processor() {
        // SAFETY: the set lives on our stack, is zeroed (an empty set) and of the size
        // that is passed.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            if let Ok(cpu) = usize::try_from(libc::sched_getcpu()) {
                libc::CPU_SET(cpu, &mut set);
                libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
            }
        }
    }

    /// Prepares an operation in a child, then follows it there. The process must
    /// have one thread.
    pub fn trace(prepare: &dyn Fn() -> Box<dyn Fn()>) -> Traced {
        // SAFETY: this process has one thread (the target has no harness and spawns
        // none), so the child inherits no lock held by another. The child only runs
        // the operation and leaves with `_exit`.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Traced::Unavailable(format!("fork: {}", Error::last_os_error())),
            0 => child(prepare),
            pid => follow(pid),
        }
    }

    fn child(prepare: &dyn Fn() -> Box<dyn Fn()>) -> ! {
        let operation = prepare();
        // SAFETY: plain system calls without pointers into our memory; `_exit` skips
        // destructors, which belong to the parent.
        unsafe {
            if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == -1 {
                libc::_exit(EXIT_NO_PTRACE);
            }
            libc::raise(libc::SIGSTOP);
            let outcome = catch_unwind(AssertUnwindSafe(&*operation));
            libc::raise(libc::SIGSTOP);
            libc::_exit(if outcome.is_ok() { 0 } else { EXIT_PANIC });
        }
    }

    fn wait(pid: i32) -> i32 {
        let mut status = 0;
        // SAFETY: `status` outlives the call; `pid` is our own child.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        assert_eq!(waited, pid, "waitpid: {}", Error::last_os_error());
        status
    }

    fn instruction_address(pid: i32) -> u64 {
        #[cfg(target_arch = "x86_64")]
        {
            let rip = std::mem::offset_of!(libc::user, regs)
                + std::mem::offset_of!(libc::user_regs_struct, rip);
            // SAFETY: reads one word of the stopped child's registers; nothing is written.
            let word = unsafe { libc::ptrace(libc::PTRACE_PEEKUSER, pid, rip, 0) };
            word.cast_unsigned()
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = pid;
            0
        }
    }

    fn follow(pid: i32) -> Traced {
        let status = wait(pid);
        if libc::WIFEXITED(status) {
            return Traced::Unavailable("the child may not be traced".into());
        }
        let mut trace = Trace {
            steps: 0,
            path: 0xcbf2_9ce4_8422_2325,
        };
        let outcome = loop {
            // SAFETY: the child is stopped and traced by us; no pointers are passed.
            if unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, pid, 0, 0) } == -1 {
                break Traced::Unavailable(format!(
                    "PTRACE_SINGLESTEP: {}",
                    Error::last_os_error()
                ));
            }
            let status = wait(pid);
            if !libc::WIFSTOPPED(status) {
                return Traced::Failed(format!("the child ended early, status {status:#x}"));
            }
            match libc::WSTOPSIG(status) {
                libc::SIGTRAP if trace.steps < STEPS_MAX => {
                    trace.steps += 1;
                    trace.path =
                        (trace.path ^ instruction_address(pid)).wrapping_mul(0x100_0000_01b3);
                }
                libc::SIGTRAP => break Traced::Failed(format!("over {STEPS_MAX} instructions")),
                libc::SIGSTOP => break finish(pid, trace),
                signal => break Traced::Failed(format!("the child got signal {signal}")),
            }
        };
        if !matches!(outcome, Traced::Finished(_)) {
            // SAFETY: `pid` is our own child, not yet waited for, so the id is still its.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            wait(pid);
        }
        outcome
    }

    /// Lets the child run to its end; a panic in the operation shows in its status.
    fn finish(pid: i32, trace: Trace) -> Traced {
        // SAFETY: the child is stopped and traced by us; no pointers are passed.
        if unsafe { libc::ptrace(libc::PTRACE_CONT, pid, 0, 0) } == -1 {
            return Traced::Failed(format!("PTRACE_CONT: {}", Error::last_os_error()));
        }
        let status = wait(pid);
        if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
            Traced::Finished(trace)
        } else {
            // It is gone already; killing it again would be somebody else.
            panic!("the operation panicked in the child, status {status:#x}");
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod single_step {
    //! Only Linux's ptrace is used.

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Trace {
        pub steps: u64,
        pub path: u64,
    }
    pub enum Traced {
        Finished(Trace),
        Unavailable(String),
        Failed(String),
    }
    pub fn stay_on_one_processor() {}
    pub fn trace(_prepare: &dyn Fn() -> Box<dyn Fn()>) -> Traced {
        Traced::Unavailable("not Linux".into())
    }
}
