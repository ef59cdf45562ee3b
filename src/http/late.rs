//! What clients are told that ask for what cannot be done yet: to wait, in the words that keep each of them from leaving.
//!
//! Such a request is held first, for nearly as long as its client waits: the end of what hinders it may come, or the end of
//! this process, after which clients repeat what broke off to the next one. Nothing is acknowledged here.

use std::time::Duration;

use super::client_api;
use super::wire::{Answer, Code};

/// How long a request is held. Clients give it 5 s.
pub const HELD_FOR: Duration = Duration::from_secs(4);
const UNWRITABLE: &str = "the database cannot be written now, repeat it";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// 602: asked again soon.
    Wait,
    /// 609: registers again soon.
    WaitAuth,
    /// HTTP 503: the client repeats it, or does without.
    Unavailable,
}

impl Late {
    pub fn answer(self, why: &str) -> Answer {
        match self {
            // With the words of every 602.
            Self::Wait => Answer::message(Code::Wait, "client sucCount:0,cdn status:Waiting,cdn sucCount: 0"),
            Self::WaitAuth => Answer::because(Code::WaitAuth, why),
            Self::Unavailable => client_api::unready(why),
        }
    }

    /// The answer where a change cannot be made durable: this process will not do it any more, and the next one may.
    pub async fn unwritable(self) -> Answer {
        self.unwritable_after(HELD_FOR).await
    }

    pub async fn unwritable_after(self, held_for: Duration) -> Answer {
        tokio::time::sleep(held_for).await;
        self.answer(UNWRITABLE)
    }
}
