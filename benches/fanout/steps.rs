//! A shard's thread, walked instruction by instruction from one write to the next: which of them
//! lock the bus, as every atomic that changes something does.
//!
//! Reads of x86-64's instructions only what that takes: prefixes, and the opcodes of `xchg`, which
//! locks without one, and of `syscall`.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, ensure};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::process::Process;

/// Linux's numbers on x86-64.
const WRITE: u64 = 1;
const WRITEV: u64 = 20;
const SENDTO: u64 = 44;
const SENDMSG: u64 = 46;

/// All that was walked.
#[derive(Debug, Default)]
pub struct Walked {
    pub gaps: Vec<Gap>,
    /// Of the locked instructions between two writes of a slice: in which file, and how many.
    pub places: BTreeMap<String, u64>,
}

/// What lay between two writes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gap {
    /// In user space.
    pub instructions: u64,
    pub locked: u64,
    /// System calls other than the write.
    pub calls: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Instruction {
    Call,
    Locked,
    Other,
}

/// Walks a thread until it has written `count` times more than once. What it is busy with has to
/// come from another thread than this one, which waits.
pub fn between_writes(process: Process, thread: u32, count: usize) -> anyhow::Result<Walked> {
    let files = process.code()?;
    let thread = Pid::from_raw(thread.try_into()?);
    ptrace::attach(thread).context("cannot walk the gateway's thread (ptrace)")?;
    let walked = stop(thread).and_then(|_| walk(thread, count, &files));
    ptrace::detach(thread, None)?;
    walked
}

fn walk(thread: Pid, count: usize, files: &[(Range<u64>, String)]) -> anyhow::Result<Walked> {
    let mut walked = Walked::default();
    let mut gap: Option<Gap> = None;
    let mut places = Vec::new();
    let mut signal = None;
    while walked.gaps.len() < count {
        let registers = ptrace::getregs(thread)?;
        let address = usize::try_from(registers.rip)?;
        let word = ptrace::read(thread, std::ptr::without_provenance_mut(address))?;
        let instruction = Instruction::of(word.to_le_bytes());
        let writes = instruction == Instruction::Call
            && matches!(registers.rax, WRITE | WRITEV | SENDTO | SENDMSG);
        if writes {
            if let Some(gap) = gap.replace(Gap::default()) {
                walked.gaps.push(gap);
                if gap.calls == 0 {
                    places.drain(..).for_each(|file| *walked.places.entry(file).or_default() += 1);
                }
            }
            places.clear();
        } else if let Some(Gap { instructions, locked, calls }) = &mut gap {
            *instructions += 1;
            *calls += u64::from(instruction == Instruction::Call);
            if instruction == Instruction::Locked {
                *locked += 1;
                let file = files.iter().find(|(code, _)| code.contains(&registers.rip));
                places.push(file.map_or_else(String::new, |(_, name)| name.clone()));
            }
        }
        ptrace::step(thread, signal)?;
        signal = stop(thread)?;
    }
    Ok(walked)
}

/// Waits until the thread stands still; a signal that has to be handed on.
fn stop(thread: Pid) -> anyhow::Result<Option<Signal>> {
    let status = waitpid(thread, Some(WaitPidFlag::__WALL))?;
    let WaitStatus::Stopped(_, signal) = status else {
        anyhow::bail!("the thread does not stop: {status:?}");
    };
    ensure!(signal != Signal::SIGSEGV, "the thread has crashed");
    Ok((signal != Signal::SIGTRAP && signal != Signal::SIGSTOP).then_some(signal))
}

impl Instruction {
    fn of(bytes: [u8; 8]) -> Instruction {
        let mut at = 0;
        while let Some(prefix) = bytes.get(at) {
            match prefix {
                0xf0 => return Instruction::Locked,
                0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf2 | 0xf3 | 0x40..=0x4f => at += 1,
                _ => break,
            }
        }
        match bytes[at.min(6)..] {
            [0x0f, 0x05, ..] => Instruction::Call,
            // With memory, not between two registers.
            [0x86 | 0x87, operands, ..] if operands < 0xc0 => Instruction::Locked,
            _ => Instruction::Other,
        }
    }
}
