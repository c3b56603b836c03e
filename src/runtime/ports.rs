//! Ports for the services of an arm: free ones, or the ones the workload asks for.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpListener},
};

use super::RuntimeError;
use crate::model::workload::Workload;

/// Below the usual range of ephemeral ports, so that no outgoing connection takes one in between.
const FIRST_FREE: u16 = 20_000;
const LAST_FREE: u16 = 32_000;

/// Left after each service, so that scaling it up does not take the next one's port.
const ROOM_TO_SCALE: u16 = 8;

/// Hands out ports, each once.
#[derive(Debug)]
pub struct PortAllocator {
    next: u16,
    fixed: bool,
}

impl PortAllocator {
    /// Starts at `first` when the workload asks for certain ports, else somewhere in the free range that depends
    /// on this process, so that two sessions seldom meet.
    pub fn new(first: Option<u16>) -> Self {
        let spread = LAST_FREE - FIRST_FREE;
        let start = FIRST_FREE + (std::process::id().wrapping_mul(97) % u32::from(spread)) as u16;
        Self { next: first.unwrap_or(start), fixed: first.is_some() }
    }

    /// The first port of each HTTP service of one arm, with room for its instances.
    ///
    /// # Errors
    /// [`RuntimeError::PortTaken`] when a port that the workload asks for is in use, or no free ones are left.
    pub fn for_arm(&mut self, workload: &Workload) -> Result<BTreeMap<String, u16>, RuntimeError> {
        let mut ports = BTreeMap::new();
        for service in workload.services.iter().filter(|service| service.http.is_some()) {
            let count = service.most_instances().min(256) as u16;
            ports.insert(service.name.clone(), self.take(count, &service.name)?);
            if !self.fixed {
                self.next = self.next.saturating_add(ROOM_TO_SCALE);
            }
        }
        Ok(ports)
    }

    fn take(&mut self, count: u16, service: &str) -> Result<u16, RuntimeError> {
        for _ in 0..(LAST_FREE - FIRST_FREE) {
            let first = self.next;
            if first.checked_add(count).is_none() {
                // Beyond the last port there is; only ports asked for can come to this.
                return Err(RuntimeError::PortTaken { port: first, service: service.to_owned() });
            }
            let taken = (first..first.saturating_add(count)).find(|port| !is_free(*port));
            match taken {
                None => {
                    self.next = first.saturating_add(count);
                    return Ok(first);
                }
                Some(port) if self.fixed => {
                    return Err(RuntimeError::PortTaken { port, service: service.to_owned() });
                }
                Some(port) => self.next = if port >= LAST_FREE { FIRST_FREE } else { port + 1 },
            }
        }
        Err(RuntimeError::PortTaken { port: self.next, service: service.to_owned() })
    }
}

fn is_free(port: u16) -> bool {
    // On every address: a container published on 0.0.0.0 would shadow loopback too.
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
        && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_passed_over_or_reported() {
        let busy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = busy.local_addr().unwrap().port();
        let mut fixed = PortAllocator::new(Some(port));
        assert!(matches!(fixed.take(1, "web"), Err(RuntimeError::PortTaken { port: p, .. }) if p == port));
        let mut free = PortAllocator { next: port, fixed: false };
        assert_ne!(free.take(2, "web").unwrap(), port);
    }

    #[test]
    fn ports_are_handed_out_once() {
        let mut ports = PortAllocator::new(None);
        let first = ports.take(3, "a").unwrap();
        let second = ports.take(1, "b").unwrap();
        assert!(second >= first + 3 || second < first);
    }
}
