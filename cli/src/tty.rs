//! This terminal, as long as another one is shown in it.

use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// Every key goes through as it is; undone when dropped.
pub(crate) struct Raw(Option<Termios>);

impl Raw {
    /// Of standard input, if it is a terminal.
    pub(crate) fn enter() -> Raw {
        let stdin = std::io::stdin();
        let Ok(before) = tcgetattr(stdin.as_fd()) else { return Raw(None) };
        let mut raw = before.clone();
        raw.make_raw();
        let entered = tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw);
        Raw(entered.is_ok().then_some(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, before);
        }
    }
}

/// Whether keys are typed on a terminal, and shown on one.
pub(crate) fn is_one() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Rows and columns.
pub(crate) fn size() -> Option<(u16, u16)> {
    let stdout = std::io::stdout();
    tcgetwinsize(stdout.as_fd()).ok().map(|size| (size.ws_row, size.ws_col)).filter(|(rows, _)| *rows > 0)
}

/// What is typed, piece by piece; its end is the end of the input.
pub(crate) fn typed() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(16);
    // A thread of its own: nobody can make it stop waiting, and the program ends without it.
    std::thread::spawn(move || {
        let mut bytes = [0; 16 << 10];
        while let Ok(count) = std::io::stdin().lock().read(&mut bytes) {
            if count == 0 || sender.blocking_send(bytes[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The keys that leave what is shown without ending it: Ctrl-P Ctrl-Q.
const LEAVE: [u8; 2] = [0x10, 0x11];

/// Looks for the keys that leave.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    first: bool,
}

impl Keys {
    /// What of these is passed on; and whether the keys to leave came.
    pub(crate) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len() + 1);
        for byte in typed {
            match (std::mem::take(&mut self.first), *byte) {
                (true, byte) if byte == LEAVE[1] => return (passed, true),
                (true, byte) => {
                    passed.push(LEAVE[0]);
                    if byte == LEAVE[0] {
                        self.first = true;
                    } else {
                        passed.push(byte);
                    }
                }
                (false, byte) if byte == LEAVE[0] => self.first = true,
                (false, byte) => passed.push(byte),
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_leave_and_each_alone_is_passed_on() {
        let mut keys = Keys::default();
        assert_eq!(keys.filter(b"ls\n"), (b"ls\n".to_vec(), false));
        assert_eq!(keys.filter(&[0x11, 0x10]), (vec![0x11], false));
        assert_eq!(keys.filter(b"x"), (vec![0x10, b'x'], false));
        assert_eq!(keys.filter(&[0x10, 0x10]), (vec![0x10], false));
        assert_eq!(keys.filter(&[0x11, b'x']), (Vec::new(), true));
    }
}
