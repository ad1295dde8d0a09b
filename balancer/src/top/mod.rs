//! `balancer top`: all groups, live.
//!
//! | what | module |
//! | --- | --- |
//! | what is known of the groups at a moment | `reading` |
//! | what two moments tell together: rates and times (pure) | `figures` |
//! | what a key does to what is shown (pure) | `screen` |
//! | what is asked before a group is changed (pure) | `dialogue` |
//! | how it looks | `view` |
//! | changes to a group, in a thread of their own | `changer` |

pub mod changer;
pub mod dialogue;
pub mod figures;
pub mod reading;
pub mod screen;
pub mod view;
