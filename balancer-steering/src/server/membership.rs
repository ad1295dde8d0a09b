//! A socket's place in a group, left when it is dropped.

use super::Group;
use crate::{
    error::Result,
    steering::{Reporter, Steering},
    weight::Weight,
};

/// A socket's place in a [`Group`]. When it is dropped, the socket gets no new connections while another
/// member can take them; the last one to leave ends the group, and the kernel's hash chooses again.
#[must_use = "the socket leaves the group when this is dropped"]
pub struct Membership(Option<Place>);

struct Place {
    group: Group,
    slot: u32,
    reporter: Reporter,
}

impl Membership {
    /// In a group that steers nothing.
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn of(group: Group, slot: u32, reporter: Reporter) -> Self {
        Self(Some(Place { group, slot, reporter }))
    }

    /// The socket's slot, as `balancer status` shows it; `None` if nothing is steered.
    pub fn slot(&self) -> Option<u32> {
        self.0.as_ref().map(|place| place.slot)
    }

    /// Changes the member's weight relative to the others.
    ///
    /// # Errors
    /// Returns an error if the group was given back to the kernel, or a map cannot be written.
    pub fn set_weight(&self, weight: Weight) -> Result<()> {
        let Some(Place { group, slot, .. }) = &self.0 else { return Ok(()) };
        let Some(mut steering) = group.steering() else { return Ok(()) };
        steering.change(|change| {
            change.set_weight(*slot, weight);
            Ok(())
        })
    }

    /// Says how much the member has to do, in any unit that all members share, for
    /// [`Metric::Reported`](crate::metric::Metric::Reported). A store into memory that the program reads.
    pub fn report(&self, load: u64) {
        if let Some(place) = &self.0 {
            place.reporter.report(load);
        }
    }

    /// Leaves the group, and says what went wrong if something did; dropping it leaves too, silently.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn leave(mut self) -> Result<()> {
        self.0.take().map_or(Ok(()), Place::leave)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(place) = self.0.take()
            && let Err(error) = place.leave()
        {
            tracing::warn!("a member could not leave its group: {error:#}");
        }
    }
}

impl Place {
    fn leave(self) -> Result<()> {
        let Some(steered) = self.group.steered() else { return Ok(()) };
        let mut steering = steered.lock();
        let Some(_lock) = steering.lock()? else { return Ok(()) };
        let mut others = false;
        for member in steering.members()? {
            others |= member.slot != self.slot && steering.is_seated(&member)?;
        }
        if others {
            steering.vacate(self.slot)?;
            return steering.publish();
        }
        // While the socket is still a member: through it the program is detached.
        let store = steered.store();
        Steering::open(&store, steering.name())?.detach(&store)
    }
}
