//! `balancer top`: all groups, live.
//!
//! | what | module |
//! | --- | --- |
//! | what is known of the groups at a moment | `reading` |
//! | what two moments tell together: rates and times (pure) | `figures` |
//! | what a key does to what is shown (pure) | `screen` |
//! | how it looks | `view` |

pub mod figures;
pub mod reading;
pub mod screen;
pub mod view;
