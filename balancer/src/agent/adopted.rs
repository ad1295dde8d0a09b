//! The agent of sockets that it has adopted.

use std::time::Duration;

use anyhow::Result;
use balancer_steering::{
    adoption::{Attachment, Look},
    snapshot::{MemberState, Snapshot},
    steering::Steering,
};
use tokio::time::sleep;

use super::{Flow, Kind, signals::Came, triggers::Triggers};
use crate::{console::Console, hindrance::Hindrance};

/// How soon is looked at first, and after a look that something was in the way of.
const AGAIN: Duration = Duration::from_millis(50);

/// How it ended.
#[derive(Debug)]
pub enum Ending {
    /// By a signal.
    Told,
    /// Another command gave the group back.
    GivenBack,
}

/// What it has adopted.
pub struct Adopted {
    attachment: Attachment,
    triggers: Triggers,
    hindrance: Hindrance,
}

impl Adopted {
    /// Of sockets that are attached.
    pub fn of(attachment: Attachment) -> Self {
        Self { attachment, triggers: Triggers::None, hindrance: Hindrance::default() }
    }

    /// Begins to watch them.
    ///
    /// # Errors
    /// If the kernel's events cannot be waited for.
    pub fn watch(&mut self) -> Result<()> {
        let steering = self.attachment.steering();
        let protocol = steering.group()?.identity.protocol;
        self.triggers = Triggers::start(protocol, steering)?;
        Ok(())
    }

    /// The group.
    pub fn steering(&self) -> &Steering {
        self.attachment.steering()
    }

    /// Ends to watch them.
    pub fn into_attachment(self) -> Attachment {
        self.attachment
    }

    /// Says what a look came to.
    fn tell(&mut self, look: Result<Look>, console: &Console) -> Flow<Ending> {
        match look {
            Ok(Look::GivenBack) => return Flow::Break(Ok(Ending::GivenBack)),
            Ok(Look::Lines(lines)) => {
                lines.iter().for_each(|line| console.line(line));
                if !self.attachment.is_overdue() {
                    self.hindrance.passed();
                }
            }
            // What is registered stays steered.
            Err(error) => {
                self.hindrance.met(&error).iter().for_each(|line| console.complain(line));
            }
        }
        Flow::Continue(())
    }

    fn look(&mut self, console: &Console) -> Flow<Ending> {
        let look = self.attachment.look();
        self.tell(look.map_err(Into::into), console)
    }
}

impl Kind for Adopted {
    type End = Ending;

    fn steering(&mut self) -> Result<&mut Steering> {
        Ok(self.attachment.steering_mut())
    }

    fn is_up(&self) -> bool {
        true
    }

    async fn next(&mut self, console: &mut Console) -> Flow<Ending> {
        let told = tokio::select! {
            told = self.triggers.next() => told,
            () = sleep(AGAIN), if self.attachment.is_overdue() => Ok(()),
        };
        match told {
            Ok(()) => self.look(console),
            Err(error) => self.tell(Err(error), console),
        }
    }

    /// The kernel tells of sockets that come, but not of those that go.
    fn looked(&mut self, snapshot: &Snapshot, console: &Console) -> Flow<Ending> {
        let gone = snapshot.members.iter().any(|member| member.state == MemberState::Dead);
        if gone || self.attachment.is_unsure() || self.attachment.is_overdue() {
            self.look(console)?;
        }
        let settled = self.attachment.settle();
        self.tell(settled.map_err(Into::into), console)
    }

    fn given_back(&mut self, _: &Console) -> Flow<Ending> {
        Flow::Break(Ok(Ending::GivenBack))
    }

    fn signalled(&mut self, _: Came, _: &mut Console) -> Flow<Ending> {
        Flow::Break(Ok(Ending::Told))
    }
}
