//! A service: the groups of one server with several addresses, under one name. Each group's record has that
//! name, and there is no other state.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// The longest name, in octets.
const LONGEST: usize = 32;

/// The name of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceName([u8; LONGEST]);

/// Why a text cannot be a service's name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot be a service's name; use 1 to {LONGEST} of a-z, A-Z, 0-9, - and _")]
pub struct ServiceNameError(String);

fn is_allowed(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_'
}

impl ServiceName {
    /// As a group's record holds it, filled up with zeros; all zeros for none.
    pub fn to_record(service: Option<Self>) -> [u8; LONGEST] {
        service.map_or([0; LONGEST], |Self(octets)| octets)
    }

    /// The inverse of [`ServiceName::to_record`].
    ///
    /// # Errors
    /// Returns an error if these octets are of a stranger's making.
    pub fn from_record(octets: [u8; LONGEST]) -> Result<Option<Self>, ServiceNameError> {
        let shown = String::from_utf8_lossy(&octets);
        let name = shown.trim_end_matches('\0');
        if name.is_empty() { Ok(None) } else { name.parse().map(Some) }
    }
}

impl FromStr for ServiceName {
    type Err = ServiceNameError;

    fn from_str(text: &str) -> Result<Self, ServiceNameError> {
        let mut octets = [0; LONGEST];
        match octets.get_mut(..text.len()) {
            Some(room) if !room.is_empty() && text.bytes().all(is_allowed) => {
                room.copy_from_slice(text.as_bytes());
                Ok(Self(octets))
            }
            _ => Err(ServiceNameError(text.to_owned())),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take_while(|&&octet| octet != 0).try_for_each(|&o| write!(f, "{}", o as char))
    }
}

impl Serialize for ServiceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_name_survives_the_record(name in "[a-zA-Z0-9_-]{1,32}") {
            let service: ServiceName = name.parse().unwrap();
            prop_assert_eq!(service.to_string(), name);
            let record = ServiceName::to_record(Some(service));
            prop_assert_eq!(ServiceName::from_record(record), Ok(Some(service)));
        }

        #[test]
        fn no_record_makes_the_reader_panic(octets: [u8; LONGEST], text: String) {
            if let Ok(service) = ServiceName::from_record(octets) {
                prop_assert_eq!(ServiceName::to_record(service), octets);
            }
            let _ = text.parse::<ServiceName>();
        }
    }

    #[test]
    fn a_group_of_no_service_has_zeros() {
        assert_eq!(ServiceName::from_record(ServiceName::to_record(None)), Ok(None));
    }

    #[test]
    fn what_cannot_be_a_name_is_refused_by_its_value() {
        for text in ["", "a.b", "a b", "ä", "/x", &"a".repeat(33)] {
            let error = text.parse::<ServiceName>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
